"""`outpace bench coldstart`: the wait for the first token of a model at zero, by what stands by."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.ready import deployment_named
from outpace.cli.show import as_json, table
from outpace.cli.weights import fetch_weights

if TYPE_CHECKING:
    from outpace.lab.coldstart import Crowd, Platform, Woken
    from outpace.scheduling.standing import Point

_EXAMPLE = "Example: outpace bench coldstart --runs 5 --callers 1000   or: --arrivals trace.csv --stretch 500"
# Its own, so that nobody's deployment is put to sleep.
_NAME = "bench-coldstart"
_NEVER_IDLE_S = 86_400.0


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("coldstart", epilog=_EXAMPLE)(coldstart)


def coldstart(
    model: Annotated[
        str, typer.Option("--model", help="Catalogue id, or path of a GGUF.")
    ] = "smollm2-135m-instruct",
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="Wakes per step of standby.")] = 5,
    steps: Annotated[
        str, typer.Option("--steps", help="What stands by, in turn: nothing, imported, loaded.")
    ] = "nothing,imported,loaded",
    callers: Annotated[
        int, typer.Option("--callers", min=0, max=10_000, help="So many at once at zero, afterwards.")
    ] = 0,
    arrivals: Annotated[
        Path | None,
        typer.Option("--arrivals", help="Trace of requests: what each step would cost a day, and spare."),
    ] = None,
    stretch: Annotated[
        float, typer.Option("--stretch", min=0.001, help="Spread the trace over so many times its span.")
    ] = 1.0,
    idle: Annotated[
        str, typer.Option("--idle", help="Seconds without a request before it sleeps, to compare.")
    ] = "60,300,1800",
    service: Annotated[
        float, typer.Option("--service-s", min=0.001, help="How long a request of the trace is served.")
    ] = 2.0,
    usd_per_hour: Annotated[str, typer.Option("--usd-per-hour", help="Price of a replica's hour.")] = "1",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Let a model sleep, wake it with one streamed request through the gateway, and show where the time goes.

    Needs a running platform; it deploys the model once more as `bench-coldstart` and removes it at the end.
    """
    from outpace.lab.coldstart import STEPS, arrivals_of, prices

    asked = [step.strip() for step in steps.split(",") if step.strip()]
    for step in asked:
        if step not in STEPS:
            raise typer.BadParameter(f"{step!r} is none of {', '.join(STEPS)}", param_hint="--steps")
    idles_s, hour_usd = _numbers(idle, "--idle"), _numbers(usd_per_hour, "--usd-per-hour")[0]
    moments_s = arrivals_of(arrivals, stretch) if arrivals is not None else []
    place = home_at(home)
    client = AdminClient(place)
    fetch_weights(place, model, is_quiet=json)
    # Refused when another run of this benchmark has it: that one's deployment stays.
    platform = _platform(client, model)
    try:
        with _telling() as say:
            woken, met = asyncio.run(_measure(platform, asked, runs, callers, say))
    finally:
        client.delete(path_of("deployments", _NAME))
    points = prices(woken, moments_s, service, [float(one) for one in idles_s]) if moments_s else []
    if json:
        as_json(_document(woken, met, points))
        return
    _say(woken, met)
    if points:
        _say_prices(points, hour_usd, len(moments_s))


def _numbers(words: str, option: str) -> list[Decimal]:
    try:
        found = [Decimal(word) for word in words.split(",")]
    except InvalidOperation:
        found = []
    if not found or not all(number.is_finite() and number > 0 for number in found):
        raise typer.BadParameter("numbers above 0, with commas between them", param_hint=option)
    return found


async def _measure(
    platform: "Platform", steps: list[str], runs: int, callers: int, say: Callable[[str], None]
) -> "tuple[list[Woken], Crowd | None]":
    from outpace.lab.coldstart import crowd, wake
    from outpace.values.clock import SystemClock

    clock = SystemClock()
    woken = [await wake(platform, step, runs, clock, say) for step in steps]
    return woken, await crowd(platform, callers, clock) if callers else None


