"""`outpace quantize`, driven as a user does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.precision.small import matrices, write_gguf
from typer.testing import Result

from outpace.values.errors import InvalidInput, ModelNotFound, WeightsInvalid

Outpace = Callable[..., Result]


def test_it_makes_the_format_once_and_says_from_what(outpace: Outpace, tmp_path: Path) -> None:
    path = str(write_gguf(tmp_path / "own.gguf", matrices()))
    first = json.loads(outpace("quantize", path, "--to", "q8_0", "--json").stdout)
    assert (first["precision"], first["source_precision"], first["was_present"]) == ("q8_0", "f32", False)
    assert Path(first["path"]).stat().st_size == first["size_bytes"]
    second = outpace("quantize", path, "--to", "q8_0")
    assert second.exit_code == 0
    assert "was there" in second.stdout
    assert "outpace gate" in second.stdout


def test_a_checkpoint_for_other_engines(outpace: Outpace, tmp_path: Path) -> None:
    path = str(write_gguf(tmp_path / "own.gguf", matrices()))
    made = json.loads(outpace("quantize", path, "--to", "fp8-dynamic", "--json").stdout)
    assert (Path(made["path"]) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("no-such-model", "--to", "q8_0"), ModelNotFound),
        (("smollm2-135m-instruct", "--to", "int3"), InvalidInput),
    ],
)
def test_what_is_not_known_is_refused(
    outpace: Outpace, words: tuple[str, ...], error: type[Exception]
) -> None:
    assert isinstance(outpace("quantize", *words).exception, error)


def test_weights_that_are_no_numbers_are_refused(outpace: Outpace, tmp_path: Path) -> None:
    tensors = matrices()
    tensors["blk.0.attn_k.weight"][:] = float("inf")
    path = str(write_gguf(tmp_path / "own.gguf", tensors))
    result = outpace("quantize", path, "--to", "f16")
    assert isinstance(result.exception, WeightsInvalid)
    assert "blk.0.attn_k.weight" in str(result.exception)
