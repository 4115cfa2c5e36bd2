"""`outpace bench planner`: the planner's numbers against their goals, on measurements that it had not seen."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options import JsonOption
from outpace.cli.show import as_json, console, table
from outpace.values.errors import InvalidInput

if TYPE_CHECKING:
    from outpace.planner.calibration import Calibration
    from outpace.planner.marks import Mark, Scatter

_EXAMPLE = "Examples: outpace bench planner; outpace bench planner --again --ground-truth DIR --write FILE"
# Beside a checkout of the project, where measurements are kept that are not ours to ship.
_BESIDE_PROJECT = Path(__file__).parents[3].parent / "shared" / "ground-truth"
_CASES = 2000
_PLAN_GOAL_S, _PREDICT_GOAL_S = 1.0, 10.0


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(name="planner", epilog=_EXAMPLE)(planner)


def planner(
    again: Annotated[
        bool, typer.Option("--again", help="Fit and leave out anew instead of reading what is stored.")
    ] = False,
    ground_truth: Annotated[
        Path | None, typer.Option(help="With --again: folder of throughput.csv, latency*.csv.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="With --again: store the calibration here.")] = None,
    json: JsonOption = False,
) -> None:
    """Print every number with its goal: errors, intervals and ranking on left-out measurements, and times here.

    Below them, for runs that were measured again or on other versions of their engine: how far these lie apart.
    Whole setups, devices, models, engine versions and device families are left out, never single rows. Without
    `--again` the figures are those that the shipped calibration was stored with; `--again` takes some thirty minutes.
    """
    from outpace.planner.marks import marks, scatters

    found = _made_again(ground_truth, write) if again else _stored(ground_truth, write)
    listed = [*marks(found), *_times(found)]
    if json:
        as_json(_document(found, listed))
        return
    typer.echo(
        f"{found.rows:,} measurements, fitted {found.created_on}, ground truth sha256 {found.source_sha256[:12]}"
    )
    for reason, count in found.left_out.items():
        typer.echo(f"  not used {count:5,}: {reason}")
    typer.echo()
    columns = ("number", "left out together", "rows>", "goal>", "reached>", "")
    table(columns, [_row(mark) for mark in listed])
    missed = sum(not mark.is_met for mark in listed)
    typer.echo(f"\n{len(listed) - missed} of {len(listed)} met")
    typer.echo(
        "\nthe data's own scatter: errors of who remembers, and of the planner on the same runs left out"
    )
    table(
        ("number", "remembered", "rows>", "median>", "mean>", "planner: median>", "mean>"),
        [_scatter_row(one) for one in scatters(found)],
    )


def _stored(ground_truth: Path | None, write: Path | None) -> "Calibration":
    from outpace.planner.calibration import shipped_calibration

    if ground_truth or write:
        raise InvalidInput("ground-truth" if ground_truth else "write", "needs --again")
    return shipped_calibration()


def _made_again(ground_truth: Path | None, write: Path | None) -> "Calibration":
    from outpace.planner.calibration import encode
    from outpace.planner.groundtruth import read_ground_truth
    from outpace.planner.validation import calibrate
    from outpace.values.clock import SystemClock

    folder = ground_truth or _BESIDE_PROJECT
    if not folder.is_dir():
        raise InvalidInput("ground-truth", f"{folder} does not exist; name the folder of the measurements")
    truth = read_ground_truth(folder)
    today = datetime.fromtimestamp(SystemClock().wall_s(), tz=UTC).date()
    with console().status("fit") as line:
        made = calibrate(truth, folder, today, line.update)
    if write:
        write.write_bytes(encode(made))
    return made


def _times(calibration: "Calibration") -> list["Mark"]:
    from dataclasses import replace

    from outpace.hardware.devices import devices
    from outpace.planner.architectures import architecture
    from outpace.planner.cases import Case
    from outpace.planner.choose import make_plan
    from outpace.planner.marks import timed
    from outpace.planner.objective import Objective
    from outpace.planner.predict import predict
    from outpace.planner.prices import price_table
    from outpace.values.clock import SystemClock

    now_s = SystemClock().monotonic_s
    goal = Objective(1000, 300, 5.0, ttft_ms=1000, itl_ms=50)
    shape, prices = architecture("Llama-3.1-70B"), price_table()
    base = Case(model="Llama-3.1-8B", gpu="H100-SXM-80GB", n_gpus="1", tp="1", engine="vLLM", osl="200")
    cases = [
        replace(base, isl=str(100 + n), batch_or_concurrency=str(1 + n % 64), metric="itl_ms_mean")
        for n in range(_CASES)
    ]
    return [
        timed(
            "a plan over every device and format",
            _PLAN_GOAL_S,
            lambda: make_plan(shape, goal, devices(), prices, calibration),
            now_s,
        ),
        timed(
            f"predictions of {_CASES:,} cases", _PREDICT_GOAL_S, lambda: predict(cases, calibration), now_s
        ),
    ]


def _row(mark: "Mark") -> tuple[object, ...]:
    value = f"{mark.value:.1%}" if mark.left_out else f"{mark.value:.2f} s"
    return (
        mark.name,
        mark.left_out or "on this machine",
        mark.rows or None,
        mark.goal,
        value,
        "met" if mark.is_met else "MISSED",
    )


def _scatter_row(one: "Scatter") -> tuple[object, ...]:
    shares = (one.median, one.mean, one.own_median, one.own_mean)
    return one.name, one.siblings, one.rows, *(f"{share:.1%}" for share in shares)


def _document(calibration: "Calibration", listed: list["Mark"]) -> dict[str, Any]:
    from outpace.planner.marks import scatters

    return {
        "created_on": calibration.created_on,
        "ground_truth_sha256": calibration.source_sha256,
        "rows": calibration.rows,
        "not_used": calibration.left_out,
        "numbers": [
            {
                "name": mark.name,
                "left_out": mark.left_out or None,
                "rows": mark.rows or None,
                "goal": mark.goal,
                "value": round(mark.value, 4),
                "unit": "share" if mark.left_out else "s",
                "met": mark.is_met,
            }
            for mark in listed
        ],
        "scatter": [asdict(one) for one in scatters(calibration)],
    }
