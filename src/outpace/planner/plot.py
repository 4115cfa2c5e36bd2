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
_BAR_HEIGHT, _BAR_STEP = 14, 42
_DOT_RADIUS = 8
# Rough width of a letter at 12 px: names of options must not leave the picture.
_LONGEST_LABEL = 105
_FEWEST_TICKS = 2
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
    points = [_place(option) for option in every]
    x = _axis([p[0] for p in points], _MARGIN, _WIDTH - _MARGIN)
    y = _axis([p[1] for p in points], _HEIGHT - _MARGIN, _MARGIN)
    yield from _ticks(x, y)
    yield _text(_WIDTH / 2 - 120, _HEIGHT - 22, "ITL at the objective's percentile, ms (log)")
    yield _text(8, 50, "$ per million output tokens (log)")
    for latency, cost in points:
        yield f'<circle cx="{x(latency):.1f}" cy="{y(cost):.1f}" r="3" fill="#c8c8c8"/>'
    front = _pareto(points)
    path = " ".join(f"{x(latency):.1f},{y(cost):.1f}" for latency, cost in front)
    yield f'<polyline points="{path}" fill="none" stroke="#3b6ea5" stroke-width="1.5"/>'
    for number, option in reversed(list(enumerate(named, start=1))):
        latency, cost = _place(option)
        yield f'<circle cx="{x(latency):.1f}" cy="{y(cost):.1f}" r="{_DOT_RADIUS}" fill="#d1495b"/>'
        yield _text(x(latency) - 3.5, y(cost) + 4, str(number), colour="white")


def _place(option: Option) -> tuple[float, float]:
    """Milliseconds and dollars per million tokens."""
    return option.point.itl_ms, (option.pusd_per_mtok or 0) / PUSD_PER_USD


def _ticks(x: "_axis", y: "_axis") -> Iterator[str]:
    bottom, left = _HEIGHT - _MARGIN + 12, _MARGIN - 12
    yield f'<path d="M{left} {_MARGIN - 12}V{bottom}H{_WIDTH - _MARGIN + 12}" fill="none" stroke="#888"/>'
    for value in x.round_values:
        yield _text(x(value) - 8, bottom + 15, f"{value:g}")
        yield f'<path d="M{x(value):.1f} {bottom}v-5" stroke="#888"/>'
    for value in y.round_values:
        yield _text(10, y(value) + 4, f"{value:g}")
        yield f'<path d="M{left} {y(value):.1f}h5" stroke="#888"/>'


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
    room = _WIDTH - 2 * _MARGIN
    cache = min(option.point.in_flight * use.kv_bytes_per_sequence, max(use.kv_room_bytes, 0.0))
    parts = {
        "weights": use.weights_bytes,
        "KV in use": cache,
        "activations": use.activations_bytes,
        "reserve": use.reserve_bytes,
    }
    parts["free"] = max(0.0, use.capacity_bytes - sum(parts.values()))
    latency, cost = _place(option)
    label = (
        f"{number}. {option.point.variant.label}: ${cost:.3g}/Mtok, ITL {latency:.3g} ms, "
        f"{use.capacity_bytes / GB:.0f} GB per device"
    )
    yield _text(_MARGIN, y + 10, label[:_LONGEST_LABEL])
    x = float(_MARGIN)
    for name, size in parts.items():
        width = room * size / use.capacity_bytes
        title = f"<title>{name} {size / GB:.1f} GB</title>"
        box = f'x="{x:.1f}" y="{y + 15}" width="{width:.1f}" height="{_BAR_HEIGHT}"'
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

    @property
    def round_values(self) -> list[float]:
        """Round values inside the scale: coarse ones, or finer ones where the scale is short."""
        coarse = self._inside((1, 2, 5))
        return coarse if len(coarse) > _FEWEST_TICKS else self._inside((1, 1.5, 2, 2.5, 3, 4, 5, 6, 8))

    def _inside(self, steps: Sequence[float]) -> list[float]:
        low, high = math.exp(self._low), math.exp(self._high)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [v for v in (step * 10.0**decade for decade in decades for step in steps) if low <= v <= high]

    def __call__(self, value: float) -> float:
        share = (math.log(max(value, 1e-9)) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _text(x: float, y: float, words: str, size: int = 12, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(words)}</text>'