def _platform(client: AdminClient, model: str) -> "Platform":
    from outpace.lab.coldstart import Platform

    def deploy(standby: dict[str, int]) -> object:
        replicas = {"min": 0, "max": 1, "idle_s": _NEVER_IDLE_S, "standby": standby}
        return client.put(
            path_of("deployments", _NAME), {"model": model, "replicas": replicas, "price": "free"}
        )

    deploy_first = {"name": _NAME, "model": model, "replicas": {"min": 0, "max": 1}, "price": "free"}
    client.post("/admin/deployments", deploy_first)
    return Platform(
        base_url=client.credentials.base_url,
        api_key=client.credentials.api_key,
        name=_NAME,
        deploy=deploy,
        sleep=lambda: client.patch(path_of("deployments", _NAME), {"replicas": 0}),
        look=lambda: deployment_named(client, _NAME),
    )


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """A line with what is measured now, on a terminal; silence anywhere else."""
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console

    with Console(stderr=True).status("bench coldstart") as line:
        yield lambda words: line.update(f"bench coldstart  {words}")


def _document(woken: "list[Woken]", met: "Crowd | None", points: "list[Point]") -> dict[str, Any]:
    import msgspec

    return {
        "steps": [
            {
                "standby": each.step,
                "first_token_p50_s": each.p50_s,
                "first_token_p95_s": each.p95_s,
                "first_token_s": list(each.first_token_s),
                "phases_p50_s": each.phases_s(),
                "starts": list(each.bills),
            }
            for each in woken
        ],
        "crowd": msgspec.to_builtins(met),
        "prices": msgspec.to_builtins(points),
    }


def _say(woken: "list[Woken]", met: "Crowd | None") -> None:
    from outpace.values.starts import OTHER, PHASES

    told = [each.phases_s() for each in woken]
    phases = [phase for phase in (*PHASES, OTHER) if any(phase in one for one in told)]
    columns = ("standing by", "wakes>", "p50 ms>", "p95 ms>", *(f"{phase}>" for phase in phases))
    table(columns, [_row(each, phases) for each in woken])
    if met is not None:
        typer.echo(
            f"\n{met.callers} callers at once at zero: {met.answered} answered, {met.starts} start(s), "
            f"first after {met.first_s:.2f} s, last after {met.last_s:.1f} s"
        )
        for error, count in met.errors.items():
            typer.echo(f"  {count} × {error}")


def _say_prices(points: "list[Point]", hour_usd: Decimal, num_arrivals: int) -> None:
    typer.echo(
        f"\n{num_arrivals:,} recorded arrivals, a replica at ${hour_usd} an hour; * no other costs and waits less"
    )
    columns = (
        "",
        "standing by",
        "sleeps after s>",
        "replica h/day>",
        "$/day>",
        "starts/day>",
        "p95 wait ms>",
    )
    table(columns, [_price_row(point, hour_usd) for point in points])


def _price_row(point: "Point", hour_usd: Decimal) -> tuple[object, ...]:
    day_usd = (hour_usd * Decimal(point.replica_hours_per_day)).quantize(Decimal("0.01"))
    return (
        "*" if point.is_worthwhile else "",
        point.step,
        "never" if point.idle_s is None else f"{point.idle_s:g}",
        f"{point.replica_hours_per_day:.2f}",
        str(day_usd),
        round(point.starts_per_day),
        _ms(point.p95_wait_s),
    )


def _row(each: "Woken", phases: list[str]) -> tuple[object, ...]:
    took_s = each.phases_s()
    told = [_ms(took_s[phase]) if phase in took_s else None for phase in phases]
    return (each.step, len(each.first_token_s), _ms(each.p50_s), _ms(each.p95_s), *told)


def _ms(duration_s: float) -> int:
    return round(1000 * duration_s)
