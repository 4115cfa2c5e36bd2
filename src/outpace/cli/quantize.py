"""`outpace quantize`: a model's weights at another number format, made once and kept with their lineage."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.show import as_json
from outpace.cli.weights import fetch_weights
from outpace.values.errors import InvalidInput
from outpace.values.home import Home

if TYPE_CHECKING:
    from outpace.lab.making import Product

_CHECKPOINT_ENGINES = "vLLM, SGLang and TensorRT-LLM"
_ENGINES_OF = dict.fromkeys(("openvino-int8", "openvino-int4"), "OpenVINO GenAI")
_EXAMPLE = "Example: outpace quantize smollm2-135m-instruct --to q8_0"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize", epilog=_EXAMPLE)(quantize)


def quantize(
    model: Annotated[str, typer.Argument(help="A name from `outpace models`, or the path of a GGUF file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Format: f16, bf16, q8_0, q8_row, q5_0, q4_1, q4_0, iq4_nl, q4_mix, q4_fit (GGUF); bf16-checkpoint, "
            "fp8-dynamic, w8a8, w4a16 (safetensors); openvino-int8, openvino-int4.",
        ),
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help='Texts for w8a8 and w4a16: JSON lines {"text": "…"}.  [default: shipped ones]',
        ),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Make a model's weights at another format; does nothing when they were made before.

    Whether the result is good enough to serve is for `outpace gate` to say.
    """
    # Imported late: numpy and gguf would slow down every other command.
    from outpace.lab.checkpoints import CHECKPOINTS, checkpoint_format
    from outpace.lab.making import produce, source_of
    from outpace.precision.recipes import recipes

    layout = home_at(home)
    layout.make()
    folder_format = checkpoint_format(to)
    if folder_format is not None:
        _quantize_checkpoint(layout, model, folder_format, calibration, json)
        return
    if calibration is not None:
        raise InvalidInput("--calibration", f"{to[:40]} needs no texts; leave it out")
    if to.strip().lower() not in recipes():
        known = ", ".join((*recipes(), *CHECKPOINTS))
        raise InvalidInput("--to", f"{to[:40]!r} is not known; choose one of {known}")
    fetch_weights(layout, model, is_quiet=json)
    source = source_of(model, layout.artifacts)
    with watching(f"{source.model}  {to}") as report:
        product = produce(source, to, layout.artifacts, report)
    _say(product, json)


def _quantize_checkpoint(layout: Home, model: str, to: str, calibration: Path | None, json: bool) -> None:
    from outpace.lab.checkpoints import produce_checkpoint
    from outpace.precision.calibration import read_calibration

    texts = None if calibration is None else read_calibration(calibration)
    if not Path(model).expanduser().is_dir():
        fetch_weights(layout, model, is_quiet=json)
    with watching(f"{model}  {to}") as report:
        made = produce_checkpoint(model, to, layout.artifacts, report, texts)
    lineage = made.record.lineage
    if json:
        as_json(
            {
                "model": lineage.model,
                "precision": to,
                "path": str(made.path),
                "size_bytes": made.record.size_bytes,
                "sha256": made.record.sha256,
                "was_present": made.was_present,
                "source_precision": lineage.source_format,
                "source_sha256": lineage.source_sha256,
                "tool": lineage.tool,
                "calibration_sha256": lineage.calibration_sha256,
            }
        )
        return
    state = "was there" if made.was_present else "made"
    typer.echo(f"{lineage.model}  {to}  {made.record.size_bytes / 1e6:,.1f} MB  {state}")
    typer.echo(f"  {made.path}")
    typer.echo(f"  from {lineage.source_format} sha256 {lineage.source_sha256[:12]} with {lineage.tool}")
    if lineage.calibration_sha256 is not None:
        typer.echo(f"  calibration texts sha256 {lineage.calibration_sha256[:12]}")
    typer.echo(f"  for {_ENGINES_OF.get(to, _CHECKPOINT_ENGINES)}; gate it where it will serve")


@contextlib.contextmanager
def watching(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal; silence anywhere else."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _say(product: "Product", json: bool) -> None:
    shown = _shown(product)
    if json:
        as_json(shown)
        return
    size = f"{product.size_bytes / 1e6:,.1f} MB"
    share = product.size_bytes / product.source.path.stat().st_size
    state = "was there" if product.was_present else "made"
    typer.echo(
        f"{product.model}  {product.precision}  {size}  {share:.2f}x of {product.source.precision}  {state}"
    )
    typer.echo(f"  {product.path}")
    if product.lineage is not None:
        typer.echo(
            f"  from {product.source.precision} sha256 {product.source.sha256[:12]} with {product.lineage.tool}"
        )
        typer.echo(f"  next: outpace gate {product.model} --precision {product.precision}")


def _shown(product: "Product") -> dict[str, Any]:
    lineage = product.lineage
    return {
        "model": product.model,
        "precision": product.precision,
        "path": str(product.path),
        "size_bytes": product.size_bytes,
        "sha256": product.sha256,
        "was_present": product.was_present,
        "source_precision": product.source.precision,
        "source_sha256": product.source.sha256,
        "tool": lineage.tool if lineage else None,
        "calibration_sha256": lineage.calibration_sha256 if lineage else None,
    }
