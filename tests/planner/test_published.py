"""What is known of published runs: their drafts, their cache, how many requests they had, a checkpoint of rows."""

from dataclasses import replace

import numpy as np
import pytest
from tests.planner.samples import case
from tests.planner.test_recipes import deepseek

from outpace.planner.cases import Case
from outpace.planner.columns import held_sequences
from outpace.planner.engines import is_older
from outpace.planner.model import batch
from outpace.planner.service import Service
from outpace.planner.setups import resolve
from outpace.planner.traffics import traffic_of

_PREDICTING = {"engine": "trtllm", "engine_version": "1.2.0rc6.post3", "weights_precision": "fp4"}
_QWEN = {"model": "Qwen3.5-397B-A17B", "tp": "4", "n_gpus": "4"}
_FULL = "offline max load, in-flight batching, fixed ISL/OSL; PyTorch backend"


def served(asked: Case) -> Service:
    """What a case is served with by the priors."""
    prepared = batch([resolve(asked)])
    return prepared.serve(prepared.rates({}))


@pytest.mark.parametrize(
    ("changes", "drafted"),
    [
        (_PREDICTING, 3),
        ({**_PREDICTING, "notes": "attention-dp enabled"}, 1),
        ({**_PREDICTING, "engine_version": "1.2.0rc6.post2"}, 0),
        ({**_PREDICTING, "gpu": "H200-SXM-141GB"}, 0),
        ({**_PREDICTING, "batch_or_concurrency": "all(16)"}, 0),
        ({**_QWEN, "notes": "image=lmsysorg/sglang:v0.5.9-cu130"}, 3),
        ({**_QWEN, "notes": "image=lmsysorg/sglang:v0.5.9-cu130-amd64"}, 0),
        (_QWEN, 0),
        ({**_PREDICTING, "notes": "speculation off"}, 0),
        ({**_PREDICTING, "notes": "Speculative decoding OFF"}, 0),
        ({**_PREDICTING, "notes": "draft_len=2, acceptance_rate=0.7"}, 0),
        ({**_QWEN, "notes": "image=lmsysorg/sglang:v0.5.9-cu130; speculation off"}, 0),
    ],
)
def test_drafts_follow_the_version_or_the_image_of_a_published_run(
    changes: dict[str, str], drafted: int
) -> None:
    assert resolve(deepseek(**{"batch_or_concurrency": "16", **changes})).drafted == drafted


def test_a_step_that_checks_a_draft_yields_several_tokens() -> None:
    fields = {**_PREDICTING, "batch_or_concurrency": "4", "kv_precision": "fp8"}
    drafting = served(deepseek(**fields))
    plain = served(deepseek(**{**fields, "engine_version": "1.2.0rc6.post2"}))
    most = 1 + 0.75 + 0.75**2 + 0.75**3
    assert plain.itl_s[0] / most < drafting.itl_s[0] < plain.itl_s[0] / 1.5


@pytest.mark.parametrize(
    ("changes", "bits"),
    [
        ({}, 8),
        ({"kv_precision": "bf16"}, 16),
        ({"gpu": "H200-SXM-141GB"}, 16),
        ({"engine": "trtllm", "engine_version": "1.1.0", "gpu": "H200-SXM-141GB"}, 8),
        ({"notes": "flags: --kv-cache-dtype auto"}, 16),
        ({"gpu": "H200-SXM-141GB", "notes": "flags: --kv-cache-dtype fp8_e4m3"}, 8),
        ({"batch_or_concurrency": "all(16)"}, 16),
        ({**_QWEN, "weights_precision": "bf16"}, 16),
        ({**_QWEN, "gpu": "H200-SXM-141GB"}, 8),
    ],
)
def test_keys_and_values_are_kept_as_published_runs_keep_them(changes: dict[str, str], bits: int) -> None:
    assert round(resolve(deepseek(**{"batch_or_concurrency": "16", **changes})).kv.bits) == bits


@pytest.mark.parametrize(
    ("version", "is_eight_bit"), [("0.17.0", False), ("0.19.0", True), ("nightly-x", True)]
)
def test_a_recipe_may_hold_since_a_version(version: str, *, is_eight_bit: bool) -> None:
    fields = {"model": "MiniMax-M2.5", "engine": "vllm", "batch_or_concurrency": "8"}
    assert (resolve(deepseek(**fields, engine_version=version)).kv.bits < 10) == is_eight_bit


