"""Files that survive a power cut, and how much lies in a folder."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from outpace.values.errors import StorageFailed


def sync(path: Path) -> None:
    """Return when the file, or the folder's list of names, is on the disk. Raises OSError."""
    fileno = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fileno)
    finally:
        os.close(fileno)


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` so that a reader and a power cut see the old content or the new. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def bytes_below(folder: Path) -> int:
    """Of all files in a folder and its folders; what vanishes meanwhile counts nothing."""
    total_bytes = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total_bytes += path.stat().st_size if path.is_file() else 0
    return total_bytes


@contextlib.contextmanager
def writing_weights(folder: Path, other_folder: str) -> Iterator[None]:
    """Raise StorageFailed for what the disk refuses; `other_folder` says how weights are kept elsewhere."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"cannot write weights to {folder}: {error.strerror or error}; free some space, or {other_folder}"
        ) from error
