"""FP8 checkpoints: tensor by tensor within E4M3's bound, half the bytes, in the layout that engines read."""

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
from outpace.precision.compressed import is_linear
from outpace.precision.fp8 import (
    dequantize_channels,
    error_bound,
    make_fp8_dynamic,
    quantize_channels,
)
from outpace.values.errors import InvalidInput, WeightsInvalid

LINEAR = "model.layers.0.self_attn.q_proj.weight"


def checkpoint(folder: Path, **changed: np.ndarray) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(2)
    tensors = {
        "model.embed_tokens.weight": rng.normal(size=(8, 64)),
        "model.norm.weight": np.ones(64),
        LINEAR: rng.normal(size=(512, 256)) * rng.lognormal(size=(512, 1)),
        "model.layers.0.mlp.down_proj.weight": rng.normal(size=(256, 512)),
    } | changed
    save_file(
        {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def made(tmp_path: Path, source: Path) -> Path:
    target = tmp_path / "made"
    target.mkdir()
    make_fp8_dynamic(source, target)
    return target


def test_every_tensor_agrees_within_the_formats_bound(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    before = dict(read_shard(source / "model.safetensors"))
    after = dict(read_shard(made(tmp_path, source) / "model.safetensors"))
    for name, values in before.items():
        if not is_linear(name, values):
            assert np.array_equal(after[name], values)
            continue
        assert after[name].dtype == ml_dtypes.float8_e4m3fn
        assert after[f"{name}_scale"].shape == (values.shape[0], 1)
        exact = values.astype(np.float32)
        error = np.abs(dequantize_channels(after[name], after[f"{name}_scale"]) - exact)
        assert (error <= error_bound(exact, after[f"{name}_scale"])).all()


def test_linear_weights_take_half_the_bytes_and_their_scales(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    after = dict(read_shard(made(tmp_path, source) / "model.safetensors"))
    weight, scale = after[LINEAR], after[f"{LINEAR}_scale"]
    assert weight.nbytes == 512 * 256 * 2 / 2
    assert scale.nbytes == 512 * 2


def test_the_config_tells_the_engine_and_side_files_come_along(tmp_path: Path) -> None:
    target = made(tmp_path, checkpoint(tmp_path / "source"))
    told = json.loads((target / "config.json").read_text())["quantization_config"]
    assert (told["quant_method"], told["format"]) == ("compressed-tensors", "float-quantized")
    assert told["config_groups"]["group_0"]["input_activations"]["dynamic"] is True
    assert (target / "tokenizer.json").exists()


@given(arrays(np.float32, (4, 32), elements=st.floats(-1e4, 1e4, width=32)))
def test_the_bound_holds_for_any_weights(values: np.ndarray) -> None:
    weight, scale = quantize_channels(values)
    assert np.isfinite(weight.astype(np.float32)).all()
    error = np.abs(dequantize_channels(weight, scale) - values)
    assert (error <= error_bound(values, scale) + 1e-30).all()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    bad = np.ones((4, 4))
    bad[1, 1] = np.nan
    with pytest.raises(WeightsInvalid, match="NaN"):
        made(tmp_path, checkpoint(tmp_path / "source", **{"model.layers.0.mlp.up_proj.weight": bad}))


@pytest.mark.parametrize("lie", ["cut", "header", "offsets", "empty"])
def test_a_file_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    source = checkpoint(tmp_path / "source")
    path = source / "model.safetensors"
    raw = path.read_bytes()
    lies = {
        "cut": raw[: len(raw) // 2],
        "header": (1 << 40).to_bytes(8, "little") + raw[8:],
        "offsets": raw.replace(b'"shape":[512,256]', b'"shape":[512,999]'),
        "empty": b"",
    }
    path.write_bytes(lies[lie])
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors"):
        made(tmp_path, source)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    (source / "config.json").write_text('{"quantization_config": {}}')
    with pytest.raises(InvalidInput, match="already"):
        made(tmp_path, source)
