"""A fitted format from asking to file, with the real engine on a tiny model."""

from pathlib import Path

import numpy as np
import pytest
from tests.precision.small import matrices, write_gguf, write_runnable

from outpace.lab.making import find_product, produce, source_of
from outpace.precision.calibration import shipped_calibration
from outpace.precision.gguf_maker import kinds_of, read_tensors
from outpace.precision.recipes import recipe
from outpace.values.errors import InvalidInput, WeightsInvalid


def test_a_fitted_file_has_the_recipes_types_and_says_how_it_was_made(tmp_path: Path) -> None:
    source = source_of(str(write_runnable(tmp_path / "tiny.gguf", merges=["a b"])), tmp_path)
    told: list[tuple[int, int]] = []
    made = produce(source, "q4_fit", tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert made.lineage is not None
    assert made.lineage.calibration_sha256 == shipped_calibration().sha256
    assert "fitted" in made.lineage.tool
    stored = {name: kind for name, kind, _ in read_tensors(made.path)}
    assert stored == dict(kinds_of(source.path, recipe("q4_fit")))
    found = find_product(source, "q4_fit", tmp_path)
    assert found is not None
    assert found.sha256 == made.sha256
    assert not list(tmp_path.rglob("*.npy"))


def test_a_model_that_cannot_be_run_here_is_refused_with_another_format(tmp_path: Path) -> None:
    tensors = {**matrices(), "blk.0.attn_q.bias": matrices()["blk.0.attn_norm.weight"]}
    source = source_of(str(write_gguf(tmp_path / "biased.gguf", tensors)), tmp_path)
    with pytest.raises(InvalidInput, match=r"attn_q\.bias.*choose q4_mix"):
        produce(source, "q4_fit", tmp_path)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    tensors = matrices()
    tensors["blk.1.ffn_up.weight"][3, 5] = np.nan
    source = source_of(str(write_gguf(tmp_path / "source.gguf", tensors)), tmp_path)
    with pytest.raises(WeightsInvalid, match=r"blk\.1\.ffn_up"):
        produce(source, "q4_fit", tmp_path)
