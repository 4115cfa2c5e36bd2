"""The physics: what must hold for any calibration, and the mission's claims under the shipped one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planner.samples import CLOSED_8B, STATIC_70B, case

from outpace.planner.calibration import shipped_calibration
from outpace.planner.cases import Case
from outpace.planner.estimate import Estimate, estimate_all
from outpace.planner.explain import compare_devices
from outpace.planner.model import batch
from outpace.planner.setups import resolve
from outpace.planner.steps import decode_step_s, prefill_s


def physical(asked: Case) -> float:
    """The step-time model alone with its priors, without any fitted figure."""
    prepared = batch([resolve(asked)])
    return float(prepared.log_metric(prepared.rates({}))[0])


def calibrated(asked: Case) -> Estimate:
    return estimate_all([resolve(asked)], shipped_calibration())[0]


# No deadline: a shared machine may stop a test for longer than any sound one.
@settings(deadline=None, max_examples=40)
@given(batch_size=st.integers(1, 256), isl=st.integers(16, 8000), osl=st.integers(2, 2000))
def test_more_in_a_static_batch_is_never_slower_in_total(batch_size: int, isl: int, osl: int) -> None:
    lengths = {"isl": str(isl), "osl": str(osl), "notes": "static batch", "metric": "output_throughput"}
    one = physical(case(batch_or_concurrency=str(batch_size), **lengths))
    two = physical(case(batch_or_concurrency=str(batch_size * 2), **lengths))
    assert two >= one - 1e-6


# No deadline: a shared machine may stop a test for longer than any sound one.
@settings(deadline=None, max_examples=40)
@given(concurrency=st.integers(1, 512), isl=st.integers(16, 8000))
def test_more_callers_never_shorten_the_time_between_tokens(concurrency: int, isl: int) -> None:
    one, two = (
        physical(case(batch_or_concurrency=str(n), isl=str(isl))) for n in (concurrency, concurrency * 2)
    )
    assert two >= one - 1e-6


@pytest.mark.parametrize("metric", ["itl_ms_mean", "ttft_ms_mean"])
def test_a_rate_and_its_load_grow_together(metric: str) -> None:
    slow, fast = (
        physical(case(metric=metric, batch_or_concurrency="", request_rate_rps=rate)) for rate in ("0.5", "8")
    )
    assert fast > slow


def test_more_bandwidth_alone_speeds_decoding_up() -> None:
    h100, h200 = (physical(case(gpu=gpu)) for gpu in ("H100", "H200"))
    assert h200 < h100


def test_experts_are_covered_gradually() -> None:
    one, many = (physical(case(model="Qwen3-30B-A3B", batch_or_concurrency=n)) for n in ("1", "64"))
    assert many > one


def test_tensor_parallelism_is_for_latency_and_pipelines_for_throughput() -> None:
    shared = {"model": "Llama-3.1-70B", "n_gpus": "4", "weights_precision": "FP8", "kv_precision": "FP8"}
    latency = {"metric": "itl_ms_mean", "batch_or_concurrency": "1", **shared}
    tensor = calibrated(case(tp="4", pp="1", **latency)).value
    pipeline = calibrated(case(tp="1", pp="4", **latency)).value
    assert tensor < pipeline / 2
    # Long prompts over PCIe: all-reduces of every layer cost more than handing over once per stage.
    prompts = {"isl": "4000", "osl": "100", "batch_or_concurrency": "max", "metric": "output_throughput"}
    slow_link = {**shared, **prompts, "gpu": "L40S"}
    tensor = calibrated(case(tp="4", pp="1", **slow_link)).value
    pipeline = calibrated(case(tp="1", pp="4", **slow_link)).value
    assert pipeline > tensor


def test_h200_against_h100_in_the_vendors_true_setup_holds_1_9x() -> None:
    h100 = calibrated(STATIC_70B)
    h200 = calibrated(case(STATIC_70B, gpu="H200-SXM-141GB", batch_or_concurrency="32"))
    assert h200.low / h100.high < 1.9 < h200.high / h100.low
    assert h200.value / h100.value > 1.43


def test_the_missions_wrong_setup_cannot_run_on_one_h100() -> None:
    wrong = resolve(case(STATIC_70B, isl="128", osl="2048", batch_or_concurrency="64"))
    assert wrong.memory.max_sequences < 64


def test_h200_over_h100_is_split_into_bandwidth_and_capacity() -> None:
    found = compare_devices("Llama-2-70B", "fp8", 2048, 128, 1, ("H200", "H100"), shipped_calibration())
    product = 1.0
    for factor in found.factors.values():
        product *= factor
    assert product == pytest.approx(found.ratio, rel=0.02)
    assert found.factors["capacity"] > 1.02
    assert found.factors["bandwidth"] > 1.02
    assert "arithmetic" not in found.factors


def test_an_interval_holds_its_value_and_says_where_it_is_from() -> None:
    known = calibrated(CLOSED_8B)
    assert known.low < known.value < known.high
    assert known.basis.startswith("calibrated: ")
    unseen = calibrated(case(gpu="Gaudi3"))
    assert unseen.basis.startswith("roofline")
    assert unseen.high / unseen.low >= known.high / known.low


def test_launching_kernels_one_by_one_costs_prompts_and_no_steps() -> None:
    prepared = batch([resolve(CLOSED_8B)])
    rates = prepared.rates({})
    slower = {**rates, "eager": rates["eager"] * 10}
    fixed, slow = (prefill_s(prepared.at, each, prepared.at.isl).fixed_s for each in (rates, slower))
    assert slow - fixed == pytest.approx(32 * 9 * rates["eager"])
    steps = [decode_step_s(prepared.at, each, np.ones(1), prepared.at.isl) for each in (rates, slower)]
    assert steps[0] == steps[1]
