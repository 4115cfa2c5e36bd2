"""Artifacts as a pool sends them to machines that lack them: what their files are, by size and SHA-256."""

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from outpace.values.errors import InvalidInput, WeightsInvalid

_RECORD = "artifact.json"
_CHUNK_BYTES = 1024 * 1024


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an artifact; its name is relative, with `/` between folders."""

    name: str
    size_bytes: int
    # Empty until somebody needs it: hashing reads the whole file.
    sha256: str = ""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder that a launch names, as it is on the machine that has it."""

    path: str
    is_folder: bool
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def sha256(self) -> str:
        """The file's, or one over names and hashes of a folder's files. Only of hashed artifacts."""
        assert all(piece.sha256 for piece in self.pieces), "its files are not hashed yet"
        if not self.is_folder:
            return self.pieces[0].sha256
        lines = [f"{piece.sha256} {piece.size_bytes} {piece.name}\n" for piece in self.pieces]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends files by their SHA-256: `url`/SHA-256, behind a bearer token."""

    url: str
    token: str


class FetchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is to have before a replica starts there, and from whom."""

    artifacts: tuple[Artifact, ...]
    source: Source


def listed(path: Path) -> Artifact | None:
    """The artifact at `path` by names and sizes; None when nothing is there."""
    if path.is_file():
        piece = Piece(name=path.name, size_bytes=path.stat().st_size)
        return Artifact(path=str(path), is_folder=False, pieces=(piece,))
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file())
    pieces = (Piece(name=file.relative_to(path).as_posix(), size_bytes=file.stat().st_size) for file in files)
    return Artifact(path=str(path), is_folder=True, pieces=tuple(pieces))


def is_here(artifact: Artifact) -> bool:
    """The same path holds files of the same names and sizes: the folder is shared, or was copied."""
    here = listed(Path(artifact.path))
    return here is not None and _sizes(here) == _sizes(artifact)


def require_safe(artifact: Artifact) -> None:
    """Raises InvalidInput for a file name that would lead out of the artifact's folder."""
    for piece in artifact.pieces:
        name = PurePosixPath(piece.name)
        if name.is_absolute() or ".." in name.parts or not name.parts or "\0" in piece.name:
            raise InvalidInput(None, f"the artifact has a file of the unsafe name {piece.name[:100]!r}")


class Hashes:
    """Hashes of files on this machine; each file is read once while it looks the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def hashed(self, artifact: Artifact) -> Artifact:
        """With the SHA-256 of each file. Blocks. Raises WeightsInvalid when one cannot be read."""
        root = Path(artifact.path)
        try:
            pieces = tuple(
                msgspec.structs.replace(piece, sha256=self._of(path_of(root, artifact, piece)))
                for piece in artifact.pieces
            )
        except OSError as error:
            raise WeightsInvalid(f"{root.name} cannot be read: {error.strerror}") from error
        return msgspec.structs.replace(artifact, pieces=pieces)

    def _of(self, path: Path) -> str:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in self._known:
            self._known[key] = _recorded(path) or _sha256_of(path)
        return self._known[key]


def path_of(root: Path, artifact: Artifact, piece: Piece) -> Path:
    """Where a file lies of an artifact whose file or folder is `root`."""
    return root / piece.name if artifact.is_folder else root


class _RecordedFile(msgspec.Struct):
    name: str
    sha256: str
    size_bytes: int
    mtime_ns: int


class _Recorded(msgspec.Struct):
    """What pulled and made artifacts have beside them (`catalogue/store`, `precision/artifacts`)."""

    sha256: str = ""
    size_bytes: int = -1
    mtime_ns: int = -1
    files: tuple[_RecordedFile, ...] = ()


def _recorded(path: Path) -> str | None:
    """The hash in the record beside a file that looks as it did when it was hashed."""
    try:
        record = msgspec.json.decode(path.with_name(_RECORD).read_bytes(), type=_Recorded)
    except (OSError, msgspec.DecodeError):
        return None
    status = path.stat()
    whole = _RecordedFile(path.name, record.sha256, record.size_bytes, record.mtime_ns)
    known = next((file for file in (*record.files, whole) if file.name == path.name), whole)
    is_same = (known.size_bytes, known.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return known.sha256 if is_same and known.sha256 else None


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _sizes(artifact: Artifact) -> tuple[bool, list[tuple[str, int]]]:
    names = [(piece.name if artifact.is_folder else "", piece.size_bytes) for piece in artifact.pieces]
    return artifact.is_folder, names
