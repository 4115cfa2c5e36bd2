"""Artifacts that this machine was sent: fetched once for all replicas here, verified, whole or not there, bounded.

`sha256/DIGEST` holds what is whole, `staging/DIGEST` what is on its way and can go on, `locks/DIGEST` who fetches
(exclusive) and who uses (shared); the kernel frees locks with their holders. The time of a lock's file is that of the
last use.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from outpace.fleet.artifacts import Artifact, Piece, Source, require_safe
from outpace.values.clock import Clock
from outpace.values.disk import bytes_below, sync, writing_weights
from outpace.values.errors import OutpaceError, SourceUnreachable, StorageFailed, WeightsInvalid
from outpace.values.units import MIB

# Called with bytes done and bytes in all.
Report = Callable[[int, int], None]
# An artifact that nothing has used for so long is removed.
UNUSED_S = 7 * 24 * 3600.0
# What lies here and is not in use may take this share of the disk, unless it was told otherwise.
SHARE_OF_DISK = 0.25
_SPARE_BYTES = 64 * MIB
_CHUNK_BYTES = 1 * MIB
_ELSEWHERE = "let the machine join again with another --weights-dir"
_AGAIN_S = 0.2
# Failures in a row without a byte between them.
_MOST_FAILURES = 5
_CONNECT_S = 5.0
# A source that sends nothing for so long is lost.
_SILENCE_S = 20.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that lies here."""

    sha256: str
    size_bytes: int
    # Wall clock of its last use.
    used_at: float


def surplus(unused: Sequence[Kept], most_bytes: int, needed_bytes: int, now: float) -> list[str]:
    """Which of the artifacts that nobody uses are to go: old ones, and beyond the bound the longest unused first.

    `needed_bytes` must come free whatever the bound says.
    """
    going: list[str] = []
    total_bytes = sum(kept.size_bytes for kept in unused)
    for kept in sorted(unused, key=lambda kept: kept.used_at):
        if now - kept.used_at < UNUSED_S and total_bytes <= most_bytes and needed_bytes <= 0:
            break
        going.append(kept.sha256)
        total_bytes -= kept.size_bytes
        needed_bytes -= kept.size_bytes
    return going


