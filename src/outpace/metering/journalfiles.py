"""The journal as control reads it: which files there are, whose writer lives, and what they say."""

import fcntl
import os
import re
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple

import msgspec

from outpace.metering.countersfile import NUM_SLOTS
from outpace.metering.journal import part_name
from outpace.values import records
from outpace.values.records import Progressed, Record, Reserved, Settled
from outpace.values.units import MIB

_NAME = re.compile(r"([A-Za-z0-9_-]{1,56})(?:\.([1-9][0-9]*))?\.jsonl")
_READ_BYTES = 256 * 1024
# No record is this long: what has no newline for so long is damage, and is skipped up to the next one.
_LONGEST_LINE_BYTES = 4 * MIB
LARGEST_AMOUNT = 2**62


class JournalFile(NamedTuple):
    """One part of the journal of one life of a worker."""

    folder: Path
    boot_id: str
    part: int

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / part_name(self.boot_id, self.part)


class BadLine(msgspec.Struct, frozen=True):
    """A complete line that is no record: skipped, and reported."""

    offset: int
    num_bytes: int
    problem: str


def journal_files(folder: Path) -> list[JournalFile]:
    """All journal files, by boot id and part."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(JournalFile(folder, match[1], int(match[2] or 0)) for match in matches if match)


def is_writer_alive(folder: Path, boot_id: str) -> bool:
    """Whether the worker of this journal lives; False also when it has no journal."""
    try:
        fd = os.open(folder / part_name(boot_id, 0), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class JournalReader:
    """Reads one journal file from an offset; never past a last line that has no newline yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, offset: int = 0) -> Iterator[tuple[Record | BadLine, int]]:
        """Records from `offset` on, each with the offset behind it. Raises FileNotFoundError."""
        with self._path.open("rb", buffering=0) as file:
            file.seek(offset)
            for line, num_bytes in _lines(file):
                yield _parse(line, num_bytes, offset), offset + num_bytes
                offset += num_bytes

    def num_torn_bytes(self, offset: int) -> int:
        """Bytes behind `offset`, the last complete line: a record that never counted."""
        return max(self._path.stat().st_size - offset, 0)


def _lines(file: RawIOBase) -> Iterator[tuple[bytes, int]]:
    """Complete lines without their newline, and how many bytes of the file each took."""
    pending, num_skipped = b"", 0
    while chunk := file.read(_READ_BYTES):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line, num_skipped + len(line) + 1
            num_skipped = 0
        if len(pending) > _LONGEST_LINE_BYTES:
            num_skipped += len(pending)
            pending = b""


def _parse(line: bytes, num_bytes: int, offset: int) -> Record | BadLine:
    if num_bytes > _LONGEST_LINE_BYTES:
        return BadLine(offset, num_bytes, "longer than any record")
    try:
        record = records.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadLine(offset, num_bytes, str(error))
    problem = _impossible(record)
    return BadLine(offset, num_bytes, problem) if problem else record


def _impossible(record: Record) -> str | None:
    """Why no worker of ours can have written this; such a record must not touch the books."""
    amounts: tuple[int, ...]
    match record:
        case Reserved(slot=slot, reserved_pusd=reserved_pusd):
            amounts = (slot, NUM_SLOTS - 1 - slot, reserved_pusd, LARGEST_AMOUNT - reserved_pusd)
        case Progressed(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion):
            amounts = (prompt, cached, completion, LARGEST_AMOUNT - prompt, LARGEST_AMOUNT - completion)
        case Settled(usage=usage, cost_pusd=cost_pusd):
            amounts = (
                cost_pusd or 0,
                LARGEST_AMOUNT - (cost_pusd or 0),
                *(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens),
            )
        case _:
            return None
    return "an amount is negative or too large" if min(amounts) < 0 else None
