"""`outpace predict`: throughput, TTFT and ITL of many cases from a CSV file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli.options import JsonOption
from outpace.cli.show import as_json

if TYPE_CHECKING:
    from outpace.planner.predict import Answer

EXAMPLE = "Example: outpace predict cases.csv -o predictions.csv"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(predict)


def predict(
    cases: Annotated[Path, typer.Argument(help="CSV with at least the columns model, gpu and metric.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write; else standard output.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Another calibration than the shipped one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Predict every case with an 80 % interval; a case that cannot run gets 0, one not known nothing.

    What a case leaves open is taken as the published runs of the same engine, device, model and format were started:
    the format of keys and values, tokens drafted per step, how often arrivals are looked for. A column or a flag in
    notes goes before: `kv_precision`, `--kv-cache-dtype auto`, `--scheduler-recv-interval 1`, `speculation off`.
    `host: Xeon Platinum 8558` in notes names the processor beside the devices, which small models depend on. Without it
    published runs of the same model, device and engine version tell it, if there are any; one that was never measured
    counts as a middling one.
    """
    from outpace.planner.calibration import load_calibration, shipped_calibration
    from outpace.planner.cases import read_cases
    from outpace.planner.predict import predict as answer_all
    from outpace.planner.predict import write_answers

    fitted = load_calibration(calibration) if calibration else shipped_calibration()
    answers = answer_all(list(read_cases(cases)), fitted)
    if json:
        as_json([_record(answer) for answer in answers])
        return
    if output is None:
        write_answers(answers, sys.stdout)
        return
    with output.open("w", newline="", encoding="utf-8") as target:
        write_answers(answers, target)
    known = sum(answer.estimate is not None for answer in answers)
    refused = sum(not answer.runs for answer in answers)
    typer.echo(
        f"{len(answers)} cases: {known} predicted, {refused} cannot run, "
        f"{len(answers) - known - refused} not known; written to {output}"
    )


def _record(answer: "Answer") -> dict[str, object]:
    from outpace.planner.predict import ANSWER_COLUMNS, answer_fields

    texts = dict(zip(ANSWER_COLUMNS, answer_fields(answer), strict=True))
    numbers = {name: float(texts[name]) if texts[name] else None for name in ("predicted", "low", "high")}
    return {"id": answer.case.id, "metric": answer.case.metric, **texts, **numbers}
