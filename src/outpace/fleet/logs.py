"""Log files of children: bounded in size, and readable from the end."""

import contextlib
from pathlib import Path
from typing import BinaryIO

from outpace.values.units import KIB, MIB

LARGEST_BYTES = 8 * MIB
_LONGEST_LAST_LINE = 2000
_READ_BACK_BYTES = 256 * KIB
# How `engines/child.tell_listening` begins.
_TOLD = b'{"event":"replica_listening"'


class BoundedLog:
    """A file and its predecessor (`.1`), each at most `largest_bytes`. A full disk loses lines, no more."""

    def __init__(self, path: Path, largest_bytes: int = LARGEST_BYTES) -> None:
        self._path = path
        self._largest_bytes = largest_bytes
        self._file: BinaryIO | None = None
        self._written_bytes = 0
        self._tail = b""
        # The line in which a replica told that it listens, and what its start took; empty before.
        self.told = ""

    def write(self, piece: bytes) -> None:
        """Append, starting a new file when this one would grow too large."""
        self._tail = (self._tail + piece)[-_LONGEST_LAST_LINE * 2 :]
        if not self.told and _TOLD in self._tail:
            self.told = _line_with(_TOLD, self._tail)
        with contextlib.suppress(OSError):
            if self._file is not None and self._written_bytes + len(piece) > self._largest_bytes:
                self._turn_over()
            target = self._file or self._open()
            target.write(piece)
            self._written_bytes += len(piece)

    @property
    def last_line(self) -> str:
        """The last line with content."""
        lines = [line for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[-_LONGEST_LAST_LINE:] if lines else ""

    def move(self, path: Path) -> None:
        """What comes from now on goes to another file."""
        self.close()
        self._path = path

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        self._file = self._path.open("ab", buffering=0)
        self._path.chmod(0o600)
        self._written_bytes = self._file.tell()
        return self._file

    def _turn_over(self) -> None:
        self.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))


def _line_with(start: bytes, text: bytes) -> str:
    """The whole line that begins with `start`; empty while its end is missing."""
    line, end, _ = text[text.rindex(start) :].partition(b"\n")
    return line.decode(errors="replace") if end else ""


def last_lines(folder: Path, name: str, num_lines: int) -> list[str]:
    """The last lines of a child's log. The name must be one that is known: it becomes a path."""
    lines: list[str] = []
    for path in (folder / f"{name}.log.1", folder / f"{name}.log"):
        lines += _end_of(path)
    return lines[-num_lines:]


def _end_of(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - _READ_BACK_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = text.splitlines()
    return lines[1:] if length > _READ_BACK_BYTES else lines
