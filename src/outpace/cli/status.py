"""`outpace status`: what is wanted, what runs, and why not."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, console, moment, price_words, table
from outpace.values.clock import sleep_blocking
from outpace.values.errors import ModelNotFound
from outpace.values.starts import OTHER, PHASES
from outpace.values.units import GIB

_WATCH_S = 1.0
_DEPLOYMENT_COLUMNS = ("deployment", "state", "replicas>", "engine", "format", "$/Mtok in/out", "reason")
_VARIANT_COLUMNS = (
    "variant",
    "of",
    "state",
    "replicas>",
    "format",
    "1 user tok/s>",
    "best tok/s>",
    "at>",
    "serves now",
    "why",
)
_REPLICA_COLUMNS = ("replica", "state", "machine", "pid>", "load s>", "restarts>", "reason")

EXAMPLE = "Example: outpace status --json   or: outpace status smollm2-135m-instruct"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(status)


def status(
    name: Annotated[
        str | None, typer.Argument(help="One deployment: what its starts cost, phase by phase.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Show deployments, their replicas and the platform's processes, or one deployment and its starts."""
    client = AdminClient(home_at(home))
    while True:
        answer = client.get("/admin/status")
        shown = answer if name is None else _named(answer, name)
        if json:
            as_json(shown)
        elif name is None:
            _show(client, shown)
        else:
            show_deployment(shown)
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
        _DEPLOYMENT_COLUMNS,
        [_deployment_row(deployment) for deployment in answer["deployments"]],
        empty="no deployments; `outpace deploy MODEL` makes one",
    )
    _show_variants(answer["deployments"])
    scaled = [deployment for deployment in answer["deployments"] if _is_scaled(deployment)]
    if scaled:
        typer.echo()
        table(("scaling", "by", "between", "in objective>", "starts/h>", "why"), map(_scaling_row, scaled))
    replicas = [replica for deployment in answer["deployments"] for replica in _replicas(deployment)]
    if replicas:
        typer.echo()
        table(_REPLICA_COLUMNS, map(_replica_row, replicas))
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
    if answer["machines"]:
        typer.echo()
        table(
            ("machine", "state", "cpu free>", "gpu free>", "memory free>", "labels", "reason"),
            map(_machine_row, answer["machines"]),
        )
    typer.echo()
    table(("process", "pid>", "since", "restarts>"), map(_process_row, answer["workers"]))


def _named(answer: dict[str, Any], name: str) -> dict[str, Any]:
    deployments: list[dict[str, Any]] = answer["deployments"]
    found = next((deployment for deployment in deployments if deployment["name"] == name), None)
    if found is None:
        known = ", ".join(deployment["name"] for deployment in deployments) or "none"
        raise ModelNotFound(f"no deployment {name!r}; deployed: {known}")
    return found


def show_deployment(deployment: dict[str, Any]) -> None:
    """One deployment, its replicas, and the bills of its last starts with the remedy for the slowest phase."""
    table(_DEPLOYMENT_COLUMNS, [_deployment_row(deployment)])
    _show_variants([deployment])
    if len(deployment.get("variants") or ()) < 2 and deployment.get("variants_reason"):
        typer.echo(deployment["variants_reason"])
    if _replicas(deployment):
        typer.echo()
        table(_REPLICA_COLUMNS, map(_replica_row, _replicas(deployment)))
    if deployment["starts"]:
        typer.echo()
        show_starts(deployment["starts"])


def _placement_words(placement: dict[str, Any]) -> str:
    """`on 10.0.0.2 or 10.0.0.3, with H100, packed`; empty for anywhere."""
    labels = " ".join(f"{name}={value}" for name, value in placement.get("labels", {}).items())
    kind = placement.get("accelerator")
    words = [
        f"on {' or '.join(placement['nodes'])}" if placement.get("nodes") else "",
        {"none": "without accelerators", "": ""}.get(kind or "", f"with {kind}"),
        f"where {labels}" if labels else "",
        "packed on few machines" if placement.get("strategy") == "pack" else "",
    ]
    return ", ".join(filter(None, words))


