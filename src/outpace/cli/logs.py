"""`outpace logs`: what the platform's processes and replicas wrote; works when nothing runs any more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json
from outpace.fleet.logs import last_lines
from outpace.values.clock import sleep_blocking
from outpace.values.errors import NotFound

_FOLLOW_S = 0.2

EXAMPLE = "Example: outpace logs control -f"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(logs)


def logs(
    name: Annotated[
        str | None, typer.Argument(help="Process, replica, or deployment; without it the names are listed.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what is written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=100_000, help="Last lines to print.")
    ] = 100,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Print the end of a log. Prompts and answers are never in it."""
    folder = home_at(home).logs
    if name is None:
        _list_names(folder, json=json)
        return
    chosen = _chosen(folder, name)
    if json:
        as_json([{"name": one, "lines": last_lines(folder, one, lines)} for one in chosen])
        return
    for one in chosen:
        for line in last_lines(folder, one, lines):
            typer.echo(_told(one, line, chosen))
    if follow:
        _follow(folder, chosen)


def names(folder: Path) -> list[str]:
    """Every process that has a log."""
    return sorted(path.name.removesuffix(".log") for path in folder.glob("*.log"))


def _list_names(folder: Path, *, json: bool) -> None:
    if json:
        as_json(names(folder))
        return
    for name in names(folder):
        typer.echo(name)


def _chosen(folder: Path, name: str) -> list[str]:
    known = names(folder)
    if name in known:
        return [name]
    # Replicas are called after their deployment.
    chosen = [one for one in known if one.startswith(f"{name}-") or one.startswith(f"{name}@")]
    if not chosen:
        raise NotFound(f"no log of {name!r}; there are {', '.join(known) or 'none'}")
    return chosen


def _follow(folder: Path, chosen: list[str]) -> None:
    tails = [(name, _new_lines(folder / f"{name}.log")) for name in chosen]
    try:
        while True:
            for name, tail in tails:
                for line in next(tail):
                    typer.echo(_told(name, line, chosen))
            sleep_blocking(_FOLLOW_S)
    except KeyboardInterrupt:
        return


def _new_lines(path: Path) -> Iterator[list[str]]:
    """What was appended since the last look; starts over when the file was turned over."""
    seen_bytes, inode = (path.stat().st_size, path.stat().st_ino) if path.exists() else (0, 0)
    partial = b""
    while True:
        if not path.exists():
            yield []
            continue
        status = path.stat()
        if status.st_ino != inode or status.st_size < seen_bytes:
            seen_bytes, inode, partial = 0, status.st_ino, b""
        with path.open("rb") as file:
            file.seek(seen_bytes)
            fresh = file.read()
        seen_bytes += len(fresh)
        *whole, partial = (partial + fresh).split(b"\n")
        yield [line.decode(errors="replace") for line in whole]


def _told(name: str, line: str, chosen: list[str]) -> str:
    return f"{name}  {line}" if len(chosen) > 1 else line
