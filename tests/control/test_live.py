"""What live answers do to a profile."""

import math
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.control.live import KEEP_EVERY, LiveAnswers, answer_rate
from outpace.control.served import Served
from outpace.scheduling.autoscale import Pressure
from outpace.scheduling.speculation import ENOUGH_GUESSES
from outpace.values.clock import ManualClock
from outpace.values.deployment import DeploymentSpec
from outpace.values.profile import Conditions, LoadPoint, Profile, SpeculationPoint
from outpace.values.records import Reserved, Serving, Settled
from outpace.values.usage import Usage

PROFILE = Profile(
    conditions=Conditions(model="m", artifact_sha256="", engine="e", engine_version="1", machine="here"),
    measured_at=1.0,
    took_s=1.0,
    load_s=1.0,
    prefill_tokens_per_s=1.0,
    points=(LoadPoint(users=1, output_tokens_per_s=100.0), LoadPoint(users=8, output_tokens_per_s=200.0)),
    speculation=(
        SpeculationPoint(
            method="ngram", workload="code", users=1, gain=2.0, drafted_tokens=100, accepted_tokens=80
        ),
    ),
)
RESERVED = cast(Reserved, SimpleNamespace(deployment="m", engine="llamacpp"))


class Rig:
    """One deployment with a profile, and what was written of it."""

    def __init__(self, speculation: str = "auto", running: int = 1) -> None:
        served = SimpleNamespace(
            resolved=SimpleNamespace(profile=PROFILE, speculation="ngram"),
            id="m",
            digest="d",
            wanted=SimpleNamespace(spec=DeploymentSpec(name="m", speculation=speculation)),
        )
        self.kept: list[Profile] = []
        self.live = LiveAnswers(
            lambda name, engine, began_at_s: (
                cast(Served, served) if (name, engine) == ("m", "llamacpp") else None
            ),
            lambda name, now_s: Pressure(running=running),
            self.kept.append,
            ManualClock(),
        )

    def answer(self, times: int = 1, drafted: int = 0, accepted: int = 0, rate: float = 120.0) -> None:
        for _ in range(times):
            self.live.learn(RESERVED, settled(rate, drafted, accepted))


def settled(rate: float, drafted: int = 0, accepted: int = 0, **changes: Any) -> Settled:
    fields: dict[str, Any] = {
        "request_id": "r",
        "at_s": 0.0,
        "status": 200,
        "outcome": "completed",
        "usage": Usage(10, 101, drafted_tokens=drafted, accepted_tokens=accepted),
        "cost_pusd": None,
        "ttft_s": 1.0,
        "queue_s": 0.5,
        "duration_s": 0.5 + 101 / rate,
    }
    return Settled(**{**fields, **changes})


def test_answers_move_the_speed_at_their_load_and_are_written_now_and_then() -> None:
    rig = Rig(running=8)
    rig.answer(KEEP_EVERY - 1, rate=30.0)
    assert rig.kept == []
    rig.answer(rate=30.0)
    (kept,) = rig.kept
    assert 200 < kept.points[1].output_tokens_per_s <= 240
    assert kept.points[0].output_tokens_per_s == 100.0
    assert kept.refined_by == KEEP_EVERY


def test_answers_with_guesses_do_not_move_the_speeds_without() -> None:
    rig = Rig()
    rig.answer(KEEP_EVERY, drafted=10, accepted=9)
    assert rig.kept[0].points == PROFILE.points


def test_wrong_guesses_stop_what_auto_had_taken_at_once() -> None:
    rig = Rig()
    rig.answer(10, drafted=ENOUGH_GUESSES // 10, accepted=0)
    assert "ngram" in rig.kept[-1].stopped
    assert "0% of" in rig.kept[-1].stopped["ngram"]


@pytest.mark.parametrize(("speculation", "accepted"), [("ngram", 0), ("auto", 150)])
def test_what_was_asked_for_by_name_or_guesses_well_goes_on(speculation: str, accepted: int) -> None:
    rig = Rig(speculation)
    rig.answer(20, drafted=200, accepted=accepted)
    assert rig.kept == []


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "cancelled"},
        {"ttft_s": None},
        {"num_choices": 2},
        {"usage": Usage(1, 3)},
        {"duration_s": 0.5},
    ],
)
def test_answers_that_tell_no_speed_are_left_out(changes: dict[str, Any]) -> None:
    assert answer_rate(settled(50.0, **changes), PROFILE) is None
    assert answer_rate(settled(50.0), PROFILE) == pytest.approx(50.0)


def test_answers_of_another_engine_and_of_streams_that_moved_teach_nothing() -> None:
    rig = Rig()
    other = cast(Reserved, SimpleNamespace(deployment="m", engine="openvino"))
    for _ in range(KEEP_EVERY):
        rig.live.learn(other, settled(500.0))
        rig.live.learn(RESERVED, settled(500.0, serving=Serving(moves=1)))
    assert rig.kept == []


def test_a_long_prompt_does_not_make_the_variant_look_slow() -> None:
    """Of 101 tokens at 100/s, behind a prompt of 400 tokens that is read at 800/s; the sweep read one per token."""
    profile = msgspec.structs.replace(PROFILE, prefill_tokens_per_s=800.0, read_per_output=1.0)
    reading_s = (400 - 101) / 800
    slow = settled(100.0, usage=Usage(400, 101), duration_s=0.5 + 1.01 + reading_s)
    assert answer_rate(slow, profile) == pytest.approx(100.0)
    # What was cached was not read.
    cached = settled(100.0, usage=Usage(400, 101, cached_tokens=299), duration_s=0.5 + 1.01)
    assert answer_rate(cached, profile) == pytest.approx(100.0)
    # Nearly all reading: nothing to learn of writing.
    assert answer_rate(settled(100.0, usage=Usage(4000, 101), duration_s=6.0), profile) is None


@given(
    st.integers(0, 5000),
    st.integers(8, 500),
    st.floats(0.1, 100.0),
    st.floats(1.0, 5000.0),
    st.floats(0.0, 20.0),
)
def test_a_rate_is_positive_whatever_an_answer_claims(
    prompt_tokens: int, tokens: int, duration_s: float, prefill: float, read: float
) -> None:
    profile = msgspec.structs.replace(PROFILE, prefill_tokens_per_s=prefill, read_per_output=read)
    answer = settled(100.0, usage=Usage(prompt_tokens, tokens), queue_s=0.0, duration_s=duration_s)
    rate = answer_rate(answer, profile)
    assert rate is None or 0 < rate < math.inf
