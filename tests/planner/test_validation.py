"""How pairs of devices are formed before one of them is called the faster."""

import math

from tests.planner.samples import case

from outpace.planner.groundtruth import Measurement
from outpace.planner.setups import resolve
from outpace.planner.validation import LeftOut, ranking


def _row(gpu: str, measured: float, predicted: float, **changes: str) -> LeftOut:
    setup = resolve(case(gpu=gpu, metric="itl_ms_mean", **changes))
    return LeftOut(Measurement(setup, measured, "made up"), math.log(measured / predicted))


def test_a_pair_is_named_right_when_the_faster_device_is_predicted_faster() -> None:
    right = [_row("H100", 10, 12), _row("H200", 8, 9)]
    wrong = [_row("H100", 10, 8), _row("H200", 8, 9)]
    assert ranking(right) == {"itl": (1, 1)}
    assert ranking(wrong) == {"itl": (0, 1)}


def test_repeats_of_a_device_are_one_point() -> None:
    rows = [_row("H100", 10, 12), _row("H100", 11, 12), _row("H100", 9, 12), _row("H200", 8, 9)]
    assert ranking(rows) == {"itl": (1, 1)}


def test_a_difference_below_ten_percent_is_no_pair() -> None:
    assert ranking([_row("H100", 10, 8), _row("H200", 9.5, 9)]) == {"itl": (0, 0)}


def test_another_expert_layout_or_other_flags_are_no_pair() -> None:
    model = {"model": "Qwen3-235B-A22B", "n_gpus": "8", "tp": "8"}
    spread = [_row("H100", 10, 12, notes="ep=8", **model), _row("H200", 8, 9, notes="ep=1", **model)]
    started = [
        _row("H100", 10, 12, notes="flags: --model-path /a --x"),
        _row("H200", 8, 9, notes="flags: default"),
    ]
    assert ranking(spread) == ranking(started) == {"itl": (0, 0)}


def test_the_place_of_a_model_is_no_flag() -> None:
    rows = [
        _row("H100", 10, 12, notes="flags: --model-path /a --x"),
        _row("H200", 8, 9, notes="flags: --model-path /b --x"),
    ]
    assert ranking(rows) == {"itl": (1, 1)}
