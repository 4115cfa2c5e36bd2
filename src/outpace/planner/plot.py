"""A plan as one SVG file: cost against latency with the Pareto line, and what fills each option's memory.

Two charts do not need a plotting library: the file is text, opens in any browser and can be compared in git.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from outpace.planner.choose import Option, Plan
from outpace.values.money import PUSD_PER_USD
from outpace.values.units import GB

_WIDTH, _HEIGHT, _MARGIN = 900, 420, 70
_BAR_HEIGHT, _BAR_STEP = 16, 30
_COLOURS = {
    "weights": "#3b6ea5",
    "KV in use": "#7fb069",
    "activations": "#e6aa68",
    "reserve": "#b0b0b0",
    "free": "#eeeeee",
}


def plan_svg(plan: Plan) -> str:
    """The whole picture; an empty plan gives a page that says so."""
    shown = [plan.best, *plan.runners_up] if plan.best else []
    options = [option for option in shown if option]
    height = _HEIGHT + 60 + _BAR_STEP * len(options)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_MARGIN, 24, f"{plan.shape.name}: cost against latency, {plan.considered} variants", size=16),
    ]
    if not options:
        parts.append(_text(_MARGIN, 60, "nothing meets the objective"))
    else:
        parts += _scatter(plan.options, options)
        parts += _memory_bars(options, _HEIGHT + 20)
    return "\n".join([*parts, "</svg>", ""])


def _scatter(every: Sequence[Option], named: Sequence[Option]) -> Iterator[str]:
    points = [(option.point.itl_ms, (option.pusd_per_mtok or 0) / PUSD_PER_USD) for option in every]
    x = _axis([p[0] for p in points], _MARGIN, _WIDTH - _MARGIN)
    y = _axis([p[1] for p in points], _HEIGHT - _MARGIN / 2, _MARGIN)
    yield _text(_WIDTH / 2, _HEIGHT, "ITL at the objective's percentile, ms (log)")
    yield _text(8, 44, "$ per million output tokens (log)")
    for latency, cost in points:
        yield f'<circle cx="{x(latency):.1f}" cy="{y(cost):.1f}" r="3" fill="#c8c8c8"/>'
    front = _pareto(points)
    path = " ".join(f"{x(latency):.1f},{y(cost):.1f}" for latency, cost in front)
    yield f'<polyline points="{path}" fill="none" stroke="#3b6ea5" stroke-width="1.5"/>'
    for number, option in enumerate(named, start=1):
        latency, cost = option.point.itl_ms, (option.pusd_per_mtok or 0) / PUSD_PER_USD
        yield f'<circle cx="{x(latency):.1f}" cy="{y(cost):.1f}" r="5" fill="#d1495b"/>'
        label = f"{number}. {option.point.variant.device.name} ${cost:.3g} {latency:.3g} ms"
        yield _text(x(latency) + 8, y(cost) + 4 + 12 * (number % 2), label)


def _memory_bars(options: Sequence[Option], top: float) -> Iterator[str]:
    legend = _MARGIN
    for name, colour in _COLOURS.items():
        yield f'<rect x="{legend}" y="{top}" width="12" height="12" fill="{colour}" stroke="#888"/>'
        yield _text(legend + 16, top + 11, name)
        legend += 110
    for number, option in enumerate(options, start=1):
        yield from _bar(option, number, top + 30 + _BAR_STEP * (number - 1))


def _bar(option: Option, number: int, y: float) -> Iterator[str]:
    use = option.point.variant.memory
    room = _WIDTH - 2 * _MARGIN - 240
    cache = min(option.point.in_flight * use.kv_bytes_per_sequence, max(use.kv_room_bytes, 0.0))
    parts = {
        "weights": use.weights_bytes,
        "KV in use": cache,
        "activations": use.activations_bytes,
        "reserve": use.reserve_bytes,
    }
    parts["free"] = max(0.0, use.capacity_bytes - sum(parts.values()))
    x = float(_MARGIN + 240)
    yield _text(_MARGIN, y + 12, f"{number}. {option.point.variant.label}"[:44])
    for name, size in parts.items():
        width = room * size / use.capacity_bytes
        title = f"<title>{name} {size / GB:.1f} GB</title>"
        box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR_HEIGHT}"'
        yield f'<rect {box} fill="{_COLOURS[name]}">{title}</rect>'
        x += width


def _pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


class _axis:  # noqa: N801 - reads as a function of a value
    """A logarithmic scale from values to pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        logs = [math.log(max(value, 1e-9)) for value in values]
        self._low, self._high = min(logs), max(max(logs), min(logs) + 1e-6)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log(max(value, 1e-9)) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _text(x: float, y: float, words: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(words)}</text>'
