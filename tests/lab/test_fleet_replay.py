"""The simulated fleet, against cases worked out by hand, and the comparison that users see."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.lab.arrivals import PROCESSES, Ask, bursts, of_file, poisson
from outpace.lab.fleet_policies import Fixed, Own, compare
from outpace.lab.fleet_replay import Replay
from outpace.lab.recorded import Scale
from outpace.scheduling.attainment import Capacity, Goal
from outpace.scheduling.autoscale import Bounds
from outpace.values.errors import InvalidInput

PAIR = Capacity(places=2, speeds=((1, 10.0), (2, 10.0)), prefill_tokens_per_s=100.0)
SMALL = Capacity(places=8, speeds=((1, 110.0), (8, 168.0)), prefill_tokens_per_s=1_500.0)
GOAL = Goal(ttft_s=2.0)


def test_two_requests_share_a_replica_and_prefill_holds_both_up() -> None:
    asks = [Ask(0.0, 100, 10), Ask(0.0, 100, 10)]
    outcome = Replay(asks, Fixed(1), PAIR, 1.0, GOAL).run()
    # Prefills end at 1 and 2 s; then 20 tokens at 10 a second.
    assert outcome.ttft_p50_s == pytest.approx(1.0)
    assert outcome.ttft_max_s == pytest.approx(2.0)
    assert outcome.duration_s == pytest.approx(4.0)
    assert outcome.replica_s == pytest.approx(4.0)
    assert (outcome.attained, outcome.starts) == (1.0, 0)


def test_a_third_waits_for_a_place() -> None:
    asks = [Ask(0.0, 0, 10), Ask(0.0, 0, 20), Ask(0.5, 0, 10)]
    outcome = Replay(asks, Fixed(1), PAIR, 1.0, GOAL).run()
    assert outcome.ttft_max_s == pytest.approx(1.5)
    assert outcome.attained == 1.0
    assert Replay(asks, Fixed(1), PAIR, 1.0, Goal(ttft_s=1.4)).run().attained == pytest.approx(2 / 3)


def test_from_zero_everybody_waits_for_one_start() -> None:
    asks = [Ask(10.0, 10, 1), Ask(10.5, 10, 1)]
    own = Own(SMALL, Bounds(least=0, most=4, idle_s=5.0), GOAL, 1.0)
    outcome = Replay(asks, own, SMALL, 1.0, GOAL).run()
    assert (outcome.starts, outcome.cold_starts, outcome.cold_waits) == (1, 1, 2)
    assert outcome.ttft_max_s == pytest.approx(1.0 + 10 / 1_500)
    # Until the last answer, not until it would have slept.
    assert outcome.replica_s == pytest.approx(outcome.duration_s - 10.0)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0, 300), st.integers(0, 400), st.integers(1, 200)), min_size=1, max_size=80),
    st.integers(0, 2),
    st.floats(0.1, 30.0),
)
def test_every_request_is_answered_once_and_starts_are_bounded(
    drawn: list[tuple[float, int, int]], least: int, start_s: float
) -> None:
    asks = sorted((Ask(*fields) for fields in drawn), key=lambda ask: ask.at_s)
    own = Own(SMALL, Bounds(least=least, most=5, idle_s=20.0, starts_per_hour=6), GOAL, start_s)
    outcome = Replay(asks, own, SMALL, start_s, GOAL).run()
    assert outcome.requests == len(asks)
    assert outcome.starts <= 6
    assert 0.0 <= outcome.replica_s <= 10 * outcome.duration_s + 1.0


def test_on_bursts_the_policy_reaches_the_goal_with_far_less_than_a_fixed_fleet() -> None:
    asks = bursts(6.0, 1_200.0, seed=1)
    own, reactive, *fixed = compare(asks, SMALL, 1.0, GOAL, Bounds(least=0, most=12, idle_s=30.0))
    assert (own.policy, reactive.policy) == ("outpace", "reactive")
    assert own.attained >= 0.95
    reaching = next(outcome for outcome in fixed if outcome.attained >= 0.95)
    assert own.replica_s <= 0.6 * reaching.replica_s
    assert own.cost_pusd(2 * 10**12) < reaching.cost_pusd(2 * 10**12)


def test_made_traces_repeat_with_their_seed_and_keep_their_rate() -> None:
    for process in PROCESSES.values():
        asks = process(5.0, 600.0, 3)
        assert asks == process(5.0, 600.0, 3) != process(5.0, 600.0, 4)
        assert all(0 <= before.at_s <= after.at_s < 600 for before, after in itertools.pairwise(asks))
    assert len(poisson(5.0, 600.0, 3)) == pytest.approx(3_000, rel=0.1)
    with pytest.raises(InvalidInput, match="above 0"):
        poisson(0.0, 10.0, 1)


def test_recorded_traces_of_three_formats_and_wrong_lines_by_number(tmp_path: Path) -> None:
    azure, mooncake, plain = tmp_path / "a.csv", tmp_path / "m.jsonl", tmp_path / "p.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.68,396,109\n"
    )
    mooncake.write_text('{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n')
    plain.write_text("at_s,input_tokens,output_tokens\n9,10,3\n5,374,44\n")
    half = Scale(time=0.5, tokens=0.5, most_output_tokens=30)
    assert of_file(azure, half) == [Ask(0.0, 187, 22), Ask(2.0, 198, 30)]
    assert of_file(mooncake, Scale()) == [Ask(0.0, 374, 44)]
    assert of_file(plain, Scale(), most=1) == [Ask(0.0, 10, 3)]
    assert of_file(plain, Scale()) == [Ask(0.0, 374, 44), Ask(4.0, 10, 3)]
    plain.write_text("at_s,input_tokens,output_tokens\n9,10,3\n-1,10,3\n")
    with pytest.raises(InvalidInput, match="line 3"):
        of_file(plain, Scale())
    with pytest.raises(InvalidInput, match="cannot be read"):
        of_file(tmp_path / "none.csv", Scale())
