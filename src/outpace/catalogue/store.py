"""Artifacts on disk by their SHA-256: fetched once, verified, placed whole or not at all."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from outpace.catalogue import gguf
from outpace.catalogue.cards import Weights
from outpace.catalogue.sources import FetchOrder, can_resume, describe, fetch
from outpace.catalogue.sources.order import Fetched, require_space, sha256_of
from outpace.values.clock import Clock, SystemClock, sleep_blocking
from outpace.values.disk import bytes_below, sync, write_whole, writing_weights
from outpace.values.errors import OutpaceError, SourceUnreachable, WeightsInvalid

Phase = Literal["waiting", "downloading", "verifying"]
_POLL_S = 0.1
_RECORD = "artifact.json"
_WEIGHTS = "weights.gguf"
_ELSEWHERE = "set OUTPACE_HOME to another folder"


class Progress(msgspec.Struct, frozen=True):
    """How far a pull is; `waiting` means that another process downloads the same."""

    phase: Phase
    done_bytes: int
    total_bytes: int | None


Watch = Callable[[Progress], None]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """For which model, from where and when an artifact was fetched."""

    model: str
    precision: str
    source: str
    fetched_at: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside the weights: their hash, and how the file looked when it was last hashed."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int
    verified_at: float
    lineage: tuple[Lineage, ...] = ()


def watch_nothing(progress: Progress) -> None:
    """A watch that nobody reads."""


class ArtifactStore:
    """The artifacts folder of one installation, shared by any number of processes."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()

    def find(self, weights: Weights) -> Path | None:
        """The verified file, or None when it was never pulled.

        The file is hashed again when its size, time or inode changed.
        Raises WeightsInvalid when its content did.
        """
        digest = self._digest(weights)
        if digest is None or not self._place(digest).exists():
            return None
        record = self._record(digest)
        path = self._place(digest) / _WEIGHTS
        if not _looks_like(path, record):
            with writing_weights(self._folder, _ELSEWHERE):
                self._verify_content(path, record, watch_nothing)
        return path

    def pull(
        self, model: str, weights: Weights, watch: Watch = watch_nothing, *, verify: bool = False
    ) -> Path:
        """The verified file, fetched when it is not there. `verify` hashes a present one in full.

        Another process that is fetching the same is waited for. Raises SourceUnreachable, WeightsInvalid,
        StorageFailed, or what `watch` raises; nothing half-made stays except what a next pull continues.
        """
        with writing_weights(self._folder, _ELSEWHERE), self._alone(weights, watch):
            path = self._present(weights, watch, verify=verify)
            if path is None:
                path = self._fetch_any(model, weights, watch)
            self._note_model(model, weights)
            return path

    def has(self, weights: Weights) -> bool:
        """True when the artifact was pulled; its content is not looked at."""
        digest = self._digest(weights)
        return digest is not None and (self._place(digest) / _WEIGHTS).exists()

    def record_of(self, weights: Weights) -> Record:
        """What is known of a pulled artifact. Raises WeightsInvalid when there is none."""
        digest = self._digest(weights)
        if digest is None or not self.has(weights):
            raise WeightsInvalid("the artifact is not here; `outpace pull` fetches it")
        return self._record(digest)

    def records(self) -> list[Record]:
        """What is in the store."""
        return [self._record(place.name) for place in sorted(self._folder.glob("sha256/*"))]

    # -- places ---------------------------------------------------------------------------------

    def _place(self, digest: str) -> Path:
        return self._folder / "sha256" / digest

    def _pin(self, weights: Weights) -> Path:
        """Where the hash of an artifact is kept that has none on its card."""
        return self._folder / "pinned" / _key(weights)

    def _digest(self, weights: Weights) -> str | None:
        if weights.sha256:
            return weights.sha256
        try:
            return self._pin(weights).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def _record(self, digest: str) -> Record:
        try:
            return msgspec.json.decode((self._place(digest) / _RECORD).read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):
            # Without a readable record nothing is known of the file but its name: its hash decides.
            return Record(sha256=digest, size_bytes=-1, mtime_ns=-1, inode=-1, verified_at=0.0)

    # -- one at a time --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, weights: Weights, watch: Watch) -> Iterator[None]:
        """The kernel frees the lock when its holder dies, so a killed pull is taken over."""
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / _key(weights)).open("w") as lock:
            while not _try_lock(lock.fileno()):
                watch(Progress("waiting", bytes_below(self._staging(weights)), weights.size_bytes))
                sleep_blocking(_POLL_S)
            yield

    def _staging(self, weights: Weights) -> Path:
        return self._folder / "staging" / _key(weights)

    # -- what is there --------------------------------------------------------------------------

    def _present(self, weights: Weights, watch: Watch, *, verify: bool) -> Path | None:
        """The good file that is there; a bad one is removed, so that it is fetched again."""
        digest = self._digest(weights)
        try:
            path = self.find(weights)
            if path is not None and verify and digest is not None:
                self._verify_content(path, self._record(digest), watch)
        except WeightsInvalid:
            if digest is not None:
                shutil.rmtree(self._place(digest))
            return None
        return path

    def _verify_content(self, path: Path, record: Record, watch: Watch) -> None:
        def report(done_bytes: int, total_bytes: int | None) -> None:
            watch(Progress("verifying", done_bytes, total_bytes))

        if not path.is_file() or sha256_of(path, report) != record.sha256:
            raise WeightsInvalid(
                f"the artifact {record.sha256[:12]} was changed or cut off on disk; "
                "`outpace pull` fetches it again"
            )
        self._write_record(path, record.sha256, record.lineage)

    def _write_record(self, path: Path, digest: str, lineage: tuple[Lineage, ...]) -> None:
        status = path.stat()
        record = Record(
            sha256=digest,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            verified_at=self._clock.wall_s(),
            lineage=lineage,
        )
        write_whole(path.with_name(_RECORD), msgspec.json.encode(record))

    def _note_model(self, model: str, weights: Weights) -> None:
        digest = self._digest(weights)
        assert digest is not None
        record = self._record(digest)
        if any(line.model == model for line in record.lineage):
            return
        source = record.lineage[0].source if record.lineage else describe(weights.sources[0])
        self._write_record(
            self._place(digest) / _WEIGHTS,
            digest,
            (*record.lineage, self._lineage(model, weights, source)),
        )

    def _lineage(self, model: str, weights: Weights, source: str) -> Lineage:
        return Lineage(
            model=model, precision=weights.precision, source=source, fetched_at=self._clock.wall_s()
        )

    # -- fetching -------------------------------------------------------------------------------

    def _fetch_any(self, model: str, weights: Weights, watch: Watch) -> Path:
        """From the first source that has it; what each of them said when none has."""
        refusals: list[OutpaceError] = []
        for index in range(len(weights.sources)):
            try:
                return self._fetch(model, weights, index, watch)
            except (SourceUnreachable, WeightsInvalid) as refusal:
                refusals.append(refusal)
        if len(refusals) == 1:
            raise refusals[0]
        raise SourceUnreachable(f"no source has {model}: " + "; ".join(map(str, refusals)))

    def _fetch(self, model: str, weights: Weights, index: int, watch: Watch) -> Path:
        """One source. What is wrong after continuing an old partial file may be right from the start."""
        folder = self._staging(weights) / str(index)
        had_partial = can_resume(weights.sources[index]) and bytes_below(folder) > 0
        try:
            return self._fetch_once(model, weights, index, watch)
        except WeightsInvalid:
            if not had_partial:
                raise
        return self._fetch_once(model, weights, index, watch)

    def _fetch_once(self, model: str, weights: Weights, index: int, watch: Watch) -> Path:
        source = weights.sources[index]
        folder = self._staging(weights) / str(index)
        folder.mkdir(parents=True, exist_ok=True)

        def report(done_bytes: int, total_bytes: int | None) -> None:
            watch(Progress("downloading", done_bytes, total_bytes))

        is_kept = can_resume(source)
        try:
            require_space(folder, (weights.size_bytes or 0) - bytes_below(folder))
            fetched = fetch(source, FetchOrder(folder=folder, size_bytes=weights.size_bytes, report=report))
            _check_content(model, weights, fetched)
            is_kept = False
            return self._keep(weights, fetched, self._lineage(model, weights, describe(source)))
        except (OSError, WeightsInvalid):
            is_kept = False
            raise
        finally:
            if not is_kept:
                shutil.rmtree(self._staging(weights), ignore_errors=True)

    def _keep(self, weights: Weights, fetched: Fetched, lineage: Lineage) -> Path:
        """Build the finished folder beside the download and move it into place in one step."""
        folder = self._staging(weights) / "whole"
        folder.mkdir(exist_ok=True)
        path = folder / _WEIGHTS
        fetched.path.replace(path)
        path.chmod(0o444)
        sync(path)
        self._write_record(path, fetched.sha256, (lineage,))
        place = self._place(fetched.sha256)
        place.parent.mkdir(exist_ok=True)
        if not _looks_like(place / _WEIGHTS, self._record(fetched.sha256)):
            shutil.rmtree(place, ignore_errors=True)
            folder.rename(place)
            sync(place.parent)
        if not weights.sha256:
            self._pin(weights).parent.mkdir(exist_ok=True)
            write_whole(self._pin(weights), fetched.sha256.encode())
        return place / _WEIGHTS


def _key(weights: Weights) -> str:
    """One name for the same content, safe in a path."""
    if weights.sha256:
        return weights.sha256
    return sha256(describe(weights.sources[0]).encode()).hexdigest()


def _check_content(model: str, weights: Weights, fetched: Fetched) -> None:
    size_bytes = fetched.path.stat().st_size
    if weights.size_bytes is not None and size_bytes != weights.size_bytes:
        raise WeightsInvalid(
            f"{model}: the source sent {size_bytes:,} bytes, the model's card says {weights.size_bytes:,}"
        )
    expected = weights.sha256 or fetched.promised_sha256
    if expected is None:
        raise WeightsInvalid(
            f"{model}: the source does not say what the file's sha256 is; add it to the card"
        )
    if fetched.sha256 != expected:
        raise WeightsInvalid(f"{model}: what the source sent has sha256 {fetched.sha256}, not {expected}")
    gguf.read(fetched.path)


def _looks_like(path: Path, record: Record) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    seen = (status.st_size, status.st_mtime_ns, status.st_ino)
    return seen == (record.size_bytes, record.mtime_ns, record.inode)


def _try_lock(fileno: int) -> bool:
    try:
        fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
