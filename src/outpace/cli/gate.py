"""`outpace gate`: is a cheaper precision good enough? Both run side by side on the same prompts."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.client import AdminClient, Unreachable
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.quantize import watching
from outpace.cli.show import as_json, table
from outpace.cli.weights import fetch_weights
from outpace.values.clock import SystemClock
from outpace.values.errors import OutpaceError
from outpace.values.home import Home

if TYPE_CHECKING:
    from outpace.lab.gate import GateOrder
    from outpace.precision.gate import Watch
    from outpace.precision.verdict import Measured, Verdict

_EXAMPLE = (
    "Examples: outpace gate smollm2-135m-instruct --precision q4_mix  ·  "
    "outpace gate smollm2-135m-instruct --engine openvino --precision q8_0 --kv-precision u8"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gate", epilog=_EXAMPLE)(gate)


def gate(
    deployment: Annotated[
        str, typer.Argument(help="A deployment, a name from `outpace models`, or a GGUF's path.")
    ],
    precision: Annotated[
        str,
        typer.Option("--precision", help="Format to judge; openvino-int8 and -int4 run on openvino only."),
    ] = "auto",
    kv_precision: Annotated[
        str,
        typer.Option(
            "--kv-precision", help="KV cache of the candidate: f16, q8_0 (llamacpp), u8 (openvino), …"
        ),
    ] = "f16",
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Engine of the candidate: llamacpp or openvino; the reference runs on llama.cpp.  "
            "[default: the deployment's]",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Format to compare with.  [default: the model's exact weights at 16 bit]"
        ),
    ] = None,
    items: Annotated[Path | None, typer.Option("--items", help="Prompts of your own: JSON lines.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Compare a precision with the reference, and keep the verdict: pass, refuse or undecided.

    Exit code 0 for a pass, 1 for everything else. `auto` is the format as it was shipped.
    """
    # Imported late: numpy and gguf would slow down every other command.
    from outpace.lab.canaries import gate_and_record as run

    layout = home_at(home)
    layout.make()
    model, served_by = _model_of(layout, deployment)
    judged = _judged(engine, served_by, kv_precision)
    fetch_weights(layout, model, is_quiet=json)
    order = _order(layout, model, (precision, kv_precision, judged, against), items)
    with _following(order) as watch:
        verdict = asyncio.run(run(order, SystemClock(), watch))
    if json:
        import msgspec

        as_json(msgspec.to_builtins(verdict))
    else:
        _say(verdict)
    raise typer.Exit(0 if verdict.outcome == "pass" else 1)


def _model_of(home: Home, name: str) -> tuple[str, str | None]:
    """Model and engine behind a deployment of that name; the name itself where the platform does not run."""
    with contextlib.suppress(Unreachable, OutpaceError):
        for deployment in AdminClient(home).get("/admin/status")["deployments"]:
            if deployment["name"] == name and deployment["model"]:
                return str(deployment["model"]), str(deployment["engine"])
    return name, None


def _judged(engine: str | None, served_by: str | None, kv_precision: str) -> str:
    """The candidate's engine, able to be judged here and at this KV format. Raises InvalidInput."""
    from outpace.engines.facts import kv_settings
    from outpace.lab.gate import DEFAULT_ENGINE, require_engine

    judged = engine or (served_by if served_by not in (None, "auto") else DEFAULT_ENGINE)
    assert judged is not None, "a name or the default"
    require_engine(judged)
    kv_settings(judged, kv_precision)
    return judged


def _order(
    home: Home, model: str, wanted: tuple[str, str, str, str | None], items: Path | None
) -> "GateOrder":
    import msgspec

    from outpace.hardware.machine import detect, machine_name
    from outpace.lab.candidates import side_on
    from outpace.lab.gate import GateOrder
    from outpace.lab.making import produce, reference_format, source_of
    from outpace.precision.items import read_items, shipped_items

    precision, kv_precision, engine, against = wanted
    item_set = read_items(items) if items else shipped_items()
    source = source_of(model, home.artifacts)
    to = against or reference_format(source)
    with watching(f"{source.model}  {to}") as report:
        reference = produce(source, to, home.artifacts, report).side
    to = source.precision if precision == "auto" else precision
    with watching(f"{source.model}  {to}") as report:
        candidate = side_on(engine, source, to, home.artifacts, report)
    return GateOrder(
        model=source.model,
        context_tokens=source.context_tokens,
        reference=reference,
        candidate=msgspec.structs.replace(candidate, kv_precision=kv_precision),
        item_set=item_set,
        machine=machine_name(detect()),
        folder=home.artifacts,
    )


@contextlib.contextmanager
def _following(order: "GateOrder") -> Iterator["Watch | None"]:
    if not sys.stderr.isatty():
        yield None
        return
    title = (
        f"gate  {order.candidate.precision} on {order.candidate.engine} against {order.reference.precision}"
    )
    with watching(title) as report:
        yield lambda done, total, decision: report(done, total)


def _say(verdict: "Verdict") -> None:
    subject = verdict.subject
    engine = "" if subject.engine == "llamacpp" else f" on {subject.engine}"
    typer.echo(
        f"{subject.model}  {subject.precision} · KV {subject.kv_precision}{engine}  against  "
        f"{subject.reference_precision} · KV {subject.reference_kv_precision}: {verdict.outcome.upper()}"
    )
    typer.echo(f"  {verdict.reason}")
    table(["metric", "seen>", "95 % jointly>", "limit>", "items>", ""], map(_row, verdict.metrics))
    parted = verdict.median_divergence_tokens
    typer.echo(
        f"  {verdict.num_items} items, {verdict.num_positions:,} positions in {verdict.duration_s:.0f} s; greedy texts "
        + (f"part after {parted:.0f} tokens (median)" if parted is not None else "do not part")
    )
    if verdict.kv_bytes_per_token is not None:
        kv = f"{verdict.kv_bytes_per_token:,.0f} bytes a token"
        typer.echo(f"  keys and values at {subject.kv_precision}: {kv}, measured from the engine")
    typer.echo(f"  holds for {subject.engine_version} on {subject.machine}")
    if verdict.outcome != "pass":
        _say_worst(verdict)


def _row(metric: "Measured") -> tuple[str, ...]:
    mark = {"below": "ok", "above": "too much", "open": "not shown"}[metric.shown]
    return (
        metric.name,
        f"{metric.value:.4f}",
        f"{metric.low:.4f} – {metric.high:.4f}",
        f"{metric.limit:g}",
        str(metric.num_items),
        mark,
    )


def _say_worst(verdict: "Verdict") -> None:
    typer.echo("\n  the items that differ most:")
    for example in verdict.worst[:3]:
        typer.echo(f"\n  {example.item_id}  KL {example.kl:.3f}   {_line(example.prompt)}")
        typer.echo(f"    reference  {_line(example.reference)}")
        typer.echo(f"    candidate  {_line(example.candidate)}")


def _line(text: str) -> str:
    """One line without control characters, short enough for a terminal."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.split())[:160]
