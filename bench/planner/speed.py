"""How long a plan over everything and 2,000 predictions take.

python -m bench.planner.speed
"""

import json
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter

from outpace.hardware.devices import devices
from outpace.planner.architectures import architecture
from outpace.planner.calibration import shipped_calibration
from outpace.planner.cases import Case
from outpace.planner.choose import make_plan
from outpace.planner.objective import Objective
from outpace.planner.predict import predict
from outpace.planner.prices import price_table

_ROUNDS = 5
_CASES = 2000
_CASE = Case(
    model="Llama-3.1-8B",
    gpu="H100-SXM-80GB",
    n_gpus="1",
    tp="1",
    engine="vLLM",
    engine_version="0.11.0",
    osl="200",
    metric="itl_ms_mean",
)


def main() -> None:
    """Print medians and the slowest round as one JSON line."""
    calibration = shipped_calibration()
    cases = [replace(_CASE, isl=str(100 + n), batch_or_concurrency=str(1 + n % 64)) for n in range(_CASES)]
    goal = Objective(1000, 300, 5.0, ttft_ms=1000, itl_ms=50)
    shape = architecture("Llama-3.1-70B")
    plans = [
        _seconds(lambda: make_plan(shape, goal, devices(), price_table(), calibration))
        for _ in range(_ROUNDS)
    ]
    predicted = [_seconds(lambda: predict(cases, calibration)) for _ in range(_ROUNDS)]
    figures = {
        "plan_s": {"median": round(median(plans), 3), "slowest": round(max(plans), 3)},
        "predict_2000_s": {"median": round(median(predicted), 3), "slowest": round(max(predicted), 3)},
    }
    print(json.dumps(figures))


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    main()
