"""What a source is asked for and what it hands back."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from outpace.values.errors import StorageFailed

# Called with bytes so far and bytes in all (None: not known); may raise to stop the fetch.
Report = Callable[[int, int | None], None]
CHUNK_BYTES = 1024 * 1024


def report_nothing(done_bytes: int, total_bytes: int | None) -> None:
    """A report that nobody reads."""


class FetchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One fetch. `folder` is on the store's disk and belongs to this fetch alone until it ends."""

    folder: Path
    # Size on record; the fetch stops when more arrives. None: not known.
    size_bytes: int | None
    report: Report = report_nothing


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the order's folder, its SHA-256, and what the source promised that this would be."""

    path: Path
    sha256: str
    promised_sha256: str | None = None


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse before the first byte what cannot fit. Raises StorageFailed."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageFailed(
            f"{needed_bytes:,} bytes are needed and {free_bytes:,} are free on the disk of the artifacts; "
            "free some, or set OUTPACE_HOME to a folder on another disk"
        )


def write_hashed(pieces: Iterable[bytes], path: Path, order: FetchOrder) -> Fetched:
    """Write `pieces` to `path`, hashing on the way; stops at the first byte too many."""
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            done_bytes += len(piece)
            order.report(done_bytes, order.size_bytes)
            if order.size_bytes is not None and done_bytes > order.size_bytes:
                break
    return Fetched(path=path, sha256=digest.hexdigest())


def sha256_of(path: Path, report: Report = report_nothing) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    total_bytes = path.stat().st_size
    done_bytes = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            done_bytes += len(piece)
            report(done_bytes, total_bytes)
    return digest.hexdigest()
