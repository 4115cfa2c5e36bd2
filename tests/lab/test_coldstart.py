"""Waking a deployment at zero: what counts as asleep, and the sums over wakes."""

from pathlib import Path
from typing import Any

import pytest

from outpace.lab.coldstart import SHARES, STEPS, Woken, arrivals_of, is_asleep, percentile, prices
from outpace.values.errors import InvalidInput


def _deployment(state: str = "sleeping", replicas: tuple[str, ...] = (), imported: int = 0) -> dict[str, Any]:
    return {
        "state": state,
        "replicas": [{"state": each} for each in replicas],
        "standby": {"imported": imported, "loaded": replicas.count("standby")},
    }


@pytest.mark.parametrize(
    ("deployment", "standby", "asleep"),
    [
        (_deployment(), {}, True),
        (_deployment("ready"), {}, False),
        (_deployment(replicas=("draining",)), {}, False),
        (_deployment(imported=1), {}, False),
        (_deployment(), {"imported": 1}, False),
        (_deployment(imported=1), {"imported": 1}, True),
        (_deployment(replicas=("starting",)), {"loaded": 1}, False),
        (_deployment(replicas=("standby",)), {"loaded": 1}, True),
    ],
)
def test_asleep_is_with_exactly_what_stands_by(
    deployment: dict[str, Any], standby: dict[str, int], asleep: bool
) -> None:
    assert is_asleep(deployment, standby) == asleep


def test_every_step_has_a_price() -> None:
    assert STEPS.keys() == SHARES.keys()


def test_phases_are_medians_over_the_starts_that_told_them() -> None:
    bills = tuple(
        {"phases_s": phases} for phases in ({"load": 1.0}, {"load": 3.0, "canary": 5.0}, {"load": 2.0})
    )
    woken = Woken(step="nothing", first_token_s=(1.0, 2.0, 4.0), bills=bills)
    assert woken.phases_s() == {"load": 2.0, "canary": 5.0}
    assert woken.p50_s == 2.0
    assert 2.0 < woken.p95_s <= 4.0
    assert percentile([7.0], 0.95) == 7.0


def test_a_trace_prices_the_measured_steps(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,1,1\n2023-11-16 18:00:10,1,1\n"
    )
    moments_s = arrivals_of(trace, 100.0)
    assert moments_s[1] - moments_s[0] == pytest.approx(1000.0)
    woken = [Woken(step="nothing", first_token_s=(2.0,)), Woken(step="imported", first_token_s=(1.0,))]
    points = prices(woken, moments_s, 1.0, [10.0])
    assert {point.step: point.p95_wait_s for point in points} == {
        "nothing": 2.0,
        "imported": 1.0,
        "a replica that stays": 0.0,
    }


def test_a_file_without_times_is_refused(tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "hello"}\n')
    with pytest.raises(InvalidInput, match="no time of arrival"):
        arrivals_of(asked, 1.0)
