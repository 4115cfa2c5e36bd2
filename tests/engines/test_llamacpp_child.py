"""llama.cpp's parameters for what a deployment asks."""

from typing import get_args

import pytest

from outpace.engines import llamacpp_child
from outpace.engines.llamacpp_config import LlamaConfig, SpeculationKind


def config(**fields: object) -> LlamaConfig:
    known = {
        "socket_path": "/s",
        "model_path": "/m",
        "alias": "m",
        "parallel": 8,
        "context_tokens": 1_024,
        "threads": 2,
    }
    return LlamaConfig(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("parallel", [1, 8, 200])
@pytest.mark.parametrize("kind", get_args(SpeculationKind))
def test_all_that_is_guessed_for_all_sequences_fits_in_a_batch(kind: SpeculationKind, parallel: int) -> None:
    p = llamacpp_child.parameters(config(speculation=kind, speculation_tokens=30, parallel=parallel), "")
    guessed = 0 if kind == "off" else 30
    assert p.n_batch == max(128, parallel * (1 + guessed))
    assert p.n_ubatch == min(512, p.n_batch)


@pytest.mark.parametrize("kind", sorted(set(get_args(SpeculationKind)) - {"off"}))
def test_so_does_what_llama_cpp_guesses_by_itself(kind: SpeculationKind) -> None:
    p = llamacpp_child.parameters(config(speculation=kind), "")
    speculative = p.speculative
    own = {
        "draft": speculative.draft.n_max,
        "ngram_cache": speculative.draft.n_max,
        "ngram_mod": speculative.ngram_mod.n_max,
    }
    most = own.get(kind) or getattr(speculative, kind).size_m
    assert p.n_batch >= 8 * (1 + most)


def test_an_embedding_fits_in_one_batch() -> None:
    p = llamacpp_child.parameters(config(embeddings=True), "")
    assert p.n_batch == p.n_ubatch == 1_024


def test_without_prefix_caching_no_prompt_is_kept_in_memory() -> None:
    shared, apart = (llamacpp_child.parameters(config(prefix_caching=on), "") for on in (True, False))
    assert (shared.cache_ram_mib, shared.cache_prompt) == (256, True)
    assert (apart.cache_ram_mib, apart.cache_prompt) == (0, False)
