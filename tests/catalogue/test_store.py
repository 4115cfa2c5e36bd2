"""The artifact store: verified, placed whole or not at all, shared by processes, and never half-made."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from tests.catalogue.samples import FileServer, file_weights, serving, tiny_gguf, weights_of

from outpace.catalogue.cards import FileSource, HttpsSource, HubSource, Weights
from outpace.catalogue.sources.hub import fetch_hub
from outpace.catalogue.store import ArtifactStore, Progress
from outpace.values.clock import ManualClock
from outpace.values.errors import SourceUnreachable, StorageFailed, WeightsInvalid

GGUF = tiny_gguf(content_bytes=64 * 1024)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts", ManualClock())


def staged(folder: Path) -> list[str]:
    """Names of all files that a pull left behind unfinished."""
    return [path.name for path in (folder / "artifacts" / "staging").rglob("*") if path.is_file()]


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_pull_places_the_verified_file_with_its_lineage(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    assert store.find(weights) is None
    assert not store.has(weights)
    path = store.pull("tiny", weights)
    assert path.read_bytes() == GGUF
    assert store.find(weights) == path
    assert weights.sha256 is not None
    assert weights.sha256 in path.parts
    (record,) = store.records()
    assert (record.sha256, record.size_bytes) == (weights.sha256, len(GGUF))
    assert [(line.model, line.precision) for line in record.lineage] == [("tiny", "f32")]
    assert record.lineage[0].source.startswith("file:")
    assert staged(tmp_path) == []


def test_two_models_share_one_artifact(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    assert store.pull("chat", weights) == store.pull("embed", weights)
    (record,) = store.records()
    assert [line.model for line in record.lineage] == ["chat", "embed"]


def test_a_second_pull_does_not_fetch(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    path = store.pull("tiny", weights)
    (tmp_path / "source.gguf").unlink()
    assert store.pull("tiny", weights) == path


@pytest.mark.parametrize("wrong", [GGUF[:-1], GGUF[:-1] + b"\0", GGUF + b"\0", b""])
def test_other_content_than_the_card_says_is_refused(
    tmp_path: Path, store: ArtifactStore, wrong: bytes
) -> None:
    weights = file_weights(tmp_path, GGUF)
    (tmp_path / "source.gguf").write_bytes(wrong)
    with pytest.raises(WeightsInvalid, match="tiny"):
        store.pull("tiny", weights)
    assert store.find(weights) is None
    assert staged(tmp_path) == []


def test_the_right_hash_of_a_broken_gguf_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, tiny_gguf()[:-400])
    with pytest.raises(WeightsInvalid, match="not a sound GGUF"):
        store.pull("tiny", weights)
    assert store.find(weights) is None
    assert staged(tmp_path) == []


def test_damage_that_changes_size_or_time_is_found_and_repaired(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    path = store.pull("tiny", weights)
    rewrite(path, GGUF[:-8] + b"damaged!")
    with pytest.raises(WeightsInvalid, match="changed or cut off"):
        store.find(weights)
    assert store.pull("tiny", weights).read_bytes() == GGUF


def test_damage_with_the_old_time_is_found_by_verify(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    path = store.pull("tiny", weights)
    before = path.stat()
    rewrite(path, GGUF[:-8] + b"damaged!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.find(weights) == path
    seen: list[Progress] = []
    assert store.pull("tiny", weights, seen.append, verify=True).read_bytes() == GGUF
    assert {progress.phase for progress in seen} == {"verifying", "downloading"}


def test_a_touched_but_equal_file_is_accepted_after_a_full_hash(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    path = store.pull("tiny", weights)
    os.utime(path, (1, 1))
    assert store.find(weights) == path
    assert store.records()[0].mtime_ns == 10**9


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{")])
def test_a_lost_record_is_rebuilt_from_the_content(
    tmp_path: Path, store: ArtifactStore, harm: Callable[[Path], object]
) -> None:
    weights = file_weights(tmp_path, GGUF)
    path = store.pull("tiny", weights)
    harm(path.with_name("artifact.json"))
    assert store.find(weights) == path
    assert store.records()[0].size_bytes == len(GGUF)


def test_a_lost_file_beside_its_record_is_fetched_again(tmp_path: Path, store: ArtifactStore) -> None:
    weights = file_weights(tmp_path, GGUF)
    store.pull("tiny", weights).unlink()
    assert not store.has(weights)
    with pytest.raises(WeightsInvalid):
        store.find(weights)
    assert store.pull("tiny", weights).read_bytes() == GGUF


def test_the_next_source_is_asked_when_one_fails(tmp_path: Path, store: ArtifactStore) -> None:
    good = file_weights(tmp_path, GGUF)
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(tiny_gguf())
    missing = FileSource(path=str(tmp_path / "missing"))
    path = store.pull("tiny", weights_of(GGUF, missing, FileSource(path=str(wrong)), *good.sources))  # type: ignore[arg-type]  # file sources only
    assert path.read_bytes() == GGUF


def test_every_source_is_named_when_all_fail(tmp_path: Path, store: ArtifactStore) -> None:
    weights = weights_of(GGUF, FileSource(path="/nowhere/a"), FileSource(path="/nowhere/b"))
    with pytest.raises(SourceUnreachable, match=r"/nowhere/a.*/nowhere/b"):
        store.pull("tiny", weights)
    assert staged(tmp_path) == []


def test_weights_larger_than_the_disk_are_refused_before_the_first_byte(
    tmp_path: Path, store: ArtifactStore
) -> None:
    weights = Weights(
        precision="f32", sources=(FileSource(path="/dev/zero"),), size_bytes=10**18, sha256="0" * 64
    )
    with pytest.raises(StorageFailed, match="bytes are needed"):
        store.pull("tiny", weights)
    assert staged(tmp_path) == []


def test_a_watch_that_raises_stops_the_pull_and_leaves_nothing(tmp_path: Path, store: ArtifactStore) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    weights = file_weights(tmp_path, GGUF)
    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", weights, stop)
    assert staged(tmp_path) == []
    assert store.pull("tiny", weights).read_bytes() == GGUF


def test_a_folder_that_cannot_be_made_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    weights = file_weights(tmp_path, GGUF)
    with pytest.raises(StorageFailed, match="OUTPACE_HOME"):
        ArtifactStore(tmp_path / "file").pull("tiny", weights)


# -- weights without a hash on their card -----------------------------------------------------------

REVISION = "0" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving() as files:
        here = partial(fetch_hub, endpoint=files.base_url)
        monkeypatch.setattr("outpace.catalogue.sources.hub.fetch_hub", here)
        yield files


def hub_weights(files: FileServer, etag: str) -> Weights:
    path = f"/a/b/resolve/{REVISION}/tiny.gguf"
    files.files[path] = GGUF
    files.headers[path] = {"X-Repo-Commit": REVISION, "ETag": f'"{etag}"'}
    source = HubSource(repo="a/b", file="tiny.gguf", revision=REVISION)
    return Weights(precision="f32", sources=(source,), verify="hub")


def test_a_hub_file_is_verified_by_the_hubs_own_hash_and_found_again(
    store: ArtifactStore, hub: FileServer
) -> None:
    digest = sha256(GGUF).hexdigest()
    weights = hub_weights(hub, digest)
    assert store.find(weights) is None
    path = store.pull("tiny", weights)
    assert digest in path.parts
    num_requests = len(hub.seen)
    assert store.find(weights) == store.pull("tiny", weights) == path
    assert len(hub.seen) == num_requests


def test_a_hub_file_that_is_not_what_the_hub_said_is_refused(store: ArtifactStore, hub: FileServer) -> None:
    weights = hub_weights(hub, "b" * 64)
    with pytest.raises(WeightsInvalid, match="sha256"):
        store.pull("tiny", weights)
    assert not store.has(weights)


# -- several processes ------------------------------------------------------------------------------

PULL = """
import resource, sys
from pathlib import Path
import msgspec
from outpace.catalogue.cards import Weights
from outpace.catalogue.store import ArtifactStore
folder, limit_bytes, weights = Path(sys.argv[1]), int(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=Weights)
if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
phases = []
try:
    path = ArtifactStore(folder).pull("tiny", weights, lambda progress: phases.append(progress.phase))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(path, "waiting" in phases, flush=True)
