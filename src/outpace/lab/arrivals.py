"""Arrivals of requests for replays: made by a process with a seed, or read from a recorded trace."""

import csv
import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from outpace.lab.recorded import Scale, recorded_lengths
from outpace.lab.workload import named
from outpace.values.errors import InvalidInput

_PLAIN = ("at_s", "input_tokens", "output_tokens")
# Prompts of the shipped workloads are questions of about this length.
_INPUT_TOKENS = (20, 180)
_BURST_S = (20.0, 60.0)
_PAUSE_S = (60.0, 240.0)
_NIGHT_SHARE = 0.05


class Ask(msgspec.Struct, frozen=True):
    """A request: when it comes, and its lengths in tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int


def poisson(per_s: float, for_s: float, seed: int) -> list[Ask]:
    """Independent arrivals at a steady rate."""
    return _asks(lambda at_s: per_s, per_s, for_s, seed)


def bursts(per_s: float, for_s: float, seed: int) -> list[Ask]:
    """Bursts of 20 to 60 s at `per_s` between pauses of 1 to 4 minutes without any request."""
    dice, spans, at_s = random.Random(f"bursts/{seed}"), [], 0.0
    while at_s < for_s:
        begin_s = at_s + dice.uniform(*_PAUSE_S)
        at_s = begin_s + dice.uniform(*_BURST_S)
        spans.append((begin_s, at_s))
    is_on = [False] * (int(for_s) + 1)
    for begin_s, end_s in spans:
        for second in range(int(begin_s), min(int(end_s), len(is_on))):
            is_on[second] = True
    return _asks(lambda at_s: per_s if is_on[int(at_s)] else 0.0, per_s, for_s, seed)


def day(per_s: float, for_s: float, seed: int) -> list[Ask]:
    """One day, however long `for_s` makes it: a sine from 5 % of `per_s` at its night to all of it at its noon."""

    def rate(at_s: float) -> float:
        height = (1 - math.cos(2 * math.pi * at_s / for_s)) / 2
        return per_s * (_NIGHT_SHARE + (1 - _NIGHT_SHARE) * height)

    return _asks(rate, per_s, for_s, seed)


PROCESSES: dict[str, Callable[[float, float, int], list[Ask]]] = {
    "poisson": poisson,
    "bursts": bursts,
    "day": day,
}


def of_file(path: Path, scale: Scale, most: int | None = None) -> list[Ask]:
    """A recorded trace in time order, beginning at 0: the formats of `lab.recorded`, or CSV with at_s, input_tokens,
    output_tokens. Raises InvalidInput naming the line.
    """
    found: list[Ask] = []
    for at_s, input_tokens, output_tokens in _rows(path, scale):
        if most is not None and len(found) >= most:
            break
        found.append(Ask(at_s, input_tokens, output_tokens))
    if not found:
        raise InvalidInput("trace", f"{path} holds no request with a time of arrival")
    found.sort(key=lambda ask: ask.at_s)
    return [msgspec.structs.replace(ask, at_s=ask.at_s - found[0].at_s) for ask in found]


def _rows(path: Path, scale: Scale) -> Iterator[tuple[float, int, int]]:
    try:
        with path.open(encoding="utf-8") as file:
            is_plain = tuple(file.readline().strip().split(","))[:3] == _PLAIN
            if is_plain:
                yield from _plain(file, scale)
                return
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("trace", f"{path} cannot be read: {error}") from error
    yield from recorded_lengths(path, scale)


def _plain(lines: Iterable[str], scale: Scale) -> Iterator[tuple[float, int, int]]:
    for number, row in enumerate(csv.reader(lines), 2):
        try:
            at_s, input_tokens, output_tokens = float(row[0]), int(row[1]), int(row[2])
        except (IndexError, ValueError) as error:
            raise InvalidInput("trace", f"line {number}: {error}") from error
        if not 0 <= at_s < math.inf or input_tokens < 0 or output_tokens < 1:
            raise InvalidInput("trace", f"line {number}: times and lengths must not be negative")
        yield at_s * scale.time, *scale.lengths(input_tokens, output_tokens)


def _asks(rate: Callable[[float], float], highest: float, for_s: float, seed: int) -> list[Ask]:
    """A Poisson process of changing rate, by thinning one of the highest (Lewis and Shedler, 1979)."""
    if not 0 < highest < math.inf or not 0 < for_s < math.inf:
        raise InvalidInput("rate", "rate and duration must be above 0")
    dice, output, asks = random.Random(f"arrivals/{seed}"), named("chat").output_tokens, []
    at_s = dice.expovariate(highest)
    while at_s < for_s:
        if dice.random() * highest < rate(at_s):
            asks.append(Ask(at_s, dice.randint(*_INPUT_TOKENS), output.draw(dice)))
        at_s += dice.expovariate(highest)
    if not asks:
        raise InvalidInput("rate", "no request arrives; give a higher rate or a longer time")
    return asks
