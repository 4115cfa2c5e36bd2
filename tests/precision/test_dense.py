"""The numpy Llama: what a matrix is shown, and which files it does not take."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.precision.small import LAYERS, matrices, write_gguf

from outpace.precision.dense import DenseModel, Floats, Texts, unfit

Seen = dict[tuple[int, str], Floats]


def seen(path: Path, sequences: Sequence[Sequence[int]]) -> Seen:
    found: Seen = {}

    def keep(layer: int, role: str, rows: Floats, weights: Floats) -> Floats:
        found[layer, role] = rows
        return weights

    assert list(DenseModel(path).run(Texts(sequences), keep)) == list(range(LAYERS))
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", matrices())


def test_every_matrix_of_a_layer_is_shown_what_flows_into_it(model: Path) -> None:
    found = seen(model, [[1, 2, 3], [4, 5]])
    roles = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    assert [role for layer, role in found if layer == 0] == roles
    assert {rows.shape for rows in found.values()} == {(5, 64)}
    # After a norm whose weights are one, the mean square is one.
    assert np.allclose((found[0, "attn_q"] ** 2).mean(axis=-1), 1, atol=1e-3)


def test_later_tokens_and_other_texts_change_nothing(model: Path) -> None:
    alone, among = seen(model, [[1, 2, 3]]), seen(model, [[7, 8], [1, 2, 3, 9]])
    for place, rows in alone.items():
        assert np.allclose(rows, among[place][2:5], atol=1e-4), place


def test_where_a_token_stands_matters(model: Path) -> None:
    one, other = (seen(model, [tokens])[1, "ffn_down"][-1] for tokens in ([1, 2, 3], [2, 1, 3]))
    assert not np.allclose(one, other, atol=1e-3)


def test_a_replaced_matrix_is_what_the_next_ones_see(model: Path) -> None:
    found: Seen = {}

    def replace(layer: int, role: str, rows: Floats, weights: Floats) -> Floats:
        found[layer, role] = rows
        return np.zeros_like(weights) if role in ("attn_output", "ffn_down") else weights

    list(DenseModel(model).run(Texts([[1, 2]]), replace))
    assert np.array_equal(found[0, "attn_q"], found[1, "attn_q"])


def test_what_it_does_not_know_is_named(model: Path) -> None:
    keys = {name: field.contents() for name, field in gguf.GGUFReader(model).fields.items()}
    names = list(matrices())
    assert unfit(keys, names) is None
    assert "qwen2" in (unfit({**keys, "general.architecture": "qwen2"}, names) or "")
    assert "ffn_gate_exps" in (unfit(keys, [*names, "blk.0.ffn_gate_exps.weight"]) or "")
    assert "scaled" in (unfit({**keys, "llama.rope.scaling.type": "linear"}, names) or "")
    assert "in part" in (unfit({**keys, "llama.rope.dimension_count": 8}, names) or "")


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    tensors = {**matrices(), "blk.0.attn_q.bias": np.zeros(64, dtype=np.float32)}
    with pytest.raises(ValueError, match=r"attn_q\.bias"):
        DenseModel(write_gguf(tmp_path / "biased.gguf", tensors))
