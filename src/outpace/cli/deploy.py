"""`outpace deploy`: show what will be served, ask, and see it through."""

from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.options import HomeOption, JsonOption, NoWaitOption, YesOption, home_at
from outpace.cli.ready import engine_line, wait_until_ready
from outpace.cli.show import as_json, is_interactive, waiting
from outpace.cli.spec import spec_of, wanted_spec
from outpace.cli.weights import fetch_weights
from outpace.control.specs import notes_on, price_document
from outpace.values.clock import SystemClock
from outpace.values.deployment import DeploymentSpec, Replicas
from outpace.values.errors import OutpaceError
from outpace.values.home import Home
from outpace.values.units import GIB

EXAMPLE = "Example: outpace deploy smollm2-135m-embed --name embed --price-in 0.01 --price-out 0"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(deploy)


def deploy(
    what: Annotated[str, typer.Argument(help="Deployment file (YAML), catalogue id, or path of a GGUF.")],
    name: Annotated[str | None, typer.Option(help="Public name.  [default: the model's]")] = None,
    replicas: Annotated[
        str | None,
        typer.Option(help="Replicas to keep: a number, or bounds such as 0-4 for as many as the load needs."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Number format of the weights.  [default: the fastest that is proven]")
    ] = None,
    kv_precision: Annotated[
        str | None, typer.Option(help="Number format of keys and values, such as q8_0.")
    ] = None,
    allow_unproven: Annotated[
        bool | None,
        typer.Option("--allow-unproven", help="Serve a format by name although no passing verdict backs it."),
    ] = None,
    speculation: Annotated[
        str | None,
        typer.Option(
            help="Guess tokens ahead: off, ngram, draft:MODEL, …  [default: where it was measured to win]"
        ),
    ] = None,
    price_in: Annotated[str | None, typer.Option(help="USD per million prompt tokens.")] = None,
    price_out: Annotated[str | None, typer.Option(help="USD per million completion tokens.")] = None,
    yes: YesOption = False,
    no_wait: NoWaitOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Serve a model under a name, and wait until it answers.

    A deployment of the same name is replaced; its running requests end first.
    """
    place = home_at(home)
    changes: dict[str, object] = {
        "name": name,
        "replicas": _replicas(replicas),
        "precision": precision,
        "kv_precision": kv_precision,
        "allow_unproven": allow_unproven,
        "speculation": speculation,
        "price": _price(price_in, price_out),
    }
    body = wanted_spec(what, changes)
    spec = spec_of(body)
    client = AdminClient(place)
    before = _present(client, spec.name)
    if not json:
        for line in plan_lines(spec, before, _variant_words(place, spec)):
            typer.echo(line)
    if not (yes or json) and is_interactive():
        typer.confirm("accept?", default=True, abort=True)
    if spec.model is not None:
        fetch_weights(place, spec.model, spec.precision, is_quiet=json)
    deployment = _apply(client, body, before)
    if not no_wait:
        with waiting(spec.name) as on_change:
            deployment = wait_until_ready(client, place, spec.name, SystemClock(), on_change=on_change)
    if json:
        as_json(deployment)
    else:
        typer.echo(f"  {engine_line(deployment)}" if not no_wait else f"  {spec.name} {deployment['state']}")


def plan_lines(spec: DeploymentSpec, before: dict[str, Any] | None, variants: str | None = None) -> list[str]:
    """What would be done, how many variants are held, what it charges, and what of the file has no effect."""
    served = spec.external.base_url if spec.external else spec.model
    lines = [
        f"  {'replaces' if before else 'deploys '}   {spec.name} → {served}",
        f"  engine     {spec.engine} · replicas {_replica_words(spec.replicas)}",
        f"  precision  {_format_words(spec)}",
        *([f"  variants   {variants}"] if variants else []),
        f"  price      {_price_words(spec)}",
    ]
    if before:
        lines.append(
            f"  now        {before['engine']} · {before['precision']} · {before['desired']} replicas"
        )
    return lines + [f"  note       {note}" for note in notes_on(spec)]


def _variant_words(home: Home, spec: DeploymentSpec) -> str | None:
    """Which variants will be held here; None where there is one engine by name, or nothing is known yet."""
    if spec.external is not None or spec.engine != "auto" or spec.variants == "off":
        return None
    # Imported late: it looks models up, which other commands need not wait for.
    from outpace.compose import Models

    try:
        found = Models(home).resolve(spec)
    except (OutpaceError, OSError):
        # Control says it better when it is asked.
        return None
    if found.companion is None:
        return f"one: {found.no_companion}" if found.no_companion else None
    second = found.companion
    gib = second.replica_bytes / GIB
    return (
        f"two: {found.engine} · {found.precision}, and {second.engine} · {second.precision} beside it while many "
        f"ask at once (up to {gib:.1f} GiB more)"
    )


def _format_words(spec: DeploymentSpec) -> str:
    unproven = " · also without a passing verdict" if spec.allow_unproven else ""
    return f"{spec.precision} · KV {spec.kv_precision}{unproven}"


def _apply(client: AdminClient, body: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return dict(client.post("/admin/deployments", body))
    return dict(client.put(path_of("deployments", body["name"]), body))


def _present(client: AdminClient, name: str) -> dict[str, Any] | None:
    deployments = client.get("/admin/status")["deployments"]
    return next(
        (entry for entry in deployments if entry["name"] == name and entry["state"] != "stopped"), None
    )


def _price_words(spec: DeploymentSpec) -> str:
    price = price_document(spec.price)
    if price is None:
        return "none: keys with a budget are refused until it has one"
    return f"${price['input_usd_per_mtok']} in, ${price['output_usd_per_mtok']} out per million tokens"


def _replicas(word: str | None) -> dict[str, int] | None:
    if word is None:
        return None
    counts = word.split("-", 1)
    if not all(count.isdecimal() and count.isascii() for count in counts) or word == "0":
        raise typer.BadParameter("a number from 1, or bounds such as 0-4", param_hint="--replicas")
    return {"min": int(counts[0]), "max": int(counts[-1])}


def _replica_words(replicas: Replicas) -> str:
    if replicas.min == replicas.max:
        return str(replicas.min)
    idle = f", asleep after {replicas.idle_s:g} s without a request" if replicas.min == 0 else ""
    return f"{replicas.min} to {replicas.max} by load{idle}"


def _price(price_in: str | None, price_out: str | None) -> dict[str, str] | None:
    if (price_in is None) != (price_out is None):
        raise typer.BadParameter("give both or none", param_hint="--price-in/--price-out")
    if price_in is None or price_out is None:
        return None
    return {"input_usd_per_mtok": price_in, "output_usd_per_mtok": price_out}
