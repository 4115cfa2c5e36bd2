"""Fetching an artifact to a machine that lacks it: whole or not there, once for all, bounded, refused with reasons."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.fleet import fetching
from outpace.fleet.artifact_door import ArtifactDoor
from outpace.fleet.artifacts import Artifact, Hashes, Source, listed
from outpace.fleet.fetching import UNUSED_S, FetchedStore, Kept, surplus
from outpace.values.clock import SystemClock
from outpace.values.errors import SourceUnreachable, StorageFailed, WeightsInvalid

_WEIGHTS = os.urandom(3 * 1024 * 1024 + 17)


def _quiet(done_bytes: int, total_bytes: int) -> None:
    """A report that nobody reads."""


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[ArtifactDoor]:
    opened = ArtifactDoor(tmp_path, "127.0.0.1")
    yield opened
    await opened.close()


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "there" / "Model.GGUF"
    path.parent.mkdir()
    path.write_bytes(_WEIGHTS)
    return _hashed(path)


def _hashed(path: Path) -> Artifact:
    found = listed(path)
    assert found is not None
    return Hashes().hashed(found)


def _store(tmp_path: Path, most_bytes: int | None = None) -> FetchedStore:
    return FetchedStore(tmp_path / "here", most_bytes, SystemClock())


def _staged(tmp_path: Path, artifact: Artifact) -> Path:
    return tmp_path / "here" / "staging" / artifact.sha256 / "weights.gguf"


async def test_a_file_comes_whole_and_is_used_by_all_without_being_sent_again(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    source = await door.offer([artifact])
    told: list[tuple[int, int]] = []
    store = _store(tmp_path)
    path = await store.bring(artifact, source, lambda *seen: told.append(seen))
    assert path.read_bytes() == _WEIGHTS
    # Engines know the artifact by the folder's name and the format by the ending.
    assert (path.parent.name, path.name) == (artifact.sha256, "weights.gguf")
    assert told[-1] == (len(_WEIGHTS), len(_WEIGHTS))
    await door.close()
    assert await _store(tmp_path).bring(artifact, source, _quiet) == path


async def test_a_folder_comes_with_all_its_files(tmp_path: Path, door: ArtifactDoor) -> None:
    folder = tmp_path / "there"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "a.safetensors").write_bytes(_WEIGHTS)
    artifact = _hashed(folder)
    path = await _store(tmp_path).bring(artifact, await door.offer([artifact]), _quiet)
    assert _hashed(path).sha256 == artifact.sha256


async def test_many_at_once_fetch_once(tmp_path: Path, door: ArtifactDoor, artifact: Artifact) -> None:
    source = await door.offer([artifact])
    sent = []
    original = fetching._Fetch.all

    async def counted(fetch: fetching._Fetch) -> None:
        sent.append(fetch)
        await original(fetch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fetching._Fetch, "all", counted)
        stores = [_store(tmp_path) for _ in range(4)]
        paths = await asyncio.gather(*(store.bring(artifact, source, _quiet) for store in stores))
    assert len(set(paths)) == len(sent) == 1


async def test_nobody_gets_a_byte_without_the_token_or_beyond_what_is_offered(
    door: ArtifactDoor, artifact: Artifact
) -> None:
    source = await door.offer([artifact])

    async def status(path: str, token: str | None) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession() as session,
            session.get(source.url + path, headers=headers) as answer,
        ):
            return answer.status

    assert await status(f"/{artifact.sha256}", None) == 401
    assert await status(f"/{artifact.sha256}", "wrong") == 401
    assert await status(f"/{'0' * 64}", source.token) == 404
    assert await status("/../../etc/passwd", source.token) == 404
    assert await status(f"/{artifact.sha256}", source.token) == 200


async def test_what_broke_off_goes_on_where_it_was(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    source = await door.offer([artifact])
    staged = _staged(tmp_path, artifact)
    staged.parent.mkdir(parents=True)
    staged.write_bytes(_WEIGHTS[:1_000_000])
    told: list[int] = []
    path = await _store(tmp_path).bring(artifact, source, lambda done, _: told.append(done))
    assert path.read_bytes() == _WEIGHTS
    assert told[0] == 1_000_000


async def test_a_wrong_part_of_before_is_thrown_away(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    staged = _staged(tmp_path, artifact)
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"x" * 1000)
    path = await _store(tmp_path).bring(artifact, await door.offer([artifact]), _quiet)
    assert path.read_bytes() == _WEIGHTS


async def test_a_file_that_changed_at_the_source_never_gets_into_place(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    source = await door.offer([artifact])
    Path(artifact.path).write_bytes(bytes(reversed(_WEIGHTS)))
    with pytest.raises(WeightsInvalid, match="another sha256 than it said"):
        await _store(tmp_path).bring(artifact, source, _quiet)
    assert list((tmp_path / "here" / "sha256").iterdir()) == []


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_lost_source_is_told_and_what_came_is_kept(
    tmp_path: Path,
    door: ArtifactDoor,
    artifact: Artifact,
    is_gone: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "_AGAIN_S", 0.0)
    source = await door.offer([artifact])
    staged = _staged(tmp_path, artifact)
    staged.parent.mkdir(parents=True)
    staged.write_bytes(_WEIGHTS[:1000])
    if is_gone:
        Path(artifact.path).unlink()
    else:
        await door.close()
    with pytest.raises(SourceUnreachable, match="is the file still there" if is_gone else "does not send it"):
        await _store(tmp_path).bring(artifact, source, _quiet)
    assert staged.read_bytes() == _WEIGHTS[:1000]


async def test_a_disk_without_room_refuses_before_the_first_byte(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageFailed, match=r"1,000 are free; free some, or .* --weights-dir"):
        await _store(tmp_path).bring(artifact, Source(url="http://127.0.0.1:1", token="t"), _quiet)


async def test_a_disk_that_fills_on_the_way_is_told_and_left_empty(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, digest: Any, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_take", full)
    source = await door.offer([artifact])
    with pytest.raises(StorageFailed, match="No space left on device; free some"):
        await _store(tmp_path).bring(artifact, source, _quiet)
    assert not _staged(tmp_path, artifact).exists()


async def test_what_is_in_use_stays_and_what_is_not_goes_with_what_was_made_of_it(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    user, other = _store(tmp_path, most_bytes=0), _store(tmp_path, most_bytes=0)
    path = await user.bring(artifact, await door.offer([artifact]), _quiet)
    made = tmp_path / "here" / "made" / "key"
    made.mkdir(parents=True)
    lineage = {"lineage": {"source_sha256": artifact.sha256}}
    (made / "artifact.json").write_bytes(msgspec.json.encode(lineage))
    other.collect()
    assert path.exists()
    user.release()
    other.collect()
    assert not path.parent.exists()
    assert not made.exists()


async def test_a_file_that_was_cut_here_is_fetched_again(
    tmp_path: Path, door: ArtifactDoor, artifact: Artifact
) -> None:
    source, store = await door.offer([artifact]), _store(tmp_path)
    path = await store.bring(artifact, source, _quiet)
    path.chmod(0o600)
    path.write_bytes(b"cut")
    with pytest.raises(WeightsInvalid, match="stop the replicas that use it"):
        await _store(tmp_path).bring(artifact, source, _quiet)
    store.release()
    assert (await store.bring(artifact, source, _quiet)).read_bytes() == _WEIGHTS


def _kept(name: str, size_bytes: int, used_at: float) -> Kept:
    return Kept(sha256=name, size_bytes=size_bytes, used_at=used_at)


def test_the_longest_unused_go_first_and_only_as_many_as_must() -> None:
    unused = [_kept("new", 10, 90.0), _kept("old", 10, 10.0), _kept("mid", 10, 50.0)]
    assert surplus(unused, most_bytes=30, needed_bytes=0, now=100.0) == []
    assert surplus(unused, most_bytes=20, needed_bytes=0, now=100.0) == ["old"]
    assert surplus(unused, most_bytes=30, needed_bytes=15, now=100.0) == ["old", "mid"]
    assert surplus(unused, most_bytes=30, needed_bytes=0, now=10.0 + UNUSED_S) == ["old"]


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1e9))), st.integers(0, 500), st.integers(0, 500))
def test_what_stays_is_within_the_bound(sizes: list[tuple[int, float]], most: int, needed: int) -> None:
    unused = [_kept(str(index), *each) for index, each in enumerate(sizes)]
    going = surplus(unused, most, needed, now=0.0)
    staying = sum(kept.size_bytes for kept in unused if kept.sha256 not in going)
    freed = sum(kept.size_bytes for kept in unused if kept.sha256 in going)
    assert staying <= most or not unused
    assert freed >= needed or len(going) == len(unused)
