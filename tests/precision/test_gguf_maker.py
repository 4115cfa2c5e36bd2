"""GGUF at other formats: within each format's bound, exact where nothing is lost, and no bad input gets through."""

from pathlib import Path

import numpy as np
import pytest
from tests.precision.small import matrices, write_gguf

from outpace.precision.gguf_maker import keys_of, make_gguf, read_tensors
from outpace.precision.recipes import recipe, recipes
from outpace.values.errors import InvalidInput, WeightsInvalid

# Relative error (RMS) of normally distributed weights that each format must keep.
BOUNDS = {
    "f16": 5e-4,
    "bf16": 4e-3,
    "q8_0": 8e-3,
    "q8_row": 1e-2,
    "q5_0": 0.06,
    "q4_1": 0.1,
    "q4_0": 0.11,
    "iq4_nl": 0.1,
    "q4_mix": 0.1,
    "q4_fit": 0.1,
}


def test_every_recipe_has_a_bound_here() -> None:
    assert set(BOUNDS) == set(recipes())


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_the_error_stays_within_the_formats_bound(tmp_path: Path, name: str) -> None:
    source = write_gguf(tmp_path / "source.gguf", matrices())
    make_gguf(source, tmp_path / "made.gguf", recipe(name))
    made = {tensor: values for tensor, _, values in read_tensors(tmp_path / "made.gguf")}
    for tensor, values in matrices().items():
        error = np.sqrt(((made[tensor] - values) ** 2).mean() / (values**2).mean())
        assert error <= (BOUNDS[name] if values.ndim == 2 else 0), tensor


def test_keys_come_along(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "source.gguf", matrices())
    make_gguf(source, tmp_path / "made.gguf", recipe("q8_0"))
    before, after = keys_of(source), keys_of(tmp_path / "made.gguf")
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]
    assert after["general.file_type"] == recipe("q8_0").file_type


def test_progress_is_told(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "source.gguf", matrices())
    told: list[tuple[int, int]] = []
    make_gguf(source, tmp_path / "made.gguf", recipe("f16"), lambda done, total: told.append((done, total)))
    assert told[0] == (0, len(matrices()))
    assert told[-1] == (len(matrices()), len(matrices()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    tensors = matrices()
    tensors["blk.1.ffn_up.weight"][3, 5] = bad
    source = write_gguf(tmp_path / "source.gguf", tensors)
    with pytest.raises(WeightsInvalid, match=r"blk\.1\.ffn_up\.weight"):
        make_gguf(source, tmp_path / "made.gguf", recipe("q8_0"))


def test_a_weight_beyond_f16_is_refused(tmp_path: Path) -> None:
    tensors = matrices()
    tensors["blk.0.attn_q.weight"][0, 0] = 1e6
    source = write_gguf(tmp_path / "source.gguf", tensors)
    with pytest.raises(WeightsInvalid, match="at F16"):
        make_gguf(source, tmp_path / "made.gguf", recipe("f16"))


@pytest.mark.parametrize("kept", [0, 4, 60, 400, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kept: float) -> None:
    source = write_gguf(tmp_path / "source.gguf", matrices())
    raw = source.read_bytes()
    source.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    with pytest.raises(WeightsInvalid):
        make_gguf(source, tmp_path / "made.gguf", recipe("q8_0"))


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="q8_0"):
        recipe("int3")


def test_a_rule_can_depend_on_the_depth() -> None:
    mixed = recipe("q4_mix")
    assert mixed.rule_for("blk.0.ffn_up.weight", 10).type == "IQ4_NL"
    assert mixed.rule_for("blk.9.ffn_up.weight", 10).type == "Q4_1"
    assert mixed.rule_for("token_embd.weight", 10).type == "Q8_0"
