"""The matrices of a recipe that are fitted to what flows through them, made in a process of its own.

`python -m outpace.lab.fitter GGUF FOLDER RECIPE`: `step N OF` per step on stdout; FOLDER gets one .npy per matrix.
"""

import asyncio
import functools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.engines.registry import engine
from outpace.lab.apart import run_steps
from outpace.lab.llamacpp_scorer import LlamaScorer
from outpace.lab.replica import LabVariant, running
from outpace.precision import dense, fitting, ggml
from outpace.precision.calibration import CalibrationSet, shipped_calibration
from outpace.precision.gguf_maker import Kinds, Report, kinds_of
from outpace.precision.items import Item, Turn
from outpace.precision.recipes import recipe
from outpace.values.clock import SystemClock
from outpace.values.errors import EngineFailed

# The model goes on from each text by itself: what flows when it serves is mostly its own words.
_OWN_TOKENS = 192
_USERS = 8
_CONTEXT_TOKENS = 1_024
# Part of the lineage: another way to fit makes another artifact.
METHOD = f"fitted 1, {_OWN_TOKENS} own tokens a text"


def fit(source: Path, folder: Path, to: str, report: Report) -> dict[str, NDArray[np.uint8]]:
    """Raw rows by tensor, kept in `folder`. Raises EngineFailed with the last words."""
    run_steps(f"{to} was not made", report, "outpace.lab.fitter", str(source), str(folder), to)
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def main() -> None:
    """Fit, or end with status 1 and the reason as the last line."""
    source, folder, to = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        sequences = asyncio.run(_sequences(source, shipped_calibration()))
        _fit_layers(source, folder, kinds_of(source, recipe(to)), sequences)
    except (EngineFailed, ValueError) as error:
        raise SystemExit(" ".join(str(error).split())[:400]) from error


async def _sequences(source: Path, texts: CalibrationSet) -> list[tuple[int, ...]]:
    """The texts as they are, and as questions with what the model says to them."""
    variant = LabVariant(
        model=source.stem, artifact_path=source, context_tokens=_CONTEXT_TOKENS * _USERS, parallel=_USERS
    )
    asked = [
        Item(id=str(number), kind="single", messages=(Turn("user", text),))
        for number, text in enumerate(texts.texts)
    ]
    replicas = running(engine("llamacpp"), variant, SystemClock())
    async with replicas as replica, LlamaScorer(replica, _USERS) as scorer:
        said = await asyncio.gather(*(scorer.say(item, _OWN_TOKENS) for item in asked))
        plain = await asyncio.gather(*map(scorer.tokens_of, texts.texts))
    return [one for one in (*said, *plain) if one]


def _fit_layers(source: Path, folder: Path, kinds: Kinds, sequences: list[tuple[int, ...]]) -> None:
    """Each layer on what the layers before it, already rounded, let through."""
    model = dense.DenseModel(source)
    steps = model.shape.layers + 1
    print(f"step 1 {steps}", flush=True)
    replace = functools.partial(_rounded, folder, kinds)
    for layer in model.run(dense.Texts(sequences), replace):
        print(f"step {layer + 2} {steps}", flush=True)


def _rounded(
    folder: Path, kinds: Kinds, layer: int, role: str, rows: dense.Floats, weights: dense.Floats
) -> dense.Floats:
    name = f"blk.{layer}.{role}.weight"
    kind = kinds[name]
    if kind not in fitting.BLOCKS:
        return weights
    raw = fitting.fitted(weights, kind, rows)
    np.save(folder / f"{name}.npy", raw)
    return ggml.dequantize(raw, kind)


if __name__ == "__main__":
    main()
