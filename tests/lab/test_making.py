"""A model's weights at any format: shipped, made, refused."""

import importlib.util
from pathlib import Path

import pytest
from tests.precision.small import matrices, write_gguf, write_runnable

from outpace.lab.checkpoints import checkpoint_format, produce_checkpoint
from outpace.lab.making import produce, reference_format, source_of
from outpace.precision.calibration import parse_calibration, shipped_calibration
from outpace.values.errors import InvalidInput, ModelNotFound, WeightsInvalid


def test_the_shipped_format_is_not_made_again(tmp_path: Path) -> None:
    source = source_of(str(write_gguf(tmp_path / "own.gguf", matrices())), tmp_path)
    assert source.precision == "f32"
    assert produce(source, "f32", tmp_path).lineage is None
    assert reference_format(source) == "f32"


def test_a_made_format_is_kept_with_its_lineage(tmp_path: Path) -> None:
    source = source_of(str(write_gguf(tmp_path / "own.gguf", matrices())), tmp_path)
    first, second = produce(source, "q8_0", tmp_path), produce(source, "Q8_0", tmp_path)
    assert (first.was_present, second.was_present) == (False, True)
    assert first.lineage is not None
    assert (first.lineage.source_sha256, first.lineage.source_format) == (source.sha256, "f32")
    assert source_of(str(first.path), tmp_path).precision == "q8_0"
    assert reference_format(source_of(str(first.path), tmp_path)) == "f16"


def test_a_source_with_nan_leaves_no_artifact(tmp_path: Path) -> None:
    tensors = matrices()
    tensors["blk.0.ffn_up.weight"][0, 0] = float("nan")
    source = source_of(str(write_gguf(tmp_path / "own.gguf", tensors)), tmp_path)
    with pytest.raises(WeightsInvalid, match="NaN"):
        produce(source, "q8_0", tmp_path)
    assert list((tmp_path / "made").rglob("*.gguf")) == []


def test_a_file_that_lies_about_sizes_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "own.gguf", matrices())
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(WeightsInvalid, match="cut off"):
        source_of(str(path), tmp_path)


def test_a_model_that_is_not_known_or_not_here(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        source_of("no-such-model", tmp_path)
    with pytest.raises(InvalidInput, match="outpace pull"):
        source_of("smollm2-135m-instruct", tmp_path)


def test_an_fp8_checkpoint_of_a_llama_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "own.gguf", matrices())
    made = produce_checkpoint(str(path), "fp8-dynamic", tmp_path)
    assert {file.name for file in made.record.files} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert produce_checkpoint(str(path), "fp8-dynamic", tmp_path).was_present
    assert list((tmp_path / "made" / "staging").iterdir()) == []


def test_names_of_folder_formats_take_underscores() -> None:
    assert checkpoint_format("openvino_int8") == "openvino-int8"
    assert checkpoint_format("W8A8") == "w8a8"
    assert checkpoint_format("q8_0") is None


def test_texts_for_a_format_that_looks_at_none_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "own.gguf", matrices())
    with pytest.raises(InvalidInput, match="needs no texts"):
        produce_checkpoint(str(path), "fp8-dynamic", tmp_path, calibration=shipped_calibration())


@pytest.mark.parametrize("to", ["w8a8", "w4a16", "openvino-int8"])
def test_a_missing_extra_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    path = write_gguf(tmp_path / "own.gguf", matrices())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"outpace\[quantize\]"):
        produce_checkpoint(str(path), to, tmp_path)
    assert not (tmp_path / "made").exists()


def test_openvino_is_made_of_a_gguf_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="made of a GGUF"):
        produce_checkpoint(str(tmp_path), "openvino-int8", tmp_path)


@pytest.mark.quantize
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra `quantize`")
@pytest.mark.parametrize("to", ["w8a8", "w4a16"])
def test_calibration_leaves_the_hash_of_its_texts(tmp_path: Path, to: str) -> None:
    path = write_runnable(tmp_path / "own.gguf")
    made = produce_checkpoint(str(path), to, tmp_path)
    assert made.record.lineage.calibration_sha256 == shipped_calibration().sha256
    other = parse_calibration(b'{"text": "a"}\n' * 8, "own")
    again = produce_checkpoint(str(path), to, tmp_path, calibration=other)
    assert not again.was_present
    assert again.record.lineage.calibration_sha256 == other.sha256