"""


def pulling(folder: Path, weights: Weights, limit_bytes: int = 0) -> subprocess.Popen[str]:
    """A process that pulls `weights`; at most `limit_bytes` can be written to one file."""
    import msgspec

    argv = [sys.executable, "-c", PULL, str(folder), str(limit_bytes), msgspec.json.encode(weights).decode()]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def served(files: FileServer, content: bytes = GGUF) -> Weights:
    files.files["/weights.gguf"] = content
    return weights_of(content, HttpsSource(url=f"{files.base_url}/weights.gguf"))


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pulling(tmp_path / "artifacts", file_weights(tmp_path, GGUF), limit_bytes=len(GGUF) // 2) as child:
        _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "StorageFailed" in said
    assert "free some space" in said
    assert staged(tmp_path) == []
    assert not list((tmp_path / "artifacts").glob("sha256/*"))


def test_two_processes_share_one_download(tmp_path: Path) -> None:
    with serving() as files:
        weights = served(files)
        files.may_send.clear()
        with pulling(tmp_path / "artifacts", weights) as first:
            assert files.is_asked.wait(60)
            seen: list[Progress] = []
            waiting = threading.Event()

            def watch(progress: Progress) -> None:
                seen.append(progress)
                waiting.set()

            paths: list[Path] = []
            store = ArtifactStore(tmp_path / "artifacts")
            second = threading.Thread(target=lambda: paths.append(store.pull("tiny", weights, watch)))
            second.start()
            assert waiting.wait(60)
            files.may_send.set()
            said, _ = first.communicate(timeout=60)
            second.join(60)
        assert said.split() == [str(paths[0]), "False"]
        assert {progress.phase for progress in seen} == {"waiting"}
        assert len(files.seen) == 1


def test_a_killed_pull_is_taken_over_where_it_stopped(tmp_path: Path) -> None:
    with serving() as files:
        weights = served(files)
        files.break_after_bytes = 10_000
        with pulling(tmp_path / "artifacts", weights) as broken:
            broken.communicate(timeout=60)
        assert broken.returncode == 1
        assert staged(tmp_path) == ["download.part"]
        files.may_send.clear()
        files.is_asked.clear()
        with pulling(tmp_path / "artifacts", weights) as first:
            assert files.is_asked.wait(60)
            first.send_signal(signal.SIGKILL)
            first.wait(60)
        files.break_after_bytes = None
        files.may_send.set()
        path = ArtifactStore(tmp_path / "artifacts").pull("tiny", weights)
        assert path.read_bytes() == GGUF
        assert files.seen[-1][2] == "bytes=10000-"
        assert staged(tmp_path) == []


def test_a_partial_file_of_other_content_is_fetched_from_the_start(tmp_path: Path) -> None:
    with serving() as files:
        weights = served(files)
        files.files["/weights.gguf"] = bytes(len(GGUF))
        files.break_after_bytes = 10_000
        store = ArtifactStore(tmp_path / "artifacts")
        with pytest.raises(SourceUnreachable):
            store.pull("tiny", weights)
        files.files["/weights.gguf"] = GGUF
        files.break_after_bytes = None
        assert store.pull("tiny", weights).read_bytes() == GGUF
