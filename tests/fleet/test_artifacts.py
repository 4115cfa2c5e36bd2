"""What an artifact's files are: by size without reading, by hash once, and never outside its folder."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from outpace.fleet.artifacts import Artifact, Hashes, Piece, is_here, listed, require_safe
from outpace.values.errors import InvalidInput, WeightsInvalid


def _folder(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_bytes(b"{}")
    (root / "sub" / "a.safetensors").write_bytes(b"abc")
    return root


def test_a_folder_is_all_its_files_and_a_file_is_itself(tmp_path: Path) -> None:
    folder = listed(_folder(tmp_path / "m"))
    assert folder is not None
    assert [piece.name for piece in folder.pieces] == ["config.json", "sub/a.safetensors"]
    assert folder.size_bytes == 5
    file = listed(tmp_path / "m" / "config.json")
    assert file is not None
    assert not file.is_folder
    assert listed(tmp_path / "nothing") is None


def test_the_hash_of_a_folder_is_over_names_sizes_and_contents(tmp_path: Path) -> None:
    one, two = _folder(tmp_path / "one"), _folder(tmp_path / "two")
    hashes = Hashes()

    def digest(path: Path) -> str:
        found = listed(path)
        assert found is not None
        return hashes.hashed(found).sha256

    assert digest(one) == digest(two)
    (two / "sub" / "a.safetensors").write_bytes(b"abd")
    assert digest(one) != digest(two)
    assert digest(one / "config.json") == hashlib.sha256(b"{}").hexdigest()


def test_what_was_hashed_when_it_was_pulled_or_made_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"abc")
    status = path.stat()
    record = {"sha256": "f" * 64, "size_bytes": 3, "mtime_ns": status.st_mtime_ns, "inode": 1}
    (tmp_path / "artifact.json").write_bytes(msgspec.json.encode(record))
    found = listed(path)
    assert found is not None
    assert Hashes().hashed(found).sha256 == "f" * 64
    (tmp_path / "artifact.json").write_bytes(msgspec.json.encode({**record, "mtime_ns": 1}))
    assert Hashes().hashed(found).sha256 == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    gone = Artifact(path=str(tmp_path / "m.gguf"), is_folder=False, pieces=(Piece(name="m", size_bytes=1),))
    with pytest.raises(WeightsInvalid, match=r"m\.gguf cannot be read: No such file"):
        Hashes().hashed(gone)


def test_the_same_path_counts_only_with_the_same_sizes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"abc")
    found = listed(path)
    assert found is not None
    assert is_here(found)
    path.write_bytes(b"ab")
    assert not is_here(found)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b"])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="unsafe name"):
        require_safe(Artifact(path="/m", is_folder=True, pieces=(Piece(name=name, size_bytes=1),)))
