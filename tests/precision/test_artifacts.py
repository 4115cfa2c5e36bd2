"""Made artifacts: whole or not at all, verified, made once."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from outpace.precision.artifacts import Lineage, MadeStore, NothingMade, scratch_beside
from outpace.values.errors import StorageFailed, WeightsInvalid

LINEAGE = Lineage(model="m", source_sha256="a" * 64, source_format="q4_1", format="f16", tool="t")


def write(folder: Path) -> None:
    (folder / "weights.gguf").write_bytes(b"weights")


def refuse(folder: Path) -> None:
    raise AssertionError("it is there already")


def test_it_is_made_once(tmp_path: Path) -> None:
    store = MadeStore(tmp_path)
    made = store.make(LINEAGE, 0, write)
    again = store.make(LINEAGE, 0, refuse)
    assert (made.was_present, again.was_present) == (False, True)
    assert again.path.read_bytes() == b"weights"
    assert again.record.lineage == LINEAGE


def test_another_lineage_is_another_artifact(tmp_path: Path) -> None:
    store = MadeStore(tmp_path)
    store.make(LINEAGE, 0, write)
    assert store.find(msgspec.structs.replace(LINEAGE, calibration_sha256="b" * 64)) is None


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()]
)
def test_a_maker_that_fails_half_way_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise failure

    store = MadeStore(tmp_path)
    expected = StorageFailed if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        store.make(LINEAGE, 0, fail)
    assert store.find(LINEAGE) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts] == []
    assert store.make(LINEAGE, 0, write).path.exists()


def test_what_a_killed_maker_left_is_made_anew(tmp_path: Path) -> None:
    staging = tmp_path / "made" / "staging" / LINEAGE.key
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"x")
    made = MadeStore(tmp_path).make(LINEAGE, 0, write)
    assert [file.name for file in made.record.files] == ["weights.gguf"]


def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="free"):
        MadeStore(tmp_path).make(LINEAGE, 1 << 60, refuse)


def test_a_maker_without_a_file_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(NothingMade):
        MadeStore(tmp_path).make(LINEAGE, 0, lambda folder: None)


def test_a_changed_file_is_found_and_made_anew(tmp_path: Path) -> None:
    store = MadeStore(tmp_path)
    path = store.make(LINEAGE, 0, write).path
    path.chmod(0o644)
    path.write_bytes(b"changed")
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsInvalid, match="changed"):
        store.find(LINEAGE)
    assert store.make(LINEAGE, 0, write).path.read_bytes() == b"weights"


def test_what_is_not_used_is_collected(tmp_path: Path) -> None:
    store = MadeStore(tmp_path)
    other = msgspec.structs.replace(LINEAGE, format="q8_0")
    store.make(LINEAGE, 0, write)
    store.make(other, 0, write)
    assert store.collect(frozenset({LINEAGE.key})) == len(b"weights")
    assert store.find(other) is None
    assert store.find(LINEAGE) is not None


def test_scratch_goes_with_what_was_made_and_with_what_was_killed(tmp_path: Path) -> None:
    store = MadeStore(tmp_path)
    killed = tmp_path / "made" / "staging" / f"{LINEAGE.key}.scratch"
    killed.mkdir(parents=True)
    (killed / "half").write_bytes(b"half")

    def make(folder: Path) -> None:
        (scratch_beside(folder) / "between").write_bytes(b"16 bit")
        write(folder)

    store.make(LINEAGE, 0, make)
    assert not killed.exists()
    killed.mkdir()
    (killed / "half").write_bytes(b"half")
    assert store.collect(frozenset({LINEAGE.key})) == len(b"half")
    assert list(killed.parent.iterdir()) == []
