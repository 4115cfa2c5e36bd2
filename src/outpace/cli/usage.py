"""`outpace usage`: who used what, in tokens and money."""

from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.periods import parse_since_s
from outpace.cli.show import as_json, table, usd
from outpace.values.clock import SystemClock

EXAMPLE = "Example: outpace usage --since 24h"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(usage)


def usage(
    key: Annotated[str | None, typer.Option("--key", help="Only this key's id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: 24h, 7d, or 2026-11-23.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show requests, tokens and cost by key and model."""
    since_s = None if since is None else parse_since_s(since, "--since", SystemClock())
    rows = AdminClient(home_at(home)).get("/admin/usage", key_id=key, model=model, since=since_s)
    if json:
        as_json(rows)
        return
    table(
        ("key", "model", "requests>", "prompt tokens>", "of them cached>", "completion tokens>", "cost>"),
        [_row(row) for row in rows],
        empty="no usage yet",
    )


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row.get("key_name") or row["key_id"],
        row["model"],
        row["requests"],
        row["prompt_tokens"],
        row.get("cached_tokens"),
        row["completion_tokens"],
        usd(row["cost_usd"]),
    )
