"""Artifacts made on this machine: content-addressed, with lineage, placed whole or not at all."""

import contextlib
import fcntl
import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from outpace.values.clock import Clock, SystemClock
from outpace.values.disk import sync
from outpace.values.errors import Conflict, OutpaceError, StorageFailed, WeightsInvalid

_RECORD = "artifact.json"
_SCRATCH = ".scratch"
# The folder of pulled weights is named after their content.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1024 * 1024
# Beside the made file the disk must hold this much, so that the platform's journal keeps room.
_SPARE_BYTES = 64 * 1024 * 1024


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact was made from and how: equal lineages give equal artifacts."""

    model: str
    # SHA-256 of the source's file, and its format: an F16 made from Q4_1 is as good as Q4_1, not as the original.
    source_sha256: str
    source_format: str
    format: str
    tool: str
    calibration_sha256: str | None = None

    @property
    def key(self) -> str:
        """One name for everything that decides the content."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class MadeFile(msgspec.Struct, frozen=True):
    """One file of an artifact, as it was when it was made."""

    name: str
    sha256: str
    size_bytes: int
    mtime_ns: int


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a made artifact."""

    sha256: str
    lineage: Lineage
    made_at: float
    files: tuple[MadeFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


class MadeArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """A verified artifact and where it lies; `path` is its only file, or its folder."""

    path: Path
    record: Made
    was_present: bool


# Fills an empty folder with the artifact's files.
Make = Callable[[Path], None]


class MadeStore:
    """The folder of made artifacts, shared by any number of processes."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder / "made"
        self._clock = clock or SystemClock()

    def find(self, lineage: Lineage) -> MadeArtifact | None:
        """The artifact of this lineage, verified; None when it was never made. Raises WeightsInvalid."""
        place = self._folder / lineage.key
        if not (place / _RECORD).exists():
            return None
        return MadeArtifact(
            path=_payload(place, self._verified(place)), record=_record(place, Made), was_present=True
        )

    def make(self, lineage: Lineage, needed_bytes: int, make: Make) -> MadeArtifact:
        """The artifact of this lineage, made by `make` unless it is there. One process makes, others wait.

        Raises StorageFailed when the disk is full, and what `make` raises; nothing half-made stays.
        """
        with self._storing(), self._alone(lineage):
            found = self._present(lineage)
            if found is not None:
                return found
            self._require_space(needed_bytes)
            staging = self._folder / "staging" / lineage.key
            _clear(staging)
            try:
                staging.mkdir(parents=True)
                make(staging)
                return self._place(staging, lineage)
            finally:
                _clear(staging)

    def all(self) -> list[tuple[str, Made]]:
        """Key and record of every artifact."""
        return [
            (path.parent.name, _record(path.parent, Made))
            for path in sorted(self._folder.glob(f"*/{_RECORD}"))
        ]

    def path_of(self, key: str) -> Path:
        """Where the artifact with this key lies."""
        place = self._folder / key
        return _payload(place, _record(place, Made))

    def collect(self, used: frozenset[str]) -> int:
        """Remove every artifact whose key is not in `used`, and what killed runs left; bytes freed."""
        freed_bytes = 0
        for key, record in self.all():
            if key not in used and self._removed(key, self._folder / key):
                freed_bytes += record.size_bytes
        for staging in (self._folder / "staging").glob("*"):
            left_bytes = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
            # Its lock is that of the artifact: what is being made now stays.
            if self._removed(staging.name.removesuffix(_SCRATCH), staging):
                freed_bytes += left_bytes
        return freed_bytes

    def _removed(self, key: str, folder: Path) -> bool:
        """False when another process works on it now."""
        with contextlib.suppress(Conflict), self._alone(key, is_waiting=False):
            shutil.rmtree(folder, ignore_errors=True)
            return True
        return False

    def _present(self, lineage: Lineage) -> MadeArtifact | None:
        try:
            return self.find(lineage)
        except WeightsInvalid:
            # Made once, it can be made again.
            shutil.rmtree(self._folder / lineage.key)
            return None

    def _verified(self, place: Path) -> Made:
        """The record, after files that look changed were hashed again."""
        record = _record(place, Made)
        for file in record.files:
            path = place / file.name
            if not path.is_file():
                raise WeightsInvalid(f"the artifact {record.sha256[:12]} lacks {file.name}; make it again")
            status = path.stat()
            looks_same = (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns)
            if not looks_same and sha256_of(path) != file.sha256:
                raise WeightsInvalid(f"the artifact {record.sha256[:12]} was changed on disk; make it again")
        return record

    def _place(self, staging: Path, lineage: Lineage) -> MadeArtifact:
        record = Made(sha256="", lineage=lineage, made_at=self._clock.wall_s(), files=tuple(_sealed(staging)))
        whole = hashlib.sha256("".join(file.sha256 for file in record.files).encode()).hexdigest()
        is_single = len(record.files) == 1
        record = msgspec.structs.replace(record, sha256=record.files[0].sha256 if is_single else whole)
        (staging / _RECORD).write_bytes(msgspec.json.encode(record))
        sync(staging / _RECORD)
        place = self._folder / lineage.key
        shutil.rmtree(place, ignore_errors=True)
        staging.rename(place)
        sync(self._folder)
        return MadeArtifact(path=_payload(place, record), record=record, was_present=False)

    def _require_space(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < needed_bytes + _SPARE_BYTES:
            raise StorageFailed(
                f"{needed_bytes + _SPARE_BYTES:,} bytes are needed and {free_bytes:,} are free; "
                "free some, or set OUTPACE_HOME to another disk"
            )

    @contextlib.contextmanager
    def _alone(self, lineage: Lineage | str, *, is_waiting: bool = True) -> Iterator[None]:
        """The kernel frees the lock when its holder dies, so a killed maker blocks nobody."""
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        key = lineage if isinstance(lineage, str) else lineage.key
        with (locks / key).open("w") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Conflict("the artifact is being made now") from None
            yield

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise StorageFailed(
                f"cannot write the artifact: {error.strerror or error}; free some space, "
                "or set OUTPACE_HOME to another folder"
            ) from error


def scratch_beside(staging: Path) -> Path:
    """An empty folder for what a maker needs on its way; it goes with `staging`, whoever is killed."""
    scratch = staging.with_name(f"{staging.name}{_SCRATCH}")
    scratch.mkdir()
    return scratch


def _clear(staging: Path) -> None:
    for folder in (staging, staging.with_name(f"{staging.name}{_SCRATCH}")):
        shutil.rmtree(folder, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """The name of an artifact's content: of a shipped or made one as recorded, else the SHA-256 of its bytes."""
    for place in (path, path.parent):
        if (place / _RECORD).is_file():
            return _record(place, _Named).sha256
    if path.is_file() and _DIGEST.fullmatch(path.parent.name):
        return path.parent.name
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return _hashed(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=64)
def _hashed(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hashed again when a size or a time of change is another."""
    digests = [sha256_of(path) for path, *_ in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class NothingMade(OutpaceError):
    """A maker returned without having written a file."""


def _sealed(folder: Path) -> Iterator[MadeFile]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise NothingMade("the quantizer wrote no file")
    for path in paths:
        path.chmod(0o444)
        sync(path)
        status = path.stat()
        yield MadeFile(str(path.relative_to(folder)), sha256_of(path), status.st_size, status.st_mtime_ns)


class _Named(msgspec.Struct):
    """What the records of pulled and of made artifacts share."""

    sha256: str


_R = TypeVar("_R", Made, _Named)


def _record(place: Path, kind: type[_R]) -> _R:
    try:
        return msgspec.json.decode((place / _RECORD).read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise WeightsInvalid(
            f"the record of artifact {place.name[:12]} cannot be read; make it again"
        ) from error


def _payload(place: Path, record: Made) -> Path:
    return place / record.files[0].name if len(record.files) == 1 else place
