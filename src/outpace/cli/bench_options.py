"""What the benchmarks share on the command line: loads, rounds, and a line that moves."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.values.errors import InvalidInput

if TYPE_CHECKING:
    from outpace.lab.compare import Say

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


@contextmanager
def progress(title: str) -> Iterator["Say"]:
    """A line with what is measured now, on a terminal; silence anywhere else."""
    if not sys.stderr.isatty():
        yield lambda side, workload, users, number: None
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as line:
        yield lambda side, workload, users, number: line.update(
            f"{title}  {workload}  {side}  {users} at once, round {number + 1}"
        )
