"""`outpace plan`: which machine, how many, how split, in what precision, at what cost, and why the others lost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from outpace.hardware.devices import Device
    from outpace.planner.speculation import Speculation
    from outpace.values.architecture import Architecture

EXAMPLE = (
    "Examples: outpace plan Llama-3.1-70B --isl 1000 --osl 300 --rate 5 --ttft-ms 500 --itl-ms 40; "
    "outpace plan smollm2-135m-instruct --here"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(plan)


def plan(
    model: Annotated[str, typer.Argument(help="Model name, or a path to a config.json or GGUF.")],
    isl: Annotated[int, typer.Option(help="Mean input tokens.")] = 1024,
    osl: Annotated[int, typer.Option(help="Mean output tokens.")] = 256,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 1.0,
    ttft_ms: Annotated[float, typer.Option(help="Bound on the time to the first token; 0 for none.")] = 0.0,
    itl_ms: Annotated[float, typer.Option(help="Bound on the time between tokens; 0 for none.")] = 0.0,
    percentile: Annotated[int, typer.Option(help="Of the bounds: 50, 90, 95 or 99.")] = 95,
    gpu: Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")] = None,
    weights: Annotated[str | None, typer.Option(help="Only this weight format.")] = None,
    kv: Annotated[str | None, typer.Option(help="Only this KV-cache format.")] = None,
    engine_version: Annotated[
        str | None,
        typer.Option(
            help="Version of the engine that runs; without it any that was measured. One that was not "
            "(`latest` too) gets the wider interval of versions never seen."
        ),
    ] = None,
    sure: Annotated[
        float, typer.Option(help="Least chance in % that the bounds hold; 0: as predicted.")
    ] = 0.0,
    max_usd_hour: Annotated[str | None, typer.Option(help="Most that it may cost per hour.")] = None,
    prices: Annotated[Path | None, typer.Option(help="CSV with gpu,usd_per_gpu_hour[,as_of]; wins.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Use published spot prices.")] = False,
    api_usd_per_mtok: Annotated[str | None, typer.Option(help="An API's price to break even with.")] = None,
    speculation: Annotated[
        str | None,
        typer.Option(help="Also show what guessing ahead gains: ngram, head (EAGLE, MTP), or a draft model."),
    ] = None,
    draft_tokens: Annotated[int, typer.Option(help="With --speculation: tokens drafted per step.")] = 4,
    acceptance: Annotated[
        float | None, typer.Option(help="With --speculation: share of drafted tokens that is accepted.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Plan for this machine: probe it, predict llama.cpp.")
    ] = False,
    measured: Annotated[
        str | None, typer.Option(help="With --here: keep a real decode speed, FORMAT=TOKENS_PER_S.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write an SVG: cost against latency, memory.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Choose how to serve a model: ranked by $ per million tokens among what meets the objective."""
    from outpace.cli.plan_view import show_plan
    from outpace.planner.calibration import shipped_calibration
    from outpace.planner.choose import make_plan
    from outpace.planner.objective import Objective
    from outpace.planner.prices import price_table
    from outpace.precision.formats import kv_format, weight_format
    from outpace.values.errors import InvalidInput
    from outpace.values.money import parse_usd

    shape = _shape(model)
    guessing = _speculation(speculation, draft_tokens, acceptance)
    if here or measured:
        if engine_version:
            raise InvalidInput(
                "engine-version", "has no effect with --here: llama.cpp runs as it is installed"
            )
        from outpace.cli.plan_here import show_here

        show_here(model, shape, home, json, measured)
        return
    objective = Objective(
        isl,
        osl,
        rate,
        ttft_ms,
        itl_ms,
        percentile,
        parse_usd(max_usd_hour, "max-usd-hour") if max_usd_hour else 0,
        sure / 100,
    )
    made = make_plan(
        shape,
        objective,
        _devices(gpu),
        price_table(prices, spot),
        shipped_calibration(),
        weight_format(weights) if weights else None,
        kv_format(kv) if kv else None,
        engine_version or "",
    )
    if plot:
        from outpace.planner.plot import plan_svg

        plot.write_text(plan_svg(made), encoding="utf-8")
    show_plan(made, json, api_usd_per_mtok, plot, guessing)
    if made.best is None:
        raise typer.Exit(1)


def _speculation(drafter: str | None, draft_tokens: int, acceptance: float | None) -> "Speculation | None":
    from outpace.planner.speculation import Speculation
    from outpace.values.errors import InvalidInput

    if drafter is None:
        if acceptance is not None:
            raise InvalidInput("acceptance", "needs --speculation ngram, head or a draft model's name")
        return None
    if acceptance is None:
        raise InvalidInput(
            "acceptance",
            "is needed with --speculation: it depends on the text; `outpace profile` measures it here",
        )
    return Speculation(drafter, draft_tokens, acceptance)


def _shape(model: str) -> "Architecture":
    from outpace.planner.architectures import architecture
    from outpace.planner.model_files import shape_of_file

    path = Path(model)
    if path.suffix in (".gguf", ".json") or path.is_dir():
        return shape_of_file(path)
    return architecture(model)


def _devices(names: list[str] | None) -> "list[Device]":
    from outpace.hardware.devices import device, devices

    if names:
        return [device(name) for text in names for name in text.split(",")]
    return list(devices())
