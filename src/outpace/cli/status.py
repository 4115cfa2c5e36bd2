"""`outpace status`: what is wanted, what runs, and why not."""

from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, console, moment, price_words, table
from outpace.values.clock import sleep_blocking

_WATCH_S = 1.0

EXAMPLE = "Example: outpace status --json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(status)


def status(
    home: HomeOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Show deployments, their replicas and the platform's processes."""
    client = AdminClient(home_at(home))
    while True:
        answer = client.get("/admin/status")
        if json:
            as_json(answer)
        else:
            _show(client, answer)
        if not watch:
            return
        sleep_blocking(_WATCH_S)
        console().clear()


def _show(client: AdminClient, answer: dict[str, Any]) -> None:
    typer.echo(
        f"outpace {answer['version']}   {client.credentials.base_url}   admin {client.credentials.admin_url}"
    )
    typer.echo()
    table(
        ("deployment", "state", "replicas>", "engine", "format", "$/Mtok in/out", "reason"),
        [_deployment_row(deployment) for deployment in answer["deployments"]],
        empty="no deployments; `outpace deploy MODEL` makes one",
    )
    replicas = [replica for deployment in answer["deployments"] for replica in deployment["replicas"]]
    if replicas:
        typer.echo()
        table(("replica", "state", "pid>", "load s>", "restarts>", "reason"), map(_replica_row, replicas))
    measured = [deployment for deployment in answer["deployments"] if deployment.get("profile")]
    if measured:
        typer.echo()
        columns = (
            "deployment",
            "1 user tok/s>",
            "best tok/s>",
            "at>",
            "prefill tok/s>",
            "speculation",
            "why",
        )
        table(columns, map(_profile_row, measured))
    typer.echo()
    table(("process", "pid>", "since", "restarts>"), map(_process_row, answer["workers"]))


def _deployment_row(deployment: dict[str, Any]) -> tuple[object, ...]:
    num_ready = sum(replica["state"] == "ready" for replica in deployment["replicas"])
    return (
        deployment["name"],
        deployment["state"],
        f"{num_ready}/{deployment['desired']}",
        deployment["engine"],
        _format_words(deployment),
        price_words(deployment["price"]),
        deployment["reason"] or _precision_words(deployment),
    )


def _format_words(deployment: dict[str, Any]) -> str | None:
    """Weights and, where they are not at 16 bit, keys and values."""
    precision, kv = deployment["precision"], deployment.get("kv_precision")
    return precision if kv in (None, "auto", "f16") else f"{precision} · KV {kv}"


def _precision_words(deployment: dict[str, Any]) -> str:
    """Why this format serves; a format without a passing verdict is marked."""
    reason = deployment.get("precision_reason") or ""
    return reason if deployment.get("precision_proven") is not False else f"UNPROVEN: {reason}"


def _profile_row(deployment: dict[str, Any]) -> tuple[object, ...]:
    profile = deployment["profile"]
    why = deployment["speculation_reason"]
    ways = (deployment["speculation"] or "off", why)
    if "points" not in profile:
        return (deployment["name"], None, None, None, None, *ways)
    best = max(point["output_tokens_per_s"] for point in profile["points"])
    return (
        deployment["name"],
        f"{profile['points'][0]['output_tokens_per_s']:.0f}",
        f"{best:.0f}",
        profile["best_concurrency"],
        f"{profile['prefill_tokens_per_s']:.0f}",
        *ways,
    )


def _replica_row(replica: dict[str, Any]) -> tuple[object, ...]:
    load_s = replica["load_s"]
    return (
        replica["id"],
        replica["state"],
        str(replica["pid"] or ""),
        None if load_s is None else f"{load_s:.1f}",
        replica["restarts"],
        replica["reason"] or "",
    )


def _process_row(process: dict[str, Any]) -> tuple[object, ...]:
    return process["name"], str(process["pid"]), moment(process["started_at"]), process["restarts"]
