"""Levels of cells in the fit: what a cell's rows say about physics, and how much."""

import numpy as np
import pytest
from tests.planner.samples import case

from outpace.planner.cells import SPREAD_LOG, Cells, cells
from outpace.planner.setups import resolve


def one(residuals: np.ndarray) -> np.ndarray:
    return np.full(len(residuals), 100.0)


def test_a_cell_is_a_device_a_model_an_engine_a_format_and_a_quantity() -> None:
    same = [
        resolve(case(isl=isl, engine_version=version))
        for isl, version in (("10", "0.10.0"), ("99", "0.11.0"))
    ]
    others = [
        resolve(case(**changes))
        for changes in (
            {"gpu": "L4"},
            {"engine": "SGLang"},
            {"metric": "ttft_ms_mean"},
            {"weights_precision": "FP8"},
        )
    ]
    found = cells([*same, *others])
    assert found.of_row.tolist() == [0, 0, 1, 2, 3, 4]
    assert found.count == 5


def test_a_level_is_the_shrunken_mean_of_its_rows() -> None:
    grouped = Cells(np.array([0, 0, 0, 1]), 2)
    found = grouped.levels(np.array([0.3, 0.3, 0.3, 0.3]), one)
    assert found == pytest.approx([0.3 * 300 / (300 + SPREAD_LOG**-2), 0.3 * 100 / (100 + SPREAD_LOG**-2)])


def test_curvature_and_slope_are_those_of_correlated_rows() -> None:
    """Against the inverse of the full covariance, which is what the formula stands for."""
    random = np.random.default_rng(1)
    of_row = np.array([0, 0, 1, 1, 1, 2])
    jacobian, residuals, weights = random.normal(size=(6, 3)), random.normal(size=6), random.uniform(1, 50, 6)
    covariance = np.diag(1 / weights) + SPREAD_LOG**2 * np.equal.outer(of_row, of_row)
    inverse = np.linalg.inv(covariance)
    curvature, slope = Cells(of_row, 3).without_levels(jacobian, residuals, weights)
    assert curvature == pytest.approx(jacobian.T @ inverse @ jacobian)
    assert slope == pytest.approx(jacobian.T @ inverse @ residuals)


def test_rows_without_weight_teach_no_level() -> None:
    grouped = Cells(np.array([0, 0, 1]), 2)
    found = grouped.levels(np.array([0.2, 9.0, 9.0]), lambda left: np.array([100.0, 0.0, 0.0]))
    assert found == pytest.approx([0.2 * 100 / (100 + SPREAD_LOG**-2), 0.0])
