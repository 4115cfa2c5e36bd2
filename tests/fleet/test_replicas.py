"""A replica's states and its pulse, as tables and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.protocol import Load
from outpace.fleet.replicas import (
    Life,
    Pulse,
    ReplicaPolicy,
    Turn,
    is_due,
    turned,
    why_hung,
    with_load,
    with_question,
    with_sign,
    with_traffic,
    with_wrong_answer,
)
from outpace.values.deployment import ReplicaState

POLICY = ReplicaPolicy(probe_every_s=10, idle_answer_s=10, busy_answer_s=120, load_fresh_s=15)
TURNS: list[Turn] = ["answered", "overdue", "hung", "ended", "unwanted", "started"]


def _life(state: ReplicaState = "starting") -> Life:
    return Life(id="a@1", deployment="a", digest="d", state=state, address="unix:/x", token="t", pid=1)


@pytest.mark.parametrize(
    ("state", "turn", "after"),
    [
        ("starting", "answered", "ready"),
        ("starting", "overdue", "failed"),
        ("starting", "ended", "failed"),
        ("starting", "unwanted", "draining"),
        ("ready", "hung", "failed"),
        ("ready", "ended", "failed"),
        ("ready", "answered", "ready"),
        ("draining", "ended", "stopped"),
        ("draining", "answered", "draining"),
        ("draining", "hung", "draining"),
        ("failed", "started", "starting"),
        ("failed", "answered", "failed"),
        ("stopped", "started", "stopped"),
    ],
)
def test_a_turn_leads_where_it_should(state: ReplicaState, turn: Turn, after: ReplicaState) -> None:
    assert turned(_life(state), turn).state == after


@given(st.lists(st.sampled_from(TURNS), max_size=20))
def test_once_ended_it_never_runs_and_only_a_start_leads_back(turns: list[Turn]) -> None:
    life = _life()
    for turn in turns:
        before, life = life, turned(life, turn, "why")
        assert not (life.is_running and not before.is_running)
        assert (
            life.state != "ready"
            or (before.state, turn) == ("starting", "answered")
            or before.state == "ready"
        )


def test_the_first_reason_of_a_state_stays() -> None:
    failed = turned(_life("ready"), "hung", "no token for 10 s")
    assert turned(failed, "ended", "was killed").reason == "no token for 10 s"


def _asked(load: Load | None = None, load_seen_s: float = 0.0, last_sign_s: float = 0.0) -> Pulse:
    return Pulse(last_sign_s=last_sign_s, asked_s=0.0, load=load, load_seen_s=load_seen_s)


@pytest.mark.parametrize(
    ("pulse", "now_s", "is_hung"),
    [
        (_asked(), 9.9, False),
        (_asked(), 10.0, True),
        (_asked(Load(1, 0), load_seen_s=9), 10.0, True),  # only the probe itself runs
        (_asked(Load(1, 1), load_seen_s=9), 10.0, False),
        (_asked(Load(8, 30), load_seen_s=119), 119.0, False),
        (_asked(Load(8, 30), load_seen_s=119), 120.0, True),
        (_asked(Load(8, 30), load_seen_s=80), 119.0, True),  # it stopped to tell its load
        (_asked(last_sign_s=105), 110.0, False),  # others got tokens
        (Pulse(last_sign_s=0.0), 1e9, False),  # nothing was asked
        (Pulse(last_sign_s=0.0, wrong_answers=2), 1.0, True),
    ],
)
def test_who_counts_as_hung(pulse: Pulse, now_s: float, is_hung: bool) -> None:
    assert (why_hung(pulse, POLICY, now_s) is not None) == is_hung


def test_a_probe_is_due_when_idle_and_soon_after_a_wrong_answer() -> None:
    pulse = Pulse(last_sign_s=100.0)
    assert not is_due(pulse, POLICY, 109.0)
    assert is_due(pulse, POLICY, 110.0)
    assert not is_due(with_traffic(pulse, 105.0), POLICY, 110.0)
    assert not is_due(with_question(pulse, 110.0), POLICY, 200.0)
    wrong = with_wrong_answer(with_question(pulse, 110.0), 110.5)
    assert is_due(wrong, POLICY, 111.5)
    assert with_sign(wrong, 112.0).wrong_answers == 0


def test_a_load_that_moves_is_a_sign_of_life_and_one_that_stands_is_none() -> None:
    pulse = with_load(_asked(), Load(3, 2), 5.0)
    assert pulse.last_sign_s == 0.0
    assert with_load(pulse, Load(3, 2), 9.0).last_sign_s == 0.0
    assert with_load(pulse, Load(3, 1), 9.0).last_sign_s == 9.0
