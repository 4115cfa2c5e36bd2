"""Files in memory: what is there, what is read in, and what is left alone."""

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines import pagecache
from outpace.engines.pagecache import _runs, available_bytes, read_in, resident


def _evicted(path: Path) -> int:
    """Ask the kernel to drop the file; bytes that it really dropped (a file system in memory drops none)."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    seen = resident(path)
    return seen.file_bytes - seen.resident_bytes


def test_what_was_dropped_is_read_in_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3_000_001))
    dropped_bytes = _evicted(path)
    seen = read_in(path)
    assert (seen.file_bytes, seen.resident_bytes, seen.read_bytes) == (3_000_001, 3_000_001, dropped_bytes)
    assert resident(path) == (3_000_001, 3_000_001, 0)


def test_a_file_that_would_push_others_out_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1_000_000))
    dropped_bytes = _evicted(path)
    monkeypatch.setattr(pagecache, "available_bytes", lambda: 0)
    seen = read_in(path)
    assert (seen.read_bytes, seen.resident_bytes) == (0, 1_000_000 - dropped_bytes)


def test_an_empty_file_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_in(tmp_path / "empty") == (0, 0, 0)
    with pytest.raises(OSError, match="No such file"):
        read_in(tmp_path / "absent")


def test_the_kernel_tells_what_is_available() -> None:
    assert available_bytes() > 0


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(1, mmap.PAGESIZE))
def test_runs_cover_the_missing_pages_and_nothing_else(pages: list[bool], last_bytes: int) -> None:
    length = (len(pages) - 1) * mmap.PAGESIZE + last_bytes
    covered = [False] * len(pages)
    for start, size in _runs(bytes(pages), length):
        assert start % mmap.PAGESIZE == 0
        assert 0 < size <= length - start
        for page in range(start // mmap.PAGESIZE, -(-(start + size) // mmap.PAGESIZE)):
            covered[page] = True
    assert covered == [not there for there in pages]
