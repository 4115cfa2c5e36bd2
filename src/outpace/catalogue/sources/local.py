"""Weights that are already on this machine."""

from collections.abc import Iterator
from pathlib import Path

from outpace.catalogue.cards import FileSource
from outpace.catalogue.sources.order import CHUNK_BYTES, Fetched, FetchOrder, write_hashed
from outpace.values.errors import SourceUnreachable


def fetch_file(source: FileSource, order: FetchOrder) -> Fetched:
    """Copy a local file. Raises SourceUnreachable when it cannot be read."""
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise SourceUnreachable(f"{path} is not a file; correct the path in the model's card")
    return write_hashed(_pieces(path), order.folder / "copy.part", order)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
    except PermissionError as error:
        raise SourceUnreachable(f"{path} may not be read by this user; change its permissions") from error
