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
from outpace.values.records import Progressed, Record, Refused, Reserved, Settled
from outpace.values.units import MIB

_NAME = re.compile(r"([A-Za-z0-9_-]{1,56})(?:\.([1-9][0-9]*))?\.jsonl")
_READ_BYTES = 256 * 1024
# No record is this long: what has no newline for so long is damage, and is skipped up to the next one.
_LONGEST_LINE_BYTES = 4 * MIB
# What the tables' columns hold.
LARGEST_AMOUNT = 2**62
_LARGEST_COUNT = 2**31 - 1
_LONGEST_NAME = 256


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
        # PostgreSQL's text holds no NUL.
        record = records.decode(line.replace(rb"\u0000", rb"\ufffd"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadLine(offset, num_bytes, str(error))
    problem = _impossible(record)
    return BadLine(offset, num_bytes, problem) if problem else record


def _impossible(record: Record) -> str | None:
    """Why no worker of ours can have written this; such a record must not touch the books."""
    amounts, counts, names = _fields(record)
    if not all(0 <= amount <= LARGEST_AMOUNT for amount in amounts):
        return "an amount is negative or too large"
    if not all(0 <= count <= _LARGEST_COUNT for count in counts):
        return "a count is negative or too large"
    return "a name is too long" if any(len(name) > _LONGEST_NAME for name in names) else None


def _fields(record: Record) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Amounts, counts and names that tables hold and keys are made of."""
    if isinstance(record, Progressed):
        marks = (record.prompt_tokens, record.cached_tokens, record.completion_tokens)
        return marks, (), (record.request_id,)
    if isinstance(record, Reserved):
        # A slot above the last one has no row in the counters.
        slots = (record.slot, NUM_SLOTS - 1 - record.slot)
        names = (record.request_id, record.key_id, record.deployment, record.model)
        return (record.reserved_pusd,), slots, names
    if isinstance(record, Settled):
        used = record.usage
        tokens = (used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.reasoning_tokens)
        counts = (record.status, record.attempts, record.num_choices)
        return (*tokens, record.cost_pusd or 0), counts, (record.request_id,)
    if isinstance(record, Refused):
        return (), (record.status, record.count), (record.key_id or "", record.code or "")
    return (), (), ()