def test_what_has_no_number_is_newer_than_every_version() -> None:
    assert is_older("0.18.1", "0.19")
    assert not is_older("0.19.0", "0.19")
    assert not is_older("nightly", "0.19")


def full(**changes: str) -> Case:
    """Eight billion parameters at full load on TensorRT-LLM."""
    fields = {"engine": "TensorRT-LLM", "engine_version": "1.0.0", "weights_precision": "FP8", "isl": "128"}
    load = {"osl": "4096", "batch_or_concurrency": "max", "metric": "output_throughput"}
    return case(**{**fields, **load, **changes})


def test_a_published_run_at_full_load_has_an_end() -> None:
    noted = full(notes=_FULL)
    assert resolve(noted).run_requests == 1500
    assert resolve(full()).run_requests > 1e6
    assert resolve(full(notes=_FULL, isl="100")).run_requests > 1e6
    assert served(noted).tokens_per_s[0] < served(full()).tokens_per_s[0]


def test_checking_drafts_costs_the_host_per_sequence() -> None:
    asked = [deepseek(**{**_PREDICTING, "batch_or_concurrency": callers}) for callers in ("1", "64")]
    drafting = batch([resolve(one) for one in asked])
    rates = drafting.rates({})
    dearer = {**rates, "drafting": rates["drafting"] + 1e-3}
    slower = drafting.serve(dearer).itl_s - drafting.serve(rates).itl_s
    assert slower[1] == pytest.approx(64 * slower[0])


def test_no_more_run_at_once_than_the_run_has() -> None:
    wide = {"gpu": "B200-SXM-180GB", "model": "Llama-3.1-8B"}
    split = {"tp": "8", "n_gpus": "8"}
    noted = full(**wide, **split, notes=_FULL)
    assert held_sequences(resolve(noted)) > 1500
    assert served(noted).in_flight[0] == 1500


def test_engines_divide_a_device_in_their_own_ways() -> None:
    held = {
        name: held_sequences(
            resolve(case(engine=name, engine_version="", model="Qwen3-32B", batch_or_concurrency="all(500)"))
        )
        for name in ("vllm", "sglang", "trtllm")
    }
    assert held["sglang"] < held["vllm"] < held["trtllm"]


def test_rows_without_a_kernel_cost_a_tile_at_least_and_their_attention_is_wider() -> None:
    fields = {
        "model": "Llama-3.1-405B",
        "n_gpus": "8",
        "tp": "8",
        "engine": "vLLM",
        "engine_version": "0.6.3",
    }
    few = {"weights_precision": "FP8", "batch_or_concurrency": "4", "metric": "itl_ms_mean"}
    rows = case(**fields, **few, gpu="MI300X", notes="label '8xMi300x 1FP8-meta'")
    tensors = case(**fields, **few, gpu="MI300X", notes="label '8xMi300 1FP8-amd'")
    assert resolve(rows).weights.name == "fp8-rows"
    assert resolve(rows).memory.weights_bytes > 1.15 * resolve(tensors).memory.weights_bytes
    assert served(rows).itl_s[0] > 2.5 * served(tensors).itl_s[0]
    there = {"gpu": "H100-SXM-80GB"}
    on_hopper = served(case(rows, **there)).itl_s[0] / served(case(tensors, **there)).itl_s[0]
    assert 1 < on_hopper < 1.3


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"model": "Llama-3.1-70B", "tp": "4", "n_gpus": "4"}, 20),
        ({"model": "Llama-3.1-70B"}, 0),
        ({"model": "Llama-3.1-70B", "tp": "4", "n_gpus": "4", "isl": "8192"}, 0),
        ({"notes": "attention-dp enabled"}, 60),
        ({}, 0),
        ({"engine_version": "1.2.0rc6.post2", "batch_or_concurrency": "64"}, 40),
        ({"engine_version": "1.2.0rc6.post2", "batch_or_concurrency": "32"}, 0),
        ({"engine": "sglang", "notes": "attention-dp enabled"}, 0),
    ],
)
def test_prompts_wait_for_others_where_published_runs_say_so(changes: dict[str, str], steps: float) -> None:
    asked = deepseek(
        **{"engine": "trtllm", "engine_version": "1.1.0", "batch_or_concurrency": "16", **changes}
    )
    assert resolve(asked).gather_steps == steps