class FetchedStore:
    """The folder of fetched artifacts on one machine, shared by any number of processes."""

    def __init__(self, folder: Path, most_bytes: int | None, clock: Clock) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._clock = clock
        # Of what this process uses; open as long as it does.
        self._held: list[int] = []

    async def bring(self, artifact: Artifact, source: Source, report: Report) -> Path:
        """Where this hashed artifact lies here, verified; fetched when it does not, by one process for all.

        It stays until `release`. Raises SourceUnreachable, WeightsInvalid, StorageFailed; what came whole of a lost
        source is kept, and the next `bring` goes on from there.
        """
        require_safe(artifact)
        with writing_weights(self.folder, _ELSEWHERE):
            for name in ("sha256", "staging", "locks"):
                (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                self.folder / "locks" / artifact.sha256, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                path = await self._bring(artifact, source, report, lock)
            except BaseException:
                os.close(lock)
                raise
        self._held.append(lock)
        return path

    def release(self) -> None:
        """This process uses nothing here any more."""
        while self._held:
            os.close(self._held.pop())

    def collect(self, needed_bytes: int = 0) -> None:
        """Remove what nobody uses beyond age and bound, and what was made of it. Blocks; a full disk is no error."""
        with contextlib.suppress(OSError):
            unused = [kept for kept in self._kept() if self._is_unused(kept.sha256)]
            going = surplus(unused, self._bound_bytes(), needed_bytes, self._clock.wall_s())
            for digest in going:
                self._remove(digest)
            self._remove_made(going)

    async def _bring(self, artifact: Artifact, source: Source, report: Report, lock: int) -> Path:
        place = self.folder / "sha256" / artifact.sha256
        while True:
            if _try(lock, fcntl.LOCK_SH) and _is_whole(place, artifact):
                os.utime(lock)
                return place if artifact.is_folder else place / _name_in_place(artifact, artifact.pieces[0])
            if _try(lock, fcntl.LOCK_EX):
                if not _is_whole(place, artifact):
                    await self._fetch(artifact, source, report)
                # Shared again: between the two somebody else may have it, so it is looked at anew.
                continue
            fcntl.flock(lock, fcntl.LOCK_UN)
            if place.exists() and not _is_whole(place, artifact):
                raise WeightsInvalid(
                    f"{place} was cut or changed; stop the replicas that use it, or remove it"
                )
            report(bytes_below(self._staging(artifact)), artifact.size_bytes)
            await self._clock.sleep(_AGAIN_S)

    def _staging(self, artifact: Artifact) -> Path:
        return self.folder / "staging" / artifact.sha256

    async def _fetch(self, artifact: Artifact, source: Source, report: Report) -> None:
        """All files to the staging folder, then that into its place."""
        staging = self._staging(artifact)
        staging.mkdir(mode=0o700, exist_ok=True)
        missing_bytes = artifact.size_bytes - bytes_below(staging)
        await asyncio.to_thread(self.collect, max(0, missing_bytes + _SPARE_BYTES - self._free_bytes()))
        self._require_space(missing_bytes)
        fetch = _Fetch(artifact, source, staging, report, self._clock)
        try:
            await fetch.all()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # Half of it is of no use and would keep the disk full.
                shutil.rmtree(staging, ignore_errors=True)
            raise
        await asyncio.to_thread(_settle, staging, self.folder / "sha256" / artifact.sha256)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _require_space(self, missing_bytes: int) -> None:
        free_bytes = self._free_bytes()
        if free_bytes < missing_bytes + _SPARE_BYTES:
            raise StorageFailed(
                f"{missing_bytes + _SPARE_BYTES:,} bytes are needed in {self.folder} and {free_bytes:,} are free; "
                "free some, or let the machine join again with --weights-dir on another disk"
            )

    def _bound_bytes(self) -> int:
        if self._most_bytes is not None:
            return self._most_bytes
        return int(SHARE_OF_DISK * shutil.disk_usage(self.folder).total)

    def _kept(self) -> Iterator[Kept]:
        for place in (self.folder / "sha256").glob("*"):
            lock = self.folder / "locks" / place.name
            used_at = lock.stat().st_mtime if lock.exists() else 0.0
            yield Kept(sha256=place.name, size_bytes=bytes_below(place), used_at=used_at)
        # What a fetch left that nobody went on with.
        for staging in (self.folder / "staging").glob("*"):
            if not (self.folder / "sha256" / staging.name).exists():
                used_at = staging.stat().st_mtime
                yield Kept(sha256=staging.name, size_bytes=bytes_below(staging), used_at=used_at)

    def _is_unused(self, digest: str) -> bool:
        with self._locked(digest) as is_ours:
            return is_ours

    def _remove(self, digest: str) -> None:
        with self._locked(digest) as is_ours:
            if is_ours:
                # The lock's file stays: somebody may wait at it.
                for name in ("sha256", "staging"):
                    shutil.rmtree(self.folder / name / digest, ignore_errors=True)

    def _remove_made(self, gone: Sequence[str]) -> None:
        """What engines unpacked here (`precision/artifacts`): it goes with what it was unpacked from, or by age."""
        oldest_at = self._clock.wall_s() - UNUSED_S
        for record in (self.folder / "made").glob("*/artifact.json"):
            source = msgspec.json.decode(record.read_bytes(), type=_Made).lineage.source_sha256
            is_here = (self.folder / "sha256" / source).exists()
            if source in gone or (not is_here and record.stat().st_mtime < oldest_at):
                shutil.rmtree(record.parent, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, digest: str) -> Iterator[bool]:
        lock = os.open(self.folder / "locks" / digest, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _try(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)


class _MadeFrom(msgspec.Struct):
    source_sha256: str


class _Made(msgspec.Struct):
    lineage: _MadeFrom


class _Fetch:
    """One fetch of one artifact into a folder that belongs to it alone."""

    def __init__(
        self, artifact: Artifact, source: Source, staging: Path, report: Report, clock: Clock
    ) -> None:
        self._artifact = artifact
        self._source = source
        self._staging = staging
        self._report = report
        self._clock = clock
        self._done_bytes = 0

    async def all(self) -> None:
        """Every file, verified. Raises SourceUnreachable, WeightsInvalid, OSError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        headers = {
            "Authorization": f"Bearer {self._source.token}",
            # Ranges count the file's own bytes.
            "Accept-Encoding": "identity",
        }
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=False) as session:
            for piece in self._artifact.pieces:
                await self._piece(session, piece)

    async def _piece(self, session: aiohttp.ClientSession, piece: Piece) -> None:
        path = self._staging / _name_in_place(self._artifact, piece)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before_bytes, is_continued = self._done_bytes, path.exists()
        if await self._bytes_of(session, piece, path) == piece.sha256:
            return
        path.unlink()
        self._done_bytes = before_bytes
        # What went wrong behind an old part may be right from the start.
        if not is_continued or await self._bytes_of(session, piece, path) != piece.sha256:
            path.unlink(missing_ok=True)
            raise WeightsInvalid(
                f"what {self._source.url} sent of {piece.name} has another sha256 than it said; was it changed there?"
            )

    async def _bytes_of(self, session: aiohttp.ClientSession, piece: Piece, path: Path) -> str:
        """Fetch what is missing of a file; the SHA-256 of the whole."""
        digest = hashlib.sha256()
        with path.open("a+b") as file:
            await asyncio.to_thread(_read_into, file, digest)
            length = file.tell()
            self._count(length)
            failures = 0
            while length < piece.size_bytes:
                try:
                    async for chunk in self._chunks(session, piece, length):
                        await asyncio.to_thread(_take, file, digest, chunk)
                        length += len(chunk)
                        failures = 0
                        self._count(len(chunk))
                        if length > piece.size_bytes:
                            return ""
                except (aiohttp.ClientError, TimeoutError) as error:
                    failures += 1
                    if failures >= _MOST_FAILURES:
                        raise _lost(self._source, piece, error) from error
                    await self._clock.sleep(_AGAIN_S * failures)
        return digest.hexdigest() if length == piece.size_bytes else ""

    async def _chunks(self, session: aiohttp.ClientSession, piece: Piece, start: int) -> Any:
        url = f"{self._source.url}/{piece.sha256}"
        async with session.get(url, headers={"Range": f"bytes={start}-"}) as answer:
            if answer.status != 206:
                raise SourceUnreachable(
                    f"{self._source.url} answers {answer.status} for {piece.name}; is the file still there?"
                )
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                yield chunk

    def _count(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        self._report(self._done_bytes, self._artifact.size_bytes)


def _name_in_place(artifact: Artifact, piece: Piece) -> str:
    """Engines know files by their ending; the rest of a single file's name does not count."""
    return piece.name if artifact.is_folder else f"weights{Path(piece.name).suffix.lower()}"


def _is_whole(place: Path, artifact: Artifact) -> bool:
    """It was verified before it came there; here only that nobody cut it since."""
    try:
        return all(
            (place / _name_in_place(artifact, piece)).stat().st_size == piece.size_bytes
            for piece in artifact.pieces
        )
    except OSError:
        return False


def _settle(staging: Path, place: Path) -> None:
    """Make it last, then put it into its place in one step."""
    for path in staging.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
            sync(path)
    shutil.rmtree(place, ignore_errors=True)
    staging.rename(place)
    sync(place.parent)


def _lost(source: Source, piece: Piece, error: BaseException) -> OutpaceError:
    return SourceUnreachable(
        f"the machine that has {piece.name} ({source.url}) does not send it: {error or type(error).__name__}; "
        "the next start goes on from where it broke off"
    )


def _read_into(file: Any, digest: Any) -> None:
    file.seek(0)
    while piece := file.read(_CHUNK_BYTES):
        digest.update(piece)


def _take(file: Any, digest: Any, chunk: bytes) -> None:
    file.write(chunk)
    digest.update(chunk)


def _try(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
