"""What flows into each linear layer of a checkpoint on calibration texts. The only user of torch and transformers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from outpace.precision.calibration import CalibrationSet
from outpace.precision.compressed import Report
from outpace.precision.integers import Columns
from outpace.values.errors import InvalidInput, WeightsInvalid

_LONGEST_TEXT_TOKENS = 2_048


def require_quantizer(to: str) -> None:
    """Raises InvalidInput with the remedy where torch or transformers is not installed."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            "--to",
            f"{to} needs {' and '.join(missing)}: pip install 'outpace[quantize]'; fp8-dynamic needs nothing",
        )


def columns_seen(folder: Path, calibration: CalibrationSet, report: Report) -> dict[str, Columns]:
    """Per linear layer, by its name: mean square and largest absolute value of each input column.

    Raises InvalidInput for a text that is too long, WeightsInvalid for a checkpoint that cannot be loaded.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsInvalid(f"{folder.name} cannot be run for calibration: {error}") from error
    sums: dict[str, _Sums] = {}
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    hooks = [part.register_forward_pre_hook(_watch(sums, name)) for name, part in layers]
    try:
        with torch.inference_mode():
            for done, tokens in enumerate(
                _tokens(tokenizer, calibration, model.config.max_position_embeddings)
            ):
                report(done, len(calibration.texts))
                model(input_ids=torch.tensor([tokens]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    report(len(calibration.texts), len(calibration.texts))
    return {name: seen.columns for name, seen in sums.items()}


class _Sums:
    """Sums over the positions of one layer's input."""

    def __init__(self, width: int) -> None:
        self.squares = np.zeros(width, dtype=np.float64)
        self.largest = np.zeros(width, dtype=np.float32)
        self.count = 0

    def add(self, rows: Any) -> None:
        self.squares += rows.double().square().sum(dim=0).numpy()
        self.largest = np.maximum(self.largest, rows.abs().amax(dim=0).numpy())
        self.count += rows.shape[0]

    @property
    def columns(self) -> Columns:
        return Columns((self.squares / max(self.count, 1)).astype(np.float32), self.largest)


def _watch(sums: dict[str, _Sums], name: str) -> Callable[[Any, tuple[Any, ...]], None]:
    def look(part: Any, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        sums.setdefault(name, _Sums(rows.shape[-1])).add(rows)

    return look


def _tokens(tokenizer: Any, calibration: CalibrationSet, context_tokens: int) -> list[list[int]]:
    """All texts as tokens, checked before the first is run."""
    limit = min(_LONGEST_TEXT_TOKENS, context_tokens)
    found = [tokenizer(text)["input_ids"] for text in calibration.texts]
    for number, tokens in enumerate(found, start=1):
        if not 0 < len(tokens) <= limit:
            raise InvalidInput(
                "--calibration",
                f"text {number} of {calibration.name} has {len(tokens):,} tokens; 1 to {limit:,} are taken",
            )
    return found
