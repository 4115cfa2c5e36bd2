"""INT8 and INT4 checkpoints: within half a step, packed as compressed-tensors reads it, better where texts weigh."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

from outpace.precision.checkpoint import read_shard
from outpace.precision.integers import (
    Columns,
    make_w4a16,
    make_w8a8,
    pack_int4,
    quantize_int4,
    quantize_int8,
    unpack_int4,
)
from outpace.values.errors import InvalidInput, WeightsInvalid

LAYER = "model.layers.0.self_attn.q_proj"
NORM = "model.layers.0.input_layernorm"


def checkpoint(folder: Path, width: int = 128, changed: dict[str, np.ndarray] | None = None) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(2)
    tensors = {
        "model.embed_tokens.weight": rng.normal(size=(8, width)),
        f"{NORM}.weight": rng.uniform(0.5, 2, size=width),
        f"{LAYER}.weight": rng.normal(size=(64, width)) * rng.lognormal(size=(64, 1)),
    } | (changed or {})
    stored = {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def seen(width: int = 128) -> dict[str, Columns]:
    largest = np.linspace(0.1, 30, width).astype(np.float32)
    return {LAYER: Columns(mean_square=largest**2 / 4, largest=largest)}


def made(source: Path, make: object = make_w4a16) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    target = source.with_name("made")
    target.mkdir()
    make(source, target, seen())  # type: ignore[operator]  # one of the two makers
    told = json.loads((target / "config.json").read_text())["quantization_config"]
    return dict(read_shard(target / "model.safetensors")), told


FLOATS = arrays(np.float32, (3, 64), elements=st.floats(-100, 100, width=32))


@given(FLOATS)
def test_int8_is_within_half_a_step(values: np.ndarray) -> None:
    weight, scale = quantize_int8(values)
    # BF16 may round a scale down by 2^-9: the largest value is then clipped by as much.
    assert (np.abs(weight * scale - values) <= scale * 0.501 + np.abs(values) * 2.0**-8).all()


@given(FLOATS)
def test_int4_is_never_worse_than_rounding_to_the_largest(values: np.ndarray) -> None:
    levels, scale = quantize_int4(values, 32, np.ones(64, np.float32))
    assert levels.min() >= -8
    assert levels.max() <= 7
    grouped = values.reshape(3, 2, 32)
    plain = np.maximum(np.abs(grouped).max(axis=2, keepdims=True) / 7, 2.0**-100)
    plain = plain.astype(ml_dtypes.bfloat16).astype(np.float32)
    naive = ((np.clip(np.rint(grouped / plain), -8, 7) * plain - grouped) ** 2).sum(axis=2)
    searched = ((levels.reshape(3, 2, 32) * scale[:, :, None] - grouped) ** 2).sum(axis=2)
    assert (searched <= naive * 1.001 + 1e-6).all()


def test_columns_that_matter_are_rounded_better() -> None:
    values = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    importance = np.where(np.arange(128) % 4 == 0, 100.0, 0.01).astype(np.float32)

    def loss(weighed_by: np.ndarray) -> float:
        levels, scale = quantize_int4(values, 128, weighed_by)
        return float((((levels * scale - values) ** 2) * importance).sum())

    assert loss(importance) < 0.9 * loss(np.ones(128, np.float32))


@given(arrays(np.int8, (2, 24), elements=st.integers(-8, 7)))
def test_packing_keeps_every_value_and_the_lowest_bits_come_first(levels: np.ndarray) -> None:
    packed = pack_int4(levels)
    assert packed.dtype == np.int32
    assert np.array_equal(unpack_int4(packed), levels)
    assert int(packed.view(np.uint32)[0, 0] & 15) == levels[0, 0] + 8


def test_w4a16_tells_the_engine_what_it_needs(tmp_path: Path) -> None:
    tensors, told = made(checkpoint(tmp_path / "source"))
    assert tensors[f"{LAYER}.weight_packed"].shape == (64, 16)
    assert tensors[f"{LAYER}.weight_scale"].shape == (64, 1)
    assert list(tensors[f"{LAYER}.weight_shape"]) == [64, 128]
    assert told["format"] == "pack-quantized"
    assert told["config_groups"]["group_0"]["weights"]["group_size"] == 128  # type: ignore[index]


def test_w8a8_moves_factors_from_the_norm_into_the_matrix_and_computes_the_same(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    before = dict(read_shard(source / "model.safetensors"))
    tensors, told = made(source, make_w8a8)
    assert told["format"] == "int-quantized"
    assert tensors[f"{LAYER}.weight"].dtype == np.int8
    inputs = np.random.default_rng(1).normal(size=128).astype(np.float32)
    exact = before[f"{LAYER}.weight"].astype(np.float32) @ (
        inputs * before[f"{NORM}.weight"].astype(np.float32)
    )
    matrix = tensors[f"{LAYER}.weight"] * tensors[f"{LAYER}.weight_scale"].astype(np.float32)
    smoothed = tensors[f"{NORM}.weight"].astype(np.float32)
    assert not np.array_equal(smoothed, before[f"{NORM}.weight"].astype(np.float32))
    assert np.abs(matrix @ (inputs * smoothed) - exact).max() < 0.02 * np.abs(exact).max()


def test_rows_that_divide_into_no_group_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="divide by 32"):
        made(checkpoint(tmp_path / "source", width=40))


@pytest.mark.parametrize("make", [make_w8a8, make_w4a16])
def test_nan_is_refused(tmp_path: Path, make: object) -> None:
    source = checkpoint(tmp_path / "source", changed={f"{LAYER}.weight": np.full((64, 128), np.nan)})
    with pytest.raises(WeightsInvalid, match="NaN"):
        made(source, make)
