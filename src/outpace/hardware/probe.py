"""Measure this machine in about two seconds: how fast memory is read and how fast floats are multiplied."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from outpace.hardware.machine import usable_cores
from outpace.values.clock import Clock
from outpace.values.errors import InvalidInput
from outpace.values.units import MIB

# Several times any level-3 cache, so that reads come from memory.
_READ_BYTES = 256 * MIB
_MATRIX = 1024
_READ_ROUNDS = 6
_MULTIPLY_ROUNDS = 6
_FASTEST_TOKENS_PER_S = 1e6


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Measured rates of a machine and when; `runs` holds real decode speeds by artifact beside what was predicted."""

    processor: str
    cores: int
    read_bytes_per_s: float
    multiply_flops: float
    probed_at_s: float
    runs: dict[str, "Run"] = {}


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A real decode speed of one sequence, and what the probe alone had predicted; tokens per second."""

    format: str
    predicted: float
    measured: float


def probe(processor: str, clock: Clock, cores: int | None = None) -> Probe:
    """Read and multiply with all usable cores; the best round counts, because other work only slows."""
    threads = cores or usable_cores()
    return Probe(
        processor=processor,
        cores=threads,
        read_bytes_per_s=_read_rate(threads, clock),
        multiply_flops=_multiply_rate(clock),
        probed_at_s=clock.wall_s(),
    )


def _read_rate(threads: int, clock: Clock) -> float:
    # A dot product reads everything once and keeps only a sum.
    parts = [np.ones(_READ_BYTES // 4 // threads, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return _READ_BYTES / _best_s(
            lambda: list(pool.map(lambda part: np.dot(part, part), parts)), _READ_ROUNDS, clock
        )


def _multiply_rate(clock: Clock) -> float:
    matrix = np.full((_MATRIX, _MATRIX), 0.5, np.float32)
    return 2.0 * _MATRIX**3 / _best_s(lambda: matrix @ matrix, _MULTIPLY_ROUNDS, clock)


def _best_s(work: Callable[[], object], rounds: int, clock: Clock) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = clock.monotonic_s()
        work()
        best = min(best, clock.monotonic_s() - start)
    return max(best, 1e-9)


def load_probe(path: Path) -> Probe | None:
    """The kept probe; None when there is none. Raises InvalidInput when the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Probe)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as problem:
        raise InvalidInput(
            "home", f"{path} is damaged ({problem}); delete it and it is measured again"
        ) from problem


def save_probe(found: Probe, path: Path) -> None:
    """Keep a probe; a reader sees the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    fresh.replace(path)


def with_run(found: Probe, artifact: str, run: Run) -> Probe:
    """The probe with a real run. Raises InvalidInput for a speed that is none."""
    if not 0 < run.measured < _FASTEST_TOKENS_PER_S:
        raise InvalidInput("measured", f"{run.measured:g} tokens/s is not a decode speed")
    return msgspec.structs.replace(found, runs={**found.runs, artifact: run})
