"""One replica per engine, started once for the whole suite."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.contract.replicas import RunningReplica, running_replica
from tests.weights import made_artifacts, smollm2_gguf

from outpace.engines.child import TOKEN_ENV
from outpace.engines.registry import engine
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.snapshot import DeploymentEntry

__all__ = ["smollm2_gguf"]

CONTEXT_TOKENS = 512
TASKS: tuple[Task, ...] = ("chat", "completions", "embeddings")
CONTROL_TEXTS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A short path: a socket's name has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="outpace-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def start(sockets: Path) -> Iterator[Callable[[str, Path | None], RunningReplica]]:
    """Starts a replica of an engine and keeps it until the end of the suite."""
    running: dict[str, RunningReplica] = {}
    with ExitStack() as stack:

        def started(name: str, artifact: Path | None) -> RunningReplica:
            if name not in running:
                running[name] = stack.enter_context(_replica(name, artifact, sockets))
            return running[name]

        yield started


def order(name: str, artifact: Path | None, sockets: Path, **settings: str | float | bool) -> LaunchOrder:
    """An order for a small replica of two sequences."""
    return LaunchOrder(
        replica_id=f"{name}-1",
        deployment=f"public/{name}",
        model="smollm2-135m-instruct",
        artifact_path=str(artifact) if artifact else None,
        artifacts_dir=str(made_artifacts()),
        tasks=TASKS,
        context_tokens=CONTEXT_TOKENS,
        parallel=2,
        # One: threads that wait for each other crawl when the machine is busy.
        threads=1,
        socket_dir=str(sockets),
        token="token-of-the-replica",
        engine_settings=settings,
    )


def entry(name: str, engine_name: str, engine_model: str) -> DeploymentEntry:
    """The deployment as the gateway would know it."""
    return DeploymentEntry(
        name=name,
        model="smollm2-135m-instruct",
        engine_model=engine_model,
        engine=engine_name,
        state="ready",
        created=1,
        owned_by="outpace",
        tasks=TASKS,
        context_tokens=CONTEXT_TOKENS,
        control_texts=CONTROL_TEXTS,
    )


def _replica(name: str, artifact: Path | None, sockets: Path) -> AbstractContextManager[RunningReplica]:
    if name == "external":
        return _upstream(sockets)
    adapter = engine(name)
    launch = adapter.launch(order(name, artifact, sockets))
    return running_replica(
        adapter, launch, entry(f"public/{name}", name, f"public/{name}"), sockets / f"{name}.log"
    )


@contextmanager
def _upstream(sockets: Path) -> Iterator[RunningReplica]:
    """An OpenAI-compatible API at a URL, reached by the external adapter: an echo process on a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "address": f"http://127.0.0.1:{port}",
        "model": "upstream-name",
        "switches": {"context_tokens": CONTEXT_TOKENS},
    }
    launch = Launch(
        argv=(
            sys.executable,
            "-m",
            "outpace.engines.echo_server",
            "--config",
            msgspec.json.encode(config).decode(),
        ),
        address=f"http://127.0.0.1:{port}/v1",
        token="token-of-the-upstream",
        env={TOKEN_ENV: "token-of-the-upstream"},
    )
    deployment = entry("public/external", "external", "upstream-name")
    with running_replica(engine("external"), launch, deployment, sockets / "external.log") as replica:
        yield replica
