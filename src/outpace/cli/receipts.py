"""`outpace receipts`: what one request was, took and cost."""

from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, cell, moment, table, usd

EXAMPLE = "Example: outpace receipts req-3c0ffee1 --json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(receipts)


def receipts(
    request_id: Annotated[
        str | None,
        typer.Argument(help="The answer's header `x-request-id`; without it the latest are listed."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 20,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show one request's receipt, or the latest ones."""
    client = AdminClient(home_at(home))
    if request_id is not None:
        receipt = client.get(path_of("receipts", request_id))
        as_json(receipt) if json else _show_one(receipt)
        return
    listed = client.get("/admin/receipts", limit=limit)
    if json:
        as_json(listed)
        return
    table(
        ("request", "at", "key", "model", "outcome", "prompt>", "completion>", "first ms>", "s>", "cost>"),
        [_row(receipt) for receipt in listed],
        empty="no receipts yet",
    )


def _row(receipt: dict[str, Any]) -> tuple[object, ...]:
    counts = _counts(receipt)
    return (
        receipt["request_id"],
        moment(receipt["at_s"]),
        receipt["key_id"],
        receipt["model"],
        receipt["outcome"],
        counts.get("prompt_tokens"),
        counts.get("completion_tokens"),
        _milliseconds(receipt.get("ttft_s")),
        f"{receipt['duration_s']:.2f}",
        usd(receipt["cost_usd"]),
    )


def _show_one(receipt: dict[str, Any]) -> None:
    flat = {name: value for name, value in receipt.items() if not isinstance(value, dict)}
    for name, value in receipt.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
    width = max(map(len, flat))
    for name, value in flat.items():
        told = moment(value) if name == "at_s" and isinstance(value, float) else value
        typer.echo(f"{name:<{width}}  {cell(told)}")


def _counts(receipt: dict[str, Any]) -> dict[str, Any]:
    usage = receipt.get("usage")
    return usage if isinstance(usage, dict) else receipt


def _milliseconds(seconds: object) -> str | None:
    return f"{seconds * 1000:.0f}" if isinstance(seconds, int | float) else None
