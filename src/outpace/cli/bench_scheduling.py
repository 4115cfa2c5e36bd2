"""`outpace bench batching`, `fairness`, `routing`: what each policy of the scheduler is worth on this machine."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from outpace.cli.bench_options import RoundsOption
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json, table
from outpace.cli.weights import fetch_weights
from outpace.values.errors import InvalidInput

if TYPE_CHECKING:
    from outpace.lab.replica import LabReplica
    from outpace.lab.scheduled import Scheduled
    from outpace.values.home import Home

_CONTEXT_TOKENS = 2_048
_SMALL_ASKS = 20
ModelOption = Annotated[str, typer.Option("--model", help="Catalogue id, or path of a GGUF.")]
PlacesOption = Annotated[int, typer.Option("--places", min=2, max=64, help="Requests at once per replica.")]
EngineOption = Annotated[str, typer.Option("--engine", help="llamacpp, or openvino where it is installed.")]
_MODEL = "smollm2-135m-instruct"
_ENGINE = "llamacpp"
# Those that a replica of the lab is started from the same GGUF with.
_ENGINES = (_ENGINE, "openvino")


class Lab(NamedTuple):
    """What is served, and how many requests each replica runs at once."""

    home: "Home"
    model: str
    places: int
    engine: str


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("batching", epilog="Example: outpace bench batching --engine openvino --places 32")(
        batching
    )
    group.command("fairness", epilog="Example: outpace bench fairness --places 8")(fairness)
    group.command("routing", epilog="Example: outpace bench routing --conversations 24")(routing)


def batching(
    model: ModelOption = _MODEL,
    places: PlacesOption = 8,
    rounds: RoundsOption = 3,
    engine: EngineOption = _ENGINE,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Continuous against static batching: the same requests, the same engine, in turns.

    Rates are those while nobody has run out of work. What it gains depends on what the engine gains by batches at all,
    so on the number format and the engine.
    """
    lab = Lab(_place(home, model, is_quiet=json), model, places, _known(engine))
    rows = asyncio.run(_batching(lab, rounds))
    _tell(rows, ["workload", "static tok/s>", "continuous tok/s>", "factor>"], is_json=json)