def show_starts(starts: Sequence[dict[str, Any]]) -> None:
    """Bills of starts as a table of milliseconds, newest last; phases that no start had are left out."""
    phases = [phase for phase in (*PHASES, OTHER) if any(phase in start["phases_s"] for start in starts)]
    columns = ("start", "replica", "from", "ms>", *(f"{phase}>" for phase in phases))
    table(columns, [_start_row(start, phases) for start in starts])
    last = starts[-1]
    typer.echo(f"slowest phase of the last start: {last['slowest']}; {last['remedy']}")


def _start_row(start: dict[str, Any], phases: Sequence[str]) -> tuple[object, ...]:
    took_s = start["phases_s"]
    told = [None if phase not in took_s else round(1000 * took_s[phase]) for phase in phases]
    head = moment(start["at"]), start["replica"], start["started_from"], round(1000 * start["total_s"])
    return (*head, *told)


def _show_variants(deployments: Sequence[dict[str, Any]]) -> None:
    """Where a deployment has two: both, what each does, and which one serves at the present load."""
    rows = [
        _variant_row(deployment, variant)
        for deployment in deployments
        for variant in deployment.get("variants") or ()
        if len(deployment["variants"]) > 1
    ]
    if rows:
        typer.echo()
        table(_VARIANT_COLUMNS, rows)


def _variant_row(deployment: dict[str, Any], variant: dict[str, Any]) -> tuple[object, ...]:
    num_ready = sum(replica["state"] == "ready" for replica in variant["replicas"])
    points = (variant["profile"] or {}).get("points")
    speeds: tuple[object, ...] = (None, None, None)
    if points:
        best = max(point["output_tokens_per_s"] for point in points)
        first = points[0]["output_tokens_per_s"]
        speeds = (f"{first:.0f}", f"{best:.0f}", variant["profile"]["best_concurrency"])
    is_main = variant is deployment["variants"][0]
    return (
        variant["engine"],
        deployment["name"],
        variant["state"],
        f"{num_ready}/{variant['desired']}",
        _format_words(variant),
        *speeds,
        variant["serves"],
        deployment["variants_reason"] if is_main else variant["reason"],
    )


def _replicas(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of all variants."""
    others = [
        replica for variant in (deployment.get("variants") or ())[1:] for replica in variant["replicas"]
    ]
    return [*deployment["replicas"], *others]


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


def _is_scaled(deployment: dict[str, Any]) -> bool:
    """Its count may change by itself, or a person set it."""
    scaling = deployment.get("scaling")
    return scaling is not None and (scaling["min"] != scaling["max"] or scaling["by"] == "hand")


def _scaling_row(deployment: dict[str, Any]) -> tuple[object, ...]:
    scaling = deployment["scaling"]
    share = scaling["objective_attained"]
    return (
        deployment["name"],
        scaling["by"],
        f"{scaling['min']} and {scaling['max']}",
        None if share is None else f"{100 * share:.0f} % of {scaling['objective_answers']}",
        str(scaling["starts_last_hour"]),
        scaling["reason"],
    )


def _replica_row(replica: dict[str, Any]) -> tuple[object, ...]:
    load_s = replica["load_s"]
    return (
        replica["id"],
        replica["state"],
        replica["machine"] or "here",
        str(replica["pid"] or ""),
        None if load_s is None else f"{load_s:.1f}",
        replica["restarts"],
        replica["reason"] or "",
    )


def _machine_row(machine: dict[str, Any]) -> tuple[object, ...]:
    return (
        machine["address"],
        machine["state"],
        _free(machine, "CPU", 1, "g"),
        _free(machine, "GPU", 1, "g"),
        _free(machine, "memory", GIB, ".1f"),
        " ".join(f"{name}={value}" for name, value in machine["labels"].items()),
        machine["reason"] or "",
    )


def _free(machine: dict[str, Any], name: str, unit: int, form: str) -> str:
    """`1/2`: free of all."""
    amount = machine["resources"].get(name)
    return f"{amount['free'] / unit:{form}}/{amount['total'] / unit:{form}}" if amount else ""


def _process_row(process: dict[str, Any]) -> tuple[object, ...]:
    return process["name"], str(process["pid"]), moment(process["started_at"]), process["restarts"]
