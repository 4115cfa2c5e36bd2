"""`outpace bench fleet`: replay arrivals over a simulated fleet and compare policies."""

from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table
from outpace.scheduling.attainment import Capacity, Goal
from outpace.scheduling.autoscale import Bounds
from outpace.scheduling.profiles import best_concurrency
from outpace.values.errors import InvalidInput
from outpace.values.home import Home
from outpace.values.money import format_usd, parse_usd
from outpace.values.profile import Profile
from outpace.values.starts import StartBill

if TYPE_CHECKING:
    from outpace.lab.fleet_replay import Outcome

EXAMPLE = "Example: outpace bench fleet --trace bursts --rate 6 --minutes 60 --min 0 --max 12 --ttft-ms 2000"
# Where this home has measured nothing: SmolLM2-135M Q4_0, llama.cpp, two AVX2 cores, docs/lab/LOG.md.
_SPEEDS = ((1, 110.0), (8, 168.0))
_PREFILL_TOKENS_PER_S = 1_500.0
_START_S = 1.0
_PLACES = 8


class _Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica does, and where that is known from."""

    capacity: Capacity
    start_s: float
    told: str


def register(group: typer.Typer) -> None:
    """Add the benchmark."""
    group.command(epilog=EXAMPLE)(fleet)


def fleet(
    trace: Annotated[
        str, typer.Option(help="bursts, poisson, day, or a recorded trace (.csv, .jsonl).")
    ] = "bursts",
    rate: Annotated[float, typer.Option(min=0.001, help="Requests/s at the height of a made trace.")] = 6.0,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of a made trace.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Another seed, other arrivals.")] = 1,
    requests: Annotated[
        int | None, typer.Option(min=1, help="At most this many of a recorded trace.")
    ] = None,
    time_scale: Annotated[float, typer.Option(min=0.001, help="Stretches a recorded trace's times.")] = 1.0,
    token_scale: Annotated[float, typer.Option(min=0.001, help="Scales a recorded trace's lengths.")] = 1.0,
    profile: Annotated[
        Path | None, typer.Option(help="Profile of the replica.  [default: the newest of this home]")
    ] = None,
    start_s: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds of a start.  [default: as measured in this home]")
    ] = None,
    ttft_ms: Annotated[float, typer.Option(min=1, help="Objective: to the first token.")] = 1000.0,
    itl_ms: Annotated[float | None, typer.Option(min=0.1, help="Objective: between tokens.")] = None,
    percentile: Annotated[float, typer.Option(min=1, max=99.99, help="Share that must get it.")] = 95.0,
    least: Annotated[int, typer.Option("--min", min=0, help="replicas.min")] = 0,
    most: Annotated[int, typer.Option("--max", min=1, max=64, help="replicas.max")] = 12,
    idle_s: Annotated[float, typer.Option(min=0.1, help="replicas.idle_s")] = 30.0,
    starts_per_hour: Annotated[int, typer.Option(min=1, help="replicas.starts_per_hour")] = 120,
    usd_hour: Annotated[
        str | None, typer.Option(help="Price of a replica for an hour, such as 2.00.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Compare fixed fleets, a reactive policy and Outpace's own on a trace of arrivals.

    A simulation: the policy is the code that control runs, replicas follow a profile, each on a device of its own.
    """
    from outpace.lab.arrivals import PROCESSES, of_file
    from outpace.lab.fleet_policies import compare
    from outpace.lab.recorded import Scale

    if least > most:
        raise InvalidInput("--max", f"is smaller than --min ({least})")
    if trace in PROCESSES:
        asks = PROCESSES[trace](rate, 60 * minutes, seed)
    elif trace.endswith((".csv", ".jsonl")):
        asks = of_file(Path(trace), Scale(time=time_scale, tokens=token_scale), requests)
    else:
        raise InvalidInput(
            "--trace", f"{trace!r} is none of {', '.join(PROCESSES)}, nor a .csv or .jsonl file"
        )
    pusd_hour = None if usd_hour is None else parse_usd(usd_hour, "--usd-hour")
    basis = _basis(home_at(home), profile, start_s)
    goal = Goal(
        ttft_s=ttft_ms / 1000, itl_s=None if itl_ms is None else itl_ms / 1000, share=percentile / 100
    )
    bounds = Bounds(least=least, most=most, idle_s=idle_s, starts_per_hour=starts_per_hour)
    outcomes = compare(asks, basis.capacity, basis.start_s, goal, bounds)
    document = {
        "trace": trace,
        "seed": seed,
        "requests": len(asks),
        "duration_s": round(asks[-1].at_s, 1),
        "basis": basis.told,
        "capacity": msgspec.to_builtins(basis.capacity),
        "start_s": basis.start_s,
        "objective": msgspec.to_builtins(goal),
        "bounds": msgspec.to_builtins(bounds),
        "policies": [_told(outcome, pusd_hour) for outcome in outcomes],
    }
    if json:
        as_json(document)
    else:
        _show(document)


