"""Variants, homes of prefixes, ejection, retries, expected waits, kept places, gangs: tables and properties."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.test_queue import entry, replica

from outpace.scheduling.gangs import gang_size
from outpace.scheduling.health import Health
from outpace.scheduling.pace import Pace, Rates, Work, duration_s, wait_s
from outpace.scheduling.replicas import Replicas
from outpace.scheduling.reserve import may_take
from outpace.scheduling.retries import MOST_SAVED, RETRY_SHARE, RetryBudget
from outpace.scheduling.routing import Homes, ReplicaLoad, pick
from outpace.scheduling.tickets import Ticket
from outpace.scheduling.variants import (
    FEWER_AFTER_S,
    Mix,
    Option,
    Peak,
    choose,
    choose_alone,
    cross_over,
    gain_at,
    mix_of,
    promised,
    speed_at,
)
from outpace.values.snapshot import GuessGain, VariantEntry

# As measured on two AVX2 cores (docs/lab): one answers a single user faster, the other many.
LLAMA = Option("llamacpp", 1, ((1, 107.0), (8, 165.0), (32, 169.0)))
OPENVINO = Option("openvino", 1, ((1, 55.0), (8, 180.0), (32, 300.0)))
# With VNNI one still answers short questions sooner, but reads prompts seven times more slowly.
LLAMA_VNNI = Option("llamacpp", 1, ((1, 105.0), (8, 170.0), (32, 175.0)), 400.0, 0.8)
OPENVINO_VNNI = Option("openvino", 1, ((1, 98.0), (8, 380.0), (32, 700.0)), 2900.0, 0.8)


def ticket(prefix: bytes | None = None, tokens: int = 10) -> Ticket:
    return Ticket("k", arrived_s=0, deadline_s=1, output_tokens=tokens, affinity=prefix)


# -- variants


@pytest.mark.parametrize(
    ("users", "current", "chosen"),
    [
        (1, None, "llamacpp"),
        (32, None, "openvino"),
        (32, "llamacpp", "openvino"),
        (1, "openvino", "llamacpp"),
        (8, "llamacpp", "llamacpp"),  # 9 % are no reason
        (8, "openvino", "openvino"),
        (1, "gone", "llamacpp"),
    ],
)
def test_the_variant_follows_profile_and_load(users: int, current: str | None, chosen: str) -> None:
    assert choose([LLAMA, OPENVINO], users, current) == chosen


@pytest.mark.parametrize(
    ("prompt_tokens", "output_tokens", "current", "chosen"),
    [
        (30, 100, None, "llamacpp"),
        (30, 100, "openvino", "llamacpp"),
        (320, 160, None, "openvino"),
        (320, 160, "llamacpp", "openvino"),
        (2000, 50, "llamacpp", "openvino"),
        (0, 100, None, "llamacpp"),
    ],
)
def test_a_request_alone_goes_where_its_own_prompt_and_answer_are_soonest_done(
    prompt_tokens: int, output_tokens: int, current: str | None, chosen: str
) -> None:
    mix = mix_of(prompt_tokens, output_tokens)
    assert choose_alone([LLAMA_VNNI, OPENVINO_VNNI], current, mix) == chosen


def test_prompts_like_those_of_the_measurement_leave_its_speeds_as_they_are() -> None:
    assert promised(LLAMA_VNNI, 1, Mix(0.8)) == pytest.approx(105.0)
    # 100 tokens at 105 tok/s, of which 0.8 prompt tokens each are known; 420 more to read at 400/s.
    assert promised(LLAMA_VNNI, 1, mix_of(500, 100)) == pytest.approx(100 / (100 / 105 + 420 / 400))


GUESSES = (
    GuessGain(users=1, prompt_tokens=40, gain=1.04),
    GuessGain(users=1, prompt_tokens=340, gain=1.84),
    GuessGain(users=16, prompt_tokens=40, gain=0.9),
    GuessGain(users=16, prompt_tokens=340, gain=1.1),
)


@pytest.mark.parametrize(
    ("users", "prompt_tokens", "gain"),
    [
        (1, 10, 1.04),
        (1, 190, 1.44),
        (1, 9000, 1.84),
        (5, 340, 1.1),  # what was measured at more users holds
        (5, 40, 1.0),  # guesses that lose are not made
        (17, 340, 1.0),  # nobody knows
    ],
)
def test_guesses_gain_by_load_and_length_of_the_prompt(users: int, prompt_tokens: int, gain: float) -> None:
    mix = mix_of(prompt_tokens, 100)
    assert gain_at(GUESSES, users, mix) == pytest.approx(gain)
    with_guesses = OPENVINO_VNNI._replace(guess_gains=GUESSES)
    assert promised(with_guesses, users, mix) == pytest.approx(gain * promised(OPENVINO_VNNI, users, mix))


def test_an_engine_that_guesses_well_gets_the_requests_that_are_copied_from() -> None:
    slow = OPENVINO_VNNI._replace(speeds=((1, 60.0), (32, 400.0)), prefill_tokens_per_s=900.0)
    code, chat = mix_of(330, 160), mix_of(30, 100)
    assert choose_alone([LLAMA_VNNI, slow], None, code) == "llamacpp"
    guessing = slow._replace(guess_gains=GUESSES)
    assert choose_alone([LLAMA_VNNI, guessing], None, code) == "openvino"
    assert choose_alone([LLAMA_VNNI, guessing], None, chat) == "llamacpp"


def test_longer_prompts_move_the_cross_over_down() -> None:
    assert cross_over(LLAMA_VNNI, OPENVINO_VNNI, mix=mix_of(30, 100)) == 3
    assert cross_over(LLAMA_VNNI, OPENVINO_VNNI, mix=mix_of(320, 160)) == 1
    # Without a rate of reading for both, prompts say nothing.
    assert cross_over(LLAMA, OPENVINO_VNNI, mix=mix_of(9000, 10)) == cross_over(LLAMA, OPENVINO_VNNI)


@given(st.floats(1, 1000), st.floats(10, 10_000), st.floats(0, 20), st.floats(0, 200), st.floats(0, 200))
def test_more_to_read_is_never_sooner_done(
    speed: float, prefill: float, measured_at: float, less: float, more: float
) -> None:
    option = Option("a", 1, ((1, speed),), prefill, measured_at)
    less, more = sorted((less, more))
    assert promised(option, 1, Mix(more)) <= promised(option, 1, Mix(less)) <= speed / 0.3 * 1.001


def test_without_figures_there_is_no_choice() -> None:
    assert choose([Option("a", 1, ()), Option("b", 1, ())], 4, None) is None
    assert choose([Option("a", 1, ()), LLAMA], 4, None) == "llamacpp"


@given(st.lists(st.integers(1, 64), min_size=50, max_size=200))
def test_no_load_makes_it_flap(loads: list[int]) -> None:
    """One decision a second: up at once, and down only when there were no more for some seconds."""
    current, peak = None, Peak()
    downs, last_many_s = [], -FEWER_AFTER_S - 1
    for now_s, users in enumerate(loads):
        chosen = choose([LLAMA, OPENVINO], peak.seen(users, float(now_s)), current)
        if choose([LLAMA, OPENVINO], users, current) == "openvino":
            assert chosen == "openvino"
            last_many_s = now_s
        if (current, chosen) == ("openvino", "llamacpp"):
            assert now_s - last_many_s > FEWER_AFTER_S
            downs.append(now_s)
        current = chosen
    assert all(b - a > FEWER_AFTER_S for a, b in pairwise(downs))


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 64)), min_size=1, max_size=100))
def test_the_peak_is_the_most_of_the_last_seconds(steps: list[tuple[float, int]]) -> None:
    peak, now_s, seen = Peak(), 0.0, list[tuple[float, int]]()
    for passed_s, users in steps:
        now_s += passed_s
        seen.append((now_s, users))
        assert peak.seen(users, now_s) == max(each for at_s, each in seen if now_s - at_s <= FEWER_AFTER_S)


@given(st.floats(0.1, 100))
def test_speeds_are_interpolated_between_what_was_measured(users: float) -> None:
    assert 107.0 <= speed_at(LLAMA.speeds, users) <= 169.0
    assert speed_at(((1, 100.0), (3, 200.0)), 2) == 150.0
    assert speed_at((), 2) == 0.0


# -- homes


def loads(*names: str) -> list[ReplicaLoad]:
    return [ReplicaLoad(replica(name, None), None) for name in names]


@given(st.binary(min_size=8, max_size=8))
def test_two_workers_send_a_prefix_to_the_same_replica(prefix: bytes) -> None:
    picked = {pick(loads("a", "b", "c"), ticket(prefix), 0.0, Homes()) for _ in range(2)}
    assert len({each.entry.id for each in picked if each}) == 1
    # Another order of the same replicas changes nothing; a replica that leaves moves only its own.
    other = pick(loads("c", "a", "b"), ticket(prefix), 0.0, Homes())
    assert other is not None
    home = other.entry.id
    assert {home} == {each.entry.id for each in picked if each}
    left = [name for name in "abc" if name != home][:1]
    fewer = pick(loads(*[name for name in "abc" if name not in left]), ticket(prefix), 0.0, Homes())
    assert fewer is not None
    assert fewer.entry.id == home


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 200)), min_size=1, max_size=100))
def test_no_replica_is_sent_more_than_the_bound(requests: list[tuple[int, int]]) -> None:
    replicas, homes = loads("a", "b"), Homes()
    most = max(tokens for _, tokens in requests)
    for number, tokens in requests:
        found = pick(replicas, ticket(bytes([number]) * 8, tokens), 0.0, homes)
        assert found is not None
        found.tokens += tokens
        total = sum(each.tokens for each in replicas)
        assert found.tokens <= 1.25 * total / 2 + 2 * most


def test_a_prefix_that_had_to_move_stays_where_it_went() -> None:
    replicas, homes, prefix = loads("a", "b"), Homes(), b"12345678"
    home = pick(replicas, ticket(prefix), 0.0, homes)
    assert home is not None
    home.tokens = 1_000
    away = pick(replicas, ticket(prefix), 0.0, homes)
    assert away is not None
    assert away is not home
    home.tokens = 0
    assert pick(replicas, ticket(prefix), 0.0, homes) is away


# -- trouble


def test_three_breaks_in_a_row_eject_and_every_time_for_longer() -> None:
    health = Health()
    for _ in range(2):
        health.broke(0.0, at_connect=False)
    assert health.is_usable(0.0)
    health.broke(0.0, at_connect=False)
    assert not health.is_usable(0.4)
    assert health.is_usable(0.5)
    health.sent()
    assert not health.is_usable(0.5)  # one probe at a time
    health.broke(0.5, at_connect=True)
    assert health.rests_until_s == 1.5
    health.sent()
    health.answered()
    assert health.is_usable(0.6)
    assert not health.is_ejected


@given(st.lists(st.booleans(), max_size=40))
def test_a_rest_is_never_longer_than_half_a_minute(breaks: list[bool]) -> None:
    health, now_s = Health(), 0.0
    for at_connect in breaks:
        health.broke(now_s, at_connect=at_connect)
        assert health.rests_until_s - now_s <= 30.0
        now_s = max(now_s, health.rests_until_s)
        assert health.is_usable(now_s)


@given(st.integers(0, 500))
def test_retries_are_a_share_of_the_requests(requests: int) -> None:
    budget = RetryBudget()
    spent = sum(budget.take() for _ in range(1_000))
    assert spent == MOST_SAVED
    taken = 0
    for _ in range(requests):
        budget.request()
        taken += budget.take()
    assert taken <= RETRY_SHARE * requests + 1


# -- waits


def test_the_wait_is_what_is_ahead_and_the_first_place() -> None:
    rates = Rates(prefill_per_s=1_000.0, output_per_s=100.0)
    assert duration_s(Work(500, 200), rates) == 2.5
    assert duration_s(Work(500, 200), Rates(None, 100.0)) == 2.0
    assert wait_s(Work(0, 200), Work(0, 800), 8, rates) == 2.0 + 0.5
    assert wait_s(Work(), Work(), 0, rates) == 0.0
    assert wait_s(Work(0, 200), Work(), 0, Rates(None, None)) is None


def test_the_pace_is_that_of_busy_time() -> None:
    pace = Pace()
    for number in range(40):  # idle time does not count
        assert (pace.output_per_s is None) is (number < 32)
        pace.starts(1_000.0 * number)
        pace.done(1_000.0 * number + 4.0, 400, is_idle=True)
    assert pace.output_per_s == pytest.approx(100.0)
    assert 256 < pace.mean_output_tokens < 400


def test_a_replica_serves_a_few_at_once_even_where_one_alone_is_as_fast() -> None:
    variant = VariantEntry(id="v", engine="llamacpp", engine_model="d", speeds=((1, 120.0),), in_flight=1)
    for most, places in ((8, 4), (2, 2), (None, 4)):
        replicas = Replicas()
        replicas.update(entry(replica("a", most, "v"), variants=(variant,)))
        assert replicas.current[0].limit == places


# -- places and gangs


@given(st.integers(0, 64), st.data())
def test_nothing_is_kept_where_nobody_else_is(places: int, data: st.DataObject) -> None:
    free = data.draw(st.integers(0, places))
    assert may_take(places, free, yields_to_interactive=False, yields_to_others=False) == (free > 0)
    for is_batch in (True, False):
        kept = may_take(places, free, yields_to_interactive=is_batch, yields_to_others=not is_batch)
        assert not kept or free > 0
        # Whoever yields may still use most of it.
        assert kept or free <= max(1, places // 4)


@pytest.mark.parametrize(
    ("in_flight", "waiting", "oldest_s", "limit", "size"),
    [
        (1, 10, 9.0, 4, 0),  # the last gang runs
        (0, 3, 0.01, 4, 0),  # it waits for the fourth
        (0, 3, 0.06, 4, 3),  # but not for ever
        (0, 9, 0.0, 4, 4),
        (0, 0, 9.0, 4, 0),
        (0, 20, 0.0, None, 8),
    ],
)
def test_gangs_start_whole_or_after_a_moment(
    in_flight: int, waiting: int, oldest_s: float, limit: int | None, size: int
) -> None:
    assert gang_size(in_flight, waiting, oldest_s, limit) == size
