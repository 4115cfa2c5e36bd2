"""Mean lengths of what runs are measured with: data sets, read from `workloads.toml`, and drawn lengths."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


def named_workload(text: str) -> tuple[float, float] | None:
    """Mean prompt and output tokens of the data set that a text names."""
    found = (load for load in _workloads() if any(word in text for word in load.match))
    return next(((load.isl, load.osl) for load in found), None)


def mlperf_workload(metric: str, model: str) -> tuple[float, float] | None:
    """Mean prompt and output tokens that MLPerf runs a model with."""
    if not metric.startswith("mlperf"):
        return None
    return next(((load.isl, load.osl) for load in _workloads() if load.mlperf_model == model), None)


def accelmark_workload(suite: str) -> tuple[float, float]:
    """Mean prompt and output tokens of one of AccelMark's suites, by its letter."""
    return next((load.isl, load.osl) for load in _workloads() if load.accelmark_suite == suite)


def mean_share(notes: str) -> float:
    """The mean length as a share of the longest, by a note such as `lengths drawn from 0.8 to 1`; 1 without one."""
    found = re.search(r"\blengths drawn from (0?\.\d+) to 1\b", notes)
    return (1 + float(found[1])) / 2 if found else 1.0


@dataclass(frozen=True)
class _Workload:
    """Mean lengths of a data set, the words that name it, and the model or suite that is run with it."""

    match: tuple[str, ...]
    mlperf_model: str
    accelmark_suite: str
    isl: float
    osl: float


@cache
def _workloads() -> tuple[_Workload, ...]:
    text = files("outpace.planner").joinpath("workloads.toml").read_text(encoding="utf-8")
    return tuple(
        _Workload(
            tuple(row.get("match", ())),
            row.get("mlperf_model", ""),
            row.get("accelmark_suite", ""),
            float(row["isl"]),
            float(row["osl"]),
        )
        for row in tomllib.loads(text).values()
    )
