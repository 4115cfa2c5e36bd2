"""What commands print: JSON, tables, and lines; coloured only on a terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

# A pipe has no width: long enough that no cell is cut.
_PIPE_COLUMNS = 400


def as_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "nothing") -> None:
    """Print aligned rows; columns named with a trailing `>` are right-aligned."""
    listed = [[cell(value) for value in row] for row in rows]
    if not listed:
        typer.echo(empty)
        return
    console().print(_table(columns, listed))


def console() -> "Console":
    """The terminal, or a stream without colours."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False, soft_wrap=False)


def cell(value: object) -> str:
    """A value as people read it; what is not known is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def usd(amount: str | None) -> str:
    """A decimal amount with its sign; None is no price."""
    return "–" if amount is None else f"${Decimal(amount):f}"


def moment(seconds: float | None) -> str | None:
    """A wall-clock time in the reader's zone, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def is_interactive() -> bool:
    """A person can be asked here."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _table(columns: Sequence[str], rows: list[list[str]]) -> object:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        made.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        # Text, because a name or a reason may hold what Rich takes for markup.
        made.add_row(*(Text(value) for value in row))
    return made


def price_words(price: dict[str, str] | None) -> str | None:
    """`0.01 / 0.02` USD per million tokens; None is no price."""
    if price is None:
        return None
    return f"{price['input_usd_per_mtok']} / {price['output_usd_per_mtok']}"


@contextmanager
def waiting(title: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line that moves while a deployment comes up, on a terminal; call what it gives with each state seen."""
    if not sys.stdout.isatty():
        yield lambda deployment: None
        return
    with console().status(title) as line:

        def show(deployment: dict[str, Any]) -> None:
            reason = f": {deployment['reason']}" if deployment.get("reason") else ""
            line.update(f"{title}   {deployment['state']}{reason}")

        yield show
