"""The journal: what it keeps when the disk refuses, and what a reader makes of any bytes."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.metering.requests import AT_S, marked, reserved, settled

from outpace.metering import (
    BadLine,
    JournalReader,
    JournalUnwritable,
    JournalWriter,
    is_writer_alive,
    journal,
    journal_files,
)
from outpace.values import records
from outpace.values.records import LoadSeen, Record, Refused


@contextmanager
def _full_disk(most_bytes: int) -> Iterator[None]:
    """The kernel takes no file beyond this size: short writes first, then errors."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _read(path: Path, offset: int = 0) -> list[Record | BadLine]:
    return [item for item, _ in JournalReader(path).read(offset)]


def test_records_come_back_from_any_offset(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "boot")
    written: list[Record] = [
        reserved("one"),
        marked("one", 1),
        settled("one"),
        Refused(AT_S, None, None, 401, None, 3),
    ]
    for record in written:
        writer.write(record)
    writer.close()
    found = list(JournalReader(writer.path).read())
    assert [record for record, _ in found] == written
    for number, (_, offset) in enumerate(found):
        assert _read(writer.path, offset) == written[number + 1 :]


def test_a_writer_is_alive_until_it_ends(tmp_path: Path) -> None:
    assert not is_writer_alive(tmp_path, "boot")
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None, part_bytes=50)
    writer.write(reserved("one"))
    writer.write(reserved("two"))
    assert [file.part for file in journal_files(tmp_path)] == [0, 1]
    assert is_writer_alive(tmp_path, "boot")
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path, "boot")
    writer.close()
    assert not is_writer_alive(tmp_path, "boot")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boot.1.jsonl", "boot.jsonl"]


def test_a_full_disk_stops_new_work_and_loses_no_settlement(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None)
    writer.write(reserved("one"))
    writer.write(reserved("two"))
    size_bytes = writer.path.stat().st_size
    with _full_disk(size_bytes + 10):
        with pytest.raises(JournalUnwritable):
            writer.write(reserved("three"))
        assert writer.failure is not None
        writer.write(marked("two", 1))
        writer.write(marked("two", 64))
        writer.write(settled("one"))
        writer.write(LoadSeen(AT_S, {}, 1))
        with pytest.raises(JournalUnwritable):
            writer.write(reserved("three"))
        assert writer.num_waiting == 3
        with pytest.raises(JournalUnwritable, match="3 records wait"):
            writer.close()
    assert writer.path.stat().st_size == size_bytes, "a short write was taken back"
    writer.write(reserved("four"))
    assert writer.num_waiting == 0
    writer.close()
    expected = [marked("two", 64), settled("one"), LoadSeen(AT_S, {}, 1), reserved("four")]
    assert _read(writer.path, size_bytes) == expected


def test_what_waits_is_written_without_further_traffic(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "boot", sync_every_s=0.001)
    writer.write(reserved("one"))
    with _full_disk(writer.path.stat().st_size):
        writer.write(settled("one"))
        assert writer.num_waiting == 1
    writer.close()
    assert _read(writer.path) == [reserved("one"), settled("one")]


def test_a_torn_line_that_cannot_be_taken_back_is_ended_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None)
    with monkeypatch.context() as broken:

        def refuse(fd: int, size_bytes: int) -> None:
            raise OSError(errno.EIO, "cannot cut")

        broken.setattr("os.ftruncate", refuse)
        with _full_disk(10):
            writer.write(settled("one"))
        writer.write(settled("two"))
    writer.close()
    first, *rest = _read(writer.path)
    assert isinstance(first, BadLine)
    assert (first.offset, first.num_bytes) == (0, 11)
    assert rest == [settled("one"), settled("two")]


def test_refusals_wait_only_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MOST_WAITING", 5)
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None)
    with _full_disk(0):
        for number in range(8):
            writer.write(Refused(AT_S, None, None, 429, str(number)))
        writer.write(settled("one"))
    assert (writer.num_waiting, writer.num_dropped) == (6, 3)
    writer.close()
    assert _read(writer.path)[-1] == settled("one")


def test_a_part_that_cannot_be_begun_leaves_the_present_one_growing(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None, part_bytes=50)
    writer.write(reserved("one"))
    (tmp_path / "boot.1.jsonl").mkdir()
    writer.write(settled("one"))
    assert writer.path.name == "boot.jsonl"
    (tmp_path / "boot.1.jsonl").rmdir()
    writer.write(reserved("two"))
    assert writer.path.name == "boot.1.jsonl"
    writer.close()


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\n", b"\0" * 30, b'["x",1]\n', b"["]))))
def test_no_bytes_stop_a_reader_or_lose_a_record(
    tmp_path_factory: pytest.TempPathFactory, noise: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("noise") / "boot.jsonl"
    good = [records.encode(settled(f"r{number}")) for number in range(len(noise))]
    path.write_bytes(b"".join(part + b"\n" + line for part, line in zip(noise, good, strict=True)) + b"torn")
    items = list(JournalReader(path).read())
    ids = [item.request_id for item, _ in items if isinstance(item, records.Settled)]
    assert ids == [f"r{number}" for number in range(len(noise))]
    offsets = [0, *(offset for _, offset in items)]
    assert offsets == sorted(set(offsets))
    assert JournalReader(path).num_torn_bytes(offsets[-1]) == 4
    for (item, _), start in zip(items, offsets, strict=False):
        if isinstance(item, BadLine):
            assert item.offset == start


def test_a_run_without_newline_is_skipped_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "boot.jsonl"
    path.write_bytes(b"x" * 9_000_000 + b"\n" + records.encode(settled("one")))
    first, second = _read(path)
    assert isinstance(first, BadLine)
    assert first.num_bytes == 9_000_001
    assert second == settled("one")


@pytest.mark.parametrize(
    "line",
    [
        b'["r","a",1.0,"k",65536,"d","m","e","g","x",true,5,null]',
        b'["r","a",1.0,"k",1,"d","m","e","g","x",true,-5,null]',
        b'["p","a",1,-1,1]',
        b'["p","a",9223372036854775808,1,1]',
        b'["s","a",1.0,200,"completed",{"prompt_tokens":-1},5]',
        b'["s","a",1.0,4294967296,"completed",{},5]',
        b'["x",1.0,null,null,401,null,-3]',
        b'["p","' + b"a" * 300 + b'",1,1,1]',
        b'["s","a",NaN,200,"completed",{},5]',
        b"\xff\xfe",
        b"",
    ],
)
def test_what_no_worker_can_have_written_does_not_reach_the_books(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "boot.jsonl"
    path.write_bytes(line + b"\n")
    (item,) = _read(path)
    assert isinstance(item, BadLine)


def test_a_nul_in_a_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "boot.jsonl"
    path.write_bytes(records.encode(Refused(AT_S, "k\0", None, 401, None)))
    (item,) = _read(path)
    assert isinstance(item, Refused)
    assert item.key_id == "k\ufffd"


def test_a_closed_descriptor_is_a_refusal_not_a_crash(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "boot", sync_every_s=None)
    os.close(writer._fd)
    with pytest.raises(JournalUnwritable):
        writer.write(reserved("one"))