def _told(outcome: "Outcome", pusd_hour: int | None) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(outcome)
    if pusd_hour is not None:
        told["usd"] = format_usd(outcome.cost_pusd(pusd_hour))
    return told


def _show(document: dict[str, Any]) -> None:
    goal, bounds = document["objective"], document["bounds"]
    gap = "" if goal["itl_s"] is None else f", {1000 * goal['itl_s']:g} ms between tokens"
    typer.echo(
        f"  trace      {document['trace']}, {document['requests']:,} requests in {document['duration_s']:.0f} s"
    )
    typer.echo(f"  replica    {document['basis']}; {document['start_s']:.2f} s to start")
    typer.echo(
        f"  objective  {100 * goal['share']:g} % within {1000 * goal['ttft_s']:g} ms to the first token{gap}"
    )
    typer.echo(
        f"  replicas   {bounds['least']} to {bounds['most']}, asleep after {bounds['idle_s']:g} s, "
        f"at most {bounds['starts_per_hour']} starts an hour"
    )
    typer.echo()
    own_s = document["policies"][0]["replica_s"]
    columns = (
        *("policy", "in objective>", "TTFT p50 ms>", "p95 ms>", "max ms>", "replica s>", "outpace/this>"),
        *("mean>", "most>", "starts>", "cold>", "waited cold>", "USD>"),
    )
    table(columns, [_row(policy, own_s) for policy in document["policies"]])


def _row(policy: dict[str, Any], own_s: float) -> tuple[object, ...]:
    return (
        policy["policy"],
        f"{100 * policy['attained']:.1f} %",
        *(f"{1000 * policy[figure]:,.0f}" for figure in ("ttft_p50_s", "ttft_p95_s", "ttft_max_s")),
        f"{policy['replica_s']:,.0f}",
        f"{own_s / policy['replica_s']:.2f}",
        f"{policy['replica_s'] / policy['duration_s']:.2f}",
        *(str(policy[figure]) for figure in ("most_replicas", "starts", "cold_starts", "cold_waits")),
        f"{Decimal(policy['usd']):.2f}" if "usd" in policy else None,
    )


def _basis(home: Home, path: Path | None, start_s: float | None) -> _Basis:
    """The replica to simulate: a profile and starts as measured, else figures that ship with Outpace."""
    found = path or _newest(home.profiles)
    if found is None:
        capacity = Capacity(places=_PLACES, speeds=_SPEEDS, prefill_tokens_per_s=_PREFILL_TOKENS_PER_S)
        told = "not measured in this home: SmolLM2-135M q4_0 on two cores, from docs/lab/LOG.md"
        return _Basis(capacity=capacity, start_s=start_s or _START_S, told=told)
    try:
        profile = msgspec.json.decode(found.read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInput("--profile", f"{found} cannot be read: {error}") from error
    capacity = Capacity(
        places=max(
            1, int(profile.conditions.settings.get("parallel", best_concurrency(profile.points) or 1))
        ),
        speeds=tuple((point.users, point.output_tokens_per_s) for point in profile.points),
        prefill_tokens_per_s=profile.prefill_tokens_per_s,
    )
    told = f"{profile.conditions.model} on {profile.conditions.engine}, measured: {found.name}"
    return _Basis(capacity=capacity, start_s=start_s or _measured_start_s(home) or profile.load_s, told=told)


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, default=None)


def _measured_start_s(home: Home) -> float | None:
    path = _newest(home.starts)
    try:
        bills = msgspec.json.decode(path.read_bytes(), type=list[StartBill]) if path else []
    except (OSError, msgspec.DecodeError):
        return None
    return median(bill.total_s for bill in bills) if bills else None
