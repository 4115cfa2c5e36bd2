"""What the benchmarks share on the command line: loads, rounds, and a line that moves."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.values.errors import InvalidInput

if TYPE_CHECKING:
    from outpace.lab.compare import Run

LoadsOption = Annotated[str, typer.Option("--users", help="Loads to measure: users at once, by commas.")]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, max=50, help="Turns of each side.")]
_MOST_USERS = 256


def loads_of(text: str) -> tuple[int, ...]:
    """Loads out of an option, ascending. Raises InvalidInput."""
    try:
        loads = tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise InvalidInput("--users", f"{text[:60]!r} is no list of numbers such as 1,8,32") from None
    if not loads or loads[0] < 1 or loads[-1] > _MOST_USERS:
        raise InvalidInput("--users", f"between 1 and {_MOST_USERS}")
    return loads


class Progress:
    """Tells on stderr what was measured, and on a terminal what is measured now."""

    def __init__(self, title: str, show: Callable[[str], None]) -> None:
        self._title = title
        self._show = show

    def began(self, side: str, workload: str, users: int, number: int) -> None:
        """A round begins."""
        self._show(f"{self._title}  {workload}  {side}  {users} at once, round {number + 1}")

    def ended(self, run: "Run") -> None:
        """All rounds of a side at a load are done."""
        figures = run.middle
        failed = f"  {figures.errors} failed" if figures.errors else ""
        rate = f"{figures.output_tokens_per_s:8.1f} tok/s in {figures.wall_s:.1f} s{failed}"
        typer.echo(f"  {run.workload:<12} {run.side:<12} {run.users:>3} users {rate}", err=True)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Who follows a benchmark at the terminal."""
    if not sys.stderr.isatty():
        yield Progress(title, lambda words: None)
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as line:
        yield Progress(title, line.update)
