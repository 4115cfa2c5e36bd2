"""Bulk prediction: every row is answered, none with an invented number."""

import pytest
from tests.planner.samples import CLOSED_8B, STATIC_70B, case

from outpace.planner.calibration import shipped_calibration
from outpace.planner.predict import ANSWER_COLUMNS, answer_fields, predict


def answered(**changes: str) -> dict[str, str]:
    [answer] = predict([case(CLOSED_8B, **changes)], shipped_calibration())
    return dict(zip(ANSWER_COLUMNS, answer_fields(answer), strict=True))


def test_what_does_not_fit_is_zero_with_the_arithmetic() -> None:
    found = answered(model="Llama-2-70B", weights_precision="FP16")
    assert found["predicted"] == "0"
    assert "138.0 GB of weights" in found["reason"]


def test_impossible_parallelism_is_zero() -> None:
    found = answered(tp="3", n_gpus="3")
    assert found["predicted"] == "0"
    assert "3 does not divide the 32 attention heads" in found["reason"]


@pytest.mark.parametrize("changes", [{"model": "Nope"}, {"gpu": "H900"}, {"metric": "joy"}, {"osl": "x"}])
def test_what_is_not_known_is_empty_with_a_reason(changes: dict[str, str]) -> None:
    found = answered(**changes)
    assert found["predicted"] == found["low"] == found["high"] == ""
    assert found["reason"]


def test_more_devices_than_there_are_cannot_run() -> None:
    found = answered(tp="4", n_gpus="2")
    assert found["predicted"] == "0"
    assert "needs 4 devices, n_gpus is 2" in found["reason"]


@pytest.mark.parametrize("column", ["isl", "osl", "batch_or_concurrency", "n_gpus"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e30", "x", "½"])
def test_figures_that_are_none_are_marked_and_never_crash(column: str, value: str) -> None:
    found = answered(**{column: value})
    assert found["reason"] or float(found["predicted"]) > 0


def test_who_names_no_count_gets_as_few_devices_as_hold_the_model() -> None:
    found = answered(gpu="L4", n_gpus="", tp="", pp="")
    assert "taken as 1" in found["reason"]


def test_a_bad_row_does_not_stop_the_others_and_order_is_kept() -> None:
    rows = [CLOSED_8B, case(model="Nope", id="bad"), STATIC_70B]
    answers = predict(rows, shipped_calibration())
    assert [answer.case.id for answer in answers] == ["c", "bad", "s"]
    assert [answer.estimate is not None for answer in answers] == [True, False, True]


def test_mixed_devices_add_up() -> None:
    shared = {
        "model": "Llama-2-70B",
        "weights_precision": "FP8",
        "isl": "dataset",
        "tp": "",
        "notes": "OpenOrca",
        "metric": "mlperf_offline_output_throughput",
    }
    mixed = answered(gpu="mixed:MI300X (x8), AMD Instinct MI325X 256GB HBM3e (x8)", n_gpus="16", **shared)
    parts = [float(answered(gpu=gpu, n_gpus="8", **shared)["predicted"]) for gpu in ("MI300X", "MI325X")]
    assert float(mixed["predicted"]) == pytest.approx(sum(parts), rel=1e-3)


def test_per_gpu_is_the_whole_divided() -> None:
    whole = answered(metric="output_throughput", tp="2", n_gpus="2")
    each = answered(metric="output_throughput_per_gpu", tp="2", n_gpus="2")
    assert float(each["predicted"]) == pytest.approx(float(whole["predicted"]) / 2, rel=1e-3)
    assert each["unit"] == "tok/s/GPU"


def test_many_cases_are_answered_like_each_alone() -> None:
    rows = [case(batch_or_concurrency=str(1 + n % 64), isl=str(100 + n)) for n in range(200)]
    together = predict(rows, shipped_calibration())
    [alone] = predict([rows[137]], shipped_calibration())
    assert together[137].estimate == alone.estimate


def test_a_split_that_is_not_given_is_chosen_and_said() -> None:
    found = answered(model="DeepSeek-R1", gpu="H200", n_gpus="", tp="", pp="", weights_precision="fp8")
    assert float(found["predicted"]) > 0
    assert "n_gpus and tp not given, taken as 8" in found["reason"]


_BUSY_HOST = {"gpu": "H100-SXM-80GB", "batch_or_concurrency": "32", "isl": "100", "osl": "200"}


def _per_token_ms(model: str, host: str, **changes: str) -> float:
    notes = f"host: {host}" if host else ""
    return float(
        answered(model=model, engine_version="0.7.3", notes=notes, **_BUSY_HOST, **changes)["predicted"]
    )


def test_a_slow_host_slows_a_small_model_and_hardly_a_large_one() -> None:
    def ratio(model: str, **changes: str) -> float:
        slow, fast = (
            _per_token_ms(model, host, **changes) for host in ("Xeon Platinum 8558", "Xeon Platinum 8481C")
        )
        return slow / fast

    assert ratio("Qwen2.5-0.5B-Instruct") > 1.8
    assert 1.0 < ratio("Llama-3.1-70B", n_gpus="2", tp="2") < ratio("Qwen2.5-0.5B-Instruct")


def test_a_host_that_was_never_measured_is_between_a_slow_and_a_fast_one() -> None:
    fast, middling, slow = (
        _per_token_ms("Qwen2.5-0.5B-Instruct", host)
        for host in ("Xeon Platinum 8481C", "Abacus 3000", "Xeon Platinum 8558")
    )
    assert fast < middling < slow


def test_without_a_host_it_is_the_one_of_published_runs() -> None:
    named, unnamed = (_per_token_ms("Qwen2.5-0.5B-Instruct", host) for host in ("Xeon Platinum 8481C", ""))
    assert named == unnamed
