"""The programs that the benchmark compares, as child processes with a port, a key and their pids."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.cpu import children
from outpace.values.clock import SystemClock, sleep_blocking

_clock = SystemClock()


@dataclass(frozen=True)
class Target:
    """Something that answers `POST /v1/chat/completions`."""

    name: str
    port: int
    key: str | None
    # Model name to ask for.
    model: str
    # Processes whose CPU time is the cost of this way; none for the engine itself.
    pids: tuple[int, ...]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def echo_engine() -> Iterator[Target]:
    """The echo engine on a TCP port of its own, as any router would see an engine."""
    port = free_port()
    config = {"address": f"http://127.0.0.1:{port}"}
    argv = [sys.executable, "-m", "outpace.engines.echo_server", "--config", json.dumps(config)]
    with _running(argv, f"http://127.0.0.1:{port}/health"):
        yield Target(name="direct", port=port, key=None, model="echo", pids=())


@contextmanager
def smg(python: Path, engine: Target) -> Iterator[Target]:
    """smg with one worker; it has no accounts, so it gets no key. `python` is an environment with smg installed."""
    port, metrics_port = free_port(), free_port()
    argv = [str(python.parent / "smg"), "launch", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", f"http://127.0.0.1:{engine.port}", "--policy", "round_robin"]
    argv += ["--prometheus-port", str(metrics_port), "--log-level", "error", "--model-path", "echo"]
    with _running(argv, f"http://127.0.0.1:{port}/health") as pid:
        _wait_until(lambda: _answers(port, None, "echo"), "smg does not route to the engine")
        yield Target(name="smg", port=port, key=None, model="echo", pids=tuple(children(pid)))


@contextmanager
def outpace(home: Path, *, model: str, workers: int = 1) -> Iterator[Target]:
    """A whole platform with keys, quotas, journal and ledger on; the cost is that of its gateway workers.

    The key used has limits and a budget, so that every check is made for every request.
    """
    port, admin_port = free_port(), free_port()
    shutil.rmtree(home, ignore_errors=True)
    base = [sys.executable, "-m", "outpace.cli.app"]
    place = ["--home", str(home)]
    up = ["up", *place, "--port", str(port), "--admin-port", str(admin_port), "--model", model, "--detach"]
    # Proofs and profiles in the background would use the cores that are measured.
    quiet = {**os.environ, "OUTPACE_PROVE": "off", "OUTPACE_PROFILE": "off"}
    subprocess.run([*base, *up, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL, env=quiet)
    try:
        limits = ["--rpm", "100000000", "--tpm", "1000000000", "--budget-usd", "100000"]
        made = _json([*base, "keys", "create", "--name", "bench", *limits, "--json"], home)
        status = _json([*base, "status", "--json"], home)
        pids = tuple(worker["pid"] for worker in status["workers"] if worker["name"].startswith("gateway"))
        _wait_until(lambda: _answers(port, made["key"], model), "Outpace does not answer")
        yield Target(name="outpace", port=port, key=made["key"], model=model, pids=pids)
    finally:
        subprocess.run([*base, "down", *place], check=True, stdout=subprocess.DEVNULL)


def _json(argv: list[str], home: Path) -> dict[str, object] | list[object]:
    environment = {**os.environ, "OUTPACE_HOME": str(home)}
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout)


def _answers(port: int, key: str | None, model: str) -> bool:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def _running(argv: list[str], health: str) -> Iterator[int]:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        _wait_until(lambda: _is_up(health), f"{argv[0]} does not come up")
        yield process.pid


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until(is_so: "object", complaint: str, deadline_s: float = 60.0) -> None:
    assert callable(is_so)
    end_s = _clock.monotonic_s() + deadline_s
    while not is_so():
        if _clock.monotonic_s() > end_s:
            raise SystemExit(complaint)
        sleep_blocking(0.1)
