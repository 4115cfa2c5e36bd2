"""Files that are whole, whatever happens."""

import errno
from pathlib import Path

import pytest

from outpace.values.disk import bytes_below, sync, write_whole, writing_weights
from outpace.values.errors import StorageFailed


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    place = tmp_path / "record.json"
    write_whole(place, b"old")
    write_whole(place, b"new")
    assert place.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [place]


def test_what_cannot_be_replaced_stays_and_leaves_no_part(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    (place / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        write_whole(place, b"new")
    assert list(tmp_path.iterdir()) == [place]


def test_bytes_of_all_files_below_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"678")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert bytes_below(tmp_path) == 8
    assert bytes_below(tmp_path / "nowhere") == 0


def test_a_file_and_a_folder_can_be_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    sync(tmp_path / "file")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nowhere")


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    told = "No space left on device; free some space, or buy a disk"
    with pytest.raises(StorageFailed, match=told), writing_weights(tmp_path, "buy a disk"):
        raise OSError(errno.ENOSPC, "No space left on device")
