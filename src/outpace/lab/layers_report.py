"""The story of the layers as one HTML file without anything from elsewhere: a table, and bars by load."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from outpace.lab.layers import LAYERS, Factor, Story, factors

_WIDTH, _BAR, _GAP, _LEFT = 860, 22, 8, 130
_COLOURS = {1: "#8aa9c4", 8: "#3b6ea5", 32: "#1f3f63"}
_OTHER_COLOUR = "#3b6ea5"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}"
    "th{font-weight:600;color:#555}small{color:#666}h2{margin-top:2rem}svg{max-width:100%;height:auto}"
)


def story_html(story: Story) -> str:
    """The whole page."""
    made = factors(story)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>Layers of {escape(story.model)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>What each layer adds: {escape(story.model)}</h1>",
            f"<p><small>{escape(_conditions(story))}</small></p>",
            *_skipped(story),
            "<h2>Output tokens per second</h2>",
            _bars(made, [factor.output_tokens_per_s for factor in made], "tok/s", 1),
            "<h2>Time to the first token, median</h2>",
            _bars(made, [factor.ttft_ms for factor in made], "ms", 0),
            "<h2>Time between tokens, median</h2>",
            _bars(made, [factor.itl_ms for factor in made], "ms", 1),
            "<h2>Factors</h2>",
            *_table(made),
            "<h2>The layers</h2><ul>",
            *(f"<li><b>{escape(layer.name)}</b>: {escape(layer.about)}</li>" for layer in LAYERS),
            "</ul></body></html>",
            "",
        ]
    )


def _conditions(story: Story) -> str:
    day = datetime.fromtimestamp(story.measured_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    rounds = f"{story.rounds} round{'s' if story.rounds > 1 else ''} in turns"
    return f"{day} · {story.machine} · {story.engine_version} · served as {story.served_precision} · {rounds}"


def _skipped(story: Story) -> list[str]:
    return [f"<p><b>{escape(name)}</b> is left out: {escape(why)}</p>" for name, why in story.skipped.items()]


def _bars(made: Sequence[Factor], values: Sequence[float | None], unit: str, digits: int) -> str:
    """Horizontal bars, grouped by layer."""
    longest = max((value for value in values if value is not None), default=1.0) or 1.0
    room = _WIDTH - _LEFT - 190
    parts: list[str] = []
    y, shown = 0, ""
    for factor, value in zip(made, values, strict=True):
        if factor.layer != shown:
            y += _GAP
            parts.append(_text(0, y + _BAR - 7, factor.layer))
            shown = factor.layer
        if value is not None:
            width = max(1.0, room * value / longest)
            parts.append(_rect(y, width, factor.users))
            label = f"{value:,.{digits}f} {unit} · {factor.users} user{'s' if factor.users > 1 else ''}"
            parts.append(_text(_LEFT + width + 6, y + _BAR - 7, label))
        y += _BAR
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + _GAP}" width="{_WIDTH}"'
    return f'{head} font-family="system-ui,sans-serif">{"".join(parts)}</svg>'


def _rect(y: int, width: float, users: int) -> str:
    colour = _COLOURS.get(users, _OTHER_COLOUR)
    return f'<rect x="{_LEFT}" y="{y + 2}" width="{width:.1f}" height="{_BAR - 4}" fill="{colour}" rx="2"/>'


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" fill="#222">{escape(words)}</text>'


def _table(made: Sequence[Factor]) -> Iterator[str]:
    yield "<table><thead><tr>"
    names = ("layer", "workload", "users", "tok/s", "× before", "× first", "TTFT ms", "ITL ms")
    yield "".join(f"<th>{name}</th>" for name in names)
    yield "</tr></thead><tbody>"
    for factor in made:
        cells = (
            factor.layer,
            factor.workload,
            str(factor.users),
            f"{factor.output_tokens_per_s:.1f}",
            _times(factor.over_before),
            _times(factor.over_first),
            "–" if factor.ttft_ms is None else f"{factor.ttft_ms:,.0f}",
            "–" if factor.itl_ms is None else f"{factor.itl_ms:.1f}",
        )
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table>"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
