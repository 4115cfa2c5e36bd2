"""How far runs lie from their repeats and from themselves on other versions."""

import math

import numpy as np
import pytest
from tests.planner.samples import case

from outpace.planner.groundtruth import Measurement
from outpace.planner.scatter import against_others, against_repeats
from outpace.planner.setups import resolve
from outpace.planner.traffics import run_of, run_on_any_version, traffic_of
from outpace.planner.validation import LeftOut, scatter


def test_a_run_measured_once_says_nothing() -> None:
    assert np.isnan(against_repeats(["a", "b"], np.array([1.0, 2.0]))).all()
    assert np.isnan(against_others(["a", "a"], ["v1", "v1"], np.array([1.0, 2.0]))).all()


def test_repeats_scatter_as_much_as_their_noise() -> None:
    """The others' mean scatters too; without the root the error of a perfect predictor would look larger."""
    noise = np.random.default_rng(0).normal(0, 0.1, 4000)
    pairs = [str(n // 2) for n in range(4000)]
    assert against_repeats(pairs, noise).std() == pytest.approx(0.1, rel=0.05)


def test_a_run_is_compared_with_the_mean_of_other_versions() -> None:
    found = against_others(["a", "a", "a", "b"], ["v1", "v2", "v2", "v2"], np.array([1.0, 2.0, 4.0, 9.0]))
    assert found[:3].tolist() == [-2.0, 1.0, 3.0]
    assert np.isnan(found[3])


def test_versions_of_a_generation_are_one_run_and_other_devices_are_not() -> None:
    old, new, other = (
        resolve(case(**changes))
        for changes in ({"engine_version": "0.10.0"}, {"engine_version": "0.11.0"}, {"gpu": "H200-SXM-141GB"})
    )
    assert run_on_any_version(old) == run_on_any_version(new)
    assert run_of(old) != run_of(new) != run_of(other)
    assert traffic_of(new) == traffic_of(other)


def test_the_model_is_judged_on_the_very_runs_that_have_siblings() -> None:
    rows = [("0.10.0", 10.0, 0.5), ("0.11.0", 11.0, 0.1), ("", 50.0, 9.0)]
    found = [
        LeftOut(Measurement(resolve(case(engine_version=version, isl=isl)), value, "made up"), residual)
        for (version, value, residual), isl in zip(rows, ("1000", "1000", "2000"), strict=True)
    ]
    [(name, figures)] = scatter("version", found)
    assert (name, figures["rows"]) == ("itl mean", 2)
    assert figures["mean"] == pytest.approx((abs(1 - 1.1) + abs(1 - 1 / 1.1)) / 2, abs=1e-4)
    assert figures["own mean"] == pytest.approx((1 - math.exp(-0.5) + 1 - math.exp(-0.1)) / 2, abs=1e-4)