def fairness(
    model: ModelOption = _MODEL,
    places: PlacesOption = 8,
    engine: EngineOption = _ENGINE,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """One key floods with 64 long requests at once; how long does another one wait that asks one at a time?

    `allowed` is twice the unloaded value and one decode step of the batch. Takes seven minutes on two cores,
    half of them for the one question that waits in FIFO.
    """
    rows = asyncio.run(_fairness(Lab(_place(home, model, is_quiet=json), model, places, _known(engine))))
    columns = ["line", "TTFT p50 ms>", "TTFT p95 ms>", "prefill tok/s>", "flood step ms>", "allowed p95 ms>"]
    _tell(rows, columns, is_json=json)


def routing(
    model: ModelOption = _MODEL,
    places: PlacesOption = 4,
    conversations: Annotated[int, typer.Option("--conversations", min=2, max=512)] = 24,
    engine: EngineOption = _ENGINE,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Conversations of several turns over one replica and over two: how much of the cache is found again?

    Users are as many as the replicas have places; imbalance is the busiest replica's work over the mean.
    """
    lab = Lab(_place(home, model, is_quiet=json), model, places, _known(engine))
    rows = asyncio.run(_routing(lab, conversations))
    _tell(rows, ["replicas", "cached tokens>", "of the prompt>", "imbalance>", "tok/s>"], is_json=json)


async def _batching(lab: Lab, rounds: int) -> list[dict[str, Any]]:
    from statistics import median

    from outpace.lab.workload import conversations, named

    rows = []
    async with AsyncExitStack() as stack:
        replicas = await _replicas(stack, lab, 1)
        for name in ("high-variance", "long-tail", "uniform"):
            found: dict[str, list[float]] = {"gang": [], "fair": []}
            for number in range(rounds):
                for order in sorted(found, reverse=bool(number % 2)):
                    scheduled = await stack.enter_async_context(_scheduled(replicas, lab, order))
                    asked = conversations(named(name), lab.places * 6, seed=number + 1)
                    figures = await scheduled.closed(asked, lab.places * 2)
                    found[order].append(figures.steady_output_tokens_per_s)
            factors = [fair / gang for fair, gang in zip(found["fair"], found["gang"], strict=True)]
            rows.append(
                {
                    "workload": name,
                    "static tok/s": round(median(found["gang"]), 1),
                    "continuous tok/s": round(median(found["fair"]), 1),
                    "factor": round(median(factors), 2),
                }
            )
    return rows


async def _fairness(lab: Lab) -> list[dict[str, Any]]:
    from outpace.lab.scheduled import small_key
    from outpace.lab.workload import conversations, named
    from outpace.values.clock import SystemClock

    rows: list[dict[str, Any]] = []
    asked = conversations(named("long-prompt"), _SMALL_ASKS * 3)
    prompts = [each.turns[0].text for each in asked]
    async with AsyncExitStack() as stack:
        replicas = await _replicas(stack, lab, 1)
        for number, (line, order) in enumerate(
            (("unloaded", "fair"), ("fair, flooded", "fair"), ("fifo, flooded", "fifo"))
        ):
            # As a profile would tell it.
            read_per_s = rows[0]["prefill tok/s"] if rows else None
            scheduled = await stack.enter_async_context(_scheduled(replicas, lab, order, read_per_s))
            own = prompts[number * _SMALL_ASKS : (number + 1) * _SMALL_ASKS]
            # In FIFO one question waits for the whole flood: minutes.
            asks = own[:1] if order == "fifo" else own
            seen = await small_key(scheduled, asks, SystemClock(), flooded=bool(number))
            unloaded_ms, step_ms = rows[0]["TTFT p95 ms"] if rows else None, seen.flood_step_ms
            rows.append(
                {
                    "line": line,
                    "TTFT p50 ms": round(seen.ttft_p50_ms),
                    "TTFT p95 ms": round(seen.ttft_p95_ms),
                    "prefill tok/s": round(seen.prefill_tokens_per_s),
                    "flood step ms": None if step_ms is None else round(step_ms),
                    "allowed p95 ms": round(2 * unloaded_ms + (step_ms or 0.0)) if unloaded_ms else None,
                }
            )
            typer.echo(f"  {line}: TTFT p95 {seen.ttft_p95_ms:.0f} ms", err=True)
    return rows


async def _routing(lab: Lab, count: int) -> list[dict[str, Any]]:
    from outpace.lab.workload import conversations, named

    rows = []
    asked = conversations(named("multi-turn"), count)
    for num_replicas in (1, 2):
        async with AsyncExitStack() as stack:
            replicas = await _replicas(stack, lab, num_replicas)
            scheduled = await stack.enter_async_context(_scheduled(replicas, lab, "fair"))
            figures = await scheduled.closed(asked, lab.places * num_replicas)
            rows.append(
                {
                    "replicas": num_replicas,
                    "cached tokens": figures.cached_tokens,
                    "of the prompt": f"{figures.cached_tokens / max(1, figures.prompt_tokens):.1%}",
                    "imbalance": round(scheduled.imbalance, 2),
                    "tok/s": round(figures.output_tokens_per_s, 1),
                }
            )
    return rows


async def _replicas(stack: AsyncExitStack, lab: Lab, count: int) -> "list[LabReplica]":
    from outpace.engines.registry import engine
    from outpace.hardware.machine import usable_cores
    from outpace.lab.making import produce, source_of
    from outpace.lab.proven import SAFER_FORMATS
    from outpace.lab.replica import LabVariant, running
    from outpace.lab.speculating import variant_here
    from outpace.values.clock import SystemClock

    here = variant_here(lab.home, lab.model, usable_cores())
    path = Path(here.artifact_path)
    if lab.engine != _ENGINE:
        # What it makes of Q4_1 is refused by the gate.
        source = source_of(lab.model, lab.home.artifacts)
        path = produce(source, SAFER_FORMATS[0], lab.home.artifacts).path
    variant = LabVariant(
        model=here.model,
        artifact_path=path,
        context_tokens=_CONTEXT_TOKENS,
        parallel=lab.places,
        threads=max(1, here.threads // count),
    )
    launches, clock = engine(lab.engine), SystemClock()
    return [await stack.enter_async_context(running(launches, variant, clock)) for _ in range(count)]


def _scheduled(
    replicas: "list[LabReplica]", lab: Lab, order: str, prefill_tokens_per_s: float | None = None
) -> "Scheduled":
    from outpace.lab.scheduled import Scheduled, Side
    from outpace.values.clock import SystemClock

    side = Side(
        model=lab.model, engine=lab.engine, places=lab.places, prefill_tokens_per_s=prefill_tokens_per_s
    )
    return Scheduled(replicas, side, order, SystemClock())


def _known(engine: str) -> str:
    if engine not in _ENGINES:
        raise InvalidInput("--engine", f"{engine[:60]!r} is not one of {', '.join(_ENGINES)}")
    return engine


def _place(home: "Path | None", model: str, *, is_quiet: bool) -> "Home":
    place = home_at(home)
    place.make()
    fetch_weights(place, model, is_quiet=is_quiet)
    return place


def _tell(rows: list[dict[str, Any]], columns: list[str], *, is_json: bool) -> None:
    if is_json:
        as_json(rows)
        return
    table(columns, [tuple(row.values()) for row in rows])