def test_the_first_to_wait_waits_longest_and_many_share() -> None:
    fields = {
        "model": "Llama-3.1-70B",
        "engine": "trtllm",
        "engine_version": "1.1.0",
        "tp": "4",
        "n_gpus": "4",
    }
    waits = []
    for callers in ("1", "512"):
        gathering = served(deepseek(**fields, batch_or_concurrency=callers))
        at_once = served(deepseek(**fields, batch_or_concurrency=callers, isl="1025"))
        waits.append((gathering.ttft_s[0] - at_once.ttft_s[0]) / gathering.itl_s[0])
    assert waits[0] == pytest.approx(20, rel=0.05)
    assert 10 < waits[1] < 13


def test_drawn_lengths_are_served_as_their_means_and_compared_as_written() -> None:
    engine = {"engine": "vLLM", "engine_version": "0.11.0"}
    noted = resolve(deepseek(**engine, isl="1000", osl="2000", notes="lengths drawn from 0.8 to 1"))
    means = resolve(deepseek(**engine, isl="900", osl="1800"))
    assert served(noted.case).ttft_s[0] == pytest.approx(served(means.case).ttft_s[0])
    assert served(noted.case).itl_s[0] == pytest.approx(served(means.case).itl_s[0])
    assert held_sequences(noted) == held_sequences(means)
    assert traffic_of(noted) == traffic_of(resolve(deepseek(**engine, isl="1000", osl="2000")))
    assert noted.has_varied_lengths
    assert not means.has_varied_lengths


def test_callers_whose_prompts_are_read_apart_stay_in_step() -> None:
    """Waiting moves from between tokens to before the first one; a request takes about as long in all."""
    fields = {"engine": "SGLang", "engine_version": "0.5.1", "batch_or_concurrency": "64", "osl": "128"}
    together = served(case(**fields))
    apart = served(case(**fields, notes="lengths drawn from 0.8 to 1", isl="1111.1"))
    mixed = served(case(**{**fields, "engine": "vLLM", "engine_version": "0.11.0"}))
    for other in (apart, mixed):
        assert together.itl_s[0] < 0.9 * other.itl_s[0]
        assert together.ttft_s[0] > 1.5 * other.ttft_s[0]
    takes, took = (float(one.ttft_s[0] + 127 * one.itl_s[0]) for one in (together, mixed))
    assert takes == pytest.approx(took, rel=0.25)


def test_latent_attention_launches_more_kernels_and_a_shared_expert_too() -> None:
    prepared = batch([resolve(case()), resolve(deepseek()), resolve(case(model="Qwen3-30B-A3B"))])
    assert prepared.at.mixer_kernels.tolist() == [1.0, 1.6, 1.0]
    assert prepared.at.expert_kernels.tolist() == [1.0, 1.5, 1.0]


def test_what_is_moved_beside_products_counts_most_for_small_models_with_few_bits() -> None:
    def slower(model: str, stored: str) -> float:
        asked = case(gpu="B200", model=model, weights_precision=stored, metric="ttft_ms_mean", isl="8000")
        prepared = batch([resolve(asked)])
        rates = prepared.rates({})
        nothing = {**rates, "passes": np.zeros(1)}
        return float(prepared.serve(rates).ttft_s[0] / prepared.serve(nothing).ttft_s[0])

    assert 1.0 < slower("Llama-3.1-70B", "BF16") < slower("Llama-3.1-8B", "FP4") < 2.0


def test_beams_share_their_prompt() -> None:
    asked = {"model": "gpt-j-6b", "weights_precision": "FP8", "metric": "mlperf_offline_samples"}
    with_beams = resolve(case(**asked, engine="TensorRT", isl="", osl=""))
    assert with_beams.beams == 4
    alone = held_sequences(replace(with_beams, beams=1))
    assert alone / 4 < held_sequences(with_beams) < alone
