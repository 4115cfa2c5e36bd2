"""Rankings of devices that were left out: each pair by one prediction that saw neither side."""

import numpy as np
from tests.planner.samples import case

from outpace.planner.columns import Numbers
from outpace.planner.groundtruth import Measurement
from outpace.planner.ranking import comparisons, score, verdicts_of_pairs
from outpace.planner.setups import resolve

_MEASURED = {"H100": 10.0, "H200": 8.0, "L40S": 30.0}


def _rows() -> list[Measurement]:
    cases = (case(gpu=gpu, metric="itl_ms_mean") for gpu in _MEASURED)
    return [
        Measurement(resolve(one), value, "made up")
        for one, value in zip(cases, _MEASURED.values(), strict=True)
    ]


def test_every_pair_is_predicted_without_both_sides() -> None:
    rows = _rows()
    names = [row.setup.device.family for row in rows]
    asked: list[frozenset[str]] = []

    def predict(pair: frozenset[str]) -> Numbers:
        asked.append(pair)
        # Without the hoppers their order is wrong; without one of them and the other family it is right.
        return np.log([8, 10, 30] if pair == {"hopper"} else [10, 8, 30])

    verdicts = verdicts_of_pairs(comparisons(rows), names, predict)
    assert sorted(map(sorted, asked)) == [["ada", "hopper"], ["hopper"]]
    assert score(verdicts) == {"itl": (2, 3)}


def test_predictions_that_agree_are_no_verdict_for_anyone() -> None:
    (one, *_) = comparisons(_rows()[:2])
    assert not one.is_right(np.zeros(2))
