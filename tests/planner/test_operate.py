"""Operating points of variants, as far as a calibration moves them."""

import math

import msgspec
import pytest

from outpace.hardware.devices import device
from outpace.planner.architectures import architecture
from outpace.planner.calibration import Calibration, shipped_calibration
from outpace.planner.candidates import variants
from outpace.planner.objective import Objective
from outpace.planner.operate import Point, operate

GOAL = Objective(1000, 200, 1.0)


def best(model: str, calibration: Calibration) -> Point:
    found = [v for v in variants(architecture(model), [device("H100")], 1200) if v.memory.fits]
    return operate(found[:1], GOAL, calibration)[0]


@pytest.mark.parametrize(("model", "is_new"), [("OPT-13B", True), ("Llama-3.1-8B", False)])
def test_the_time_between_tokens_of_a_new_model_takes_its_shift(model: str, is_new: bool) -> None:
    shifted, plain = (
        best(model, msgspec.structs.replace(shipped_calibration(), shifts=shifts))
        for shifts in ({"model/itl": -0.09}, {})
    )
    moved = math.log(shifted.itl_ms / plain.itl_ms)
    assert moved == pytest.approx(-0.09 if is_new else 0.0)
    assert shifted.tokens_per_s == plain.tokens_per_s
    assert shifted.ttft_ms == plain.ttft_ms


def test_a_plan_asks_with_a_version_left_open() -> None:
    assert "version" not in best("Llama-3.1-8B", shipped_calibration()).basis
