"""The one writer of counts: a person's number, the load, and starts that fail."""

import pytest
from tests.control.rig import wanted

from outpace.control.demand import Demands
from outpace.control.scaler import Scaler
from outpace.control.store import Wanted
from outpace.scheduling.attainment import Capacity, Goal
from outpace.values.clock import ManualClock
from outpace.values.deployment import Replicas, Traffic
from outpace.values.records import Reserved, Settled
from outpace.values.signals import Demand, DeploymentDemand
from outpace.values.usage import Usage


def _demand(worker: int = 0, **told: int) -> Demand:
    return Demand(worker=worker, deployments={"chat": DeploymentDemand(**told)})


def _sleeper(pinned: int | None = None) -> Wanted:
    spec = wanted(bounds=Replicas(min=0, max=2, idle_s=60.0)).spec
    return Wanted(spec=spec, pinned=pinned, created_at=1.0)


def _step(scaler: Scaler) -> int:
    return scaler.step("chat", Capacity(places=8), num_ready=scaler["chat"].desired, start_s=1.0)


def _scaler(clock: ManualClock, at_least: int = 0, pinned: int | None = None) -> Scaler:
    scaler = Scaler(clock)
    scaler.want(_sleeper(pinned), at_least)
    return scaler


def test_a_deployed_sleeper_comes_up_once_and_sleeps_after_its_idle_time() -> None:
    clock = ManualClock()
    scaler = _scaler(clock, at_least=1)
    assert _step(scaler) == 1
    clock.advance(59.0)
    scaler.take(_demand(running=1, arrived=1))
    clock.advance(2.0)
    scaler.take(_demand(running=0, arrived=1))
    clock.advance(59.0)
    assert _step(scaler) == 1
    clock.advance(1.0)
    assert _step(scaler) == 0
    assert scaler["chat"].reason == "no request for 60 s"


def test_only_somebody_who_waits_wakes_it() -> None:
    scaler = _scaler(ManualClock())
    assert not scaler.take(_demand(arrived=5))
    assert _step(scaler) == 0
    assert scaler.take(_demand(waiting=3, arrived=8))
    assert _step(scaler) == 1
    # It is awake now: what waits longer is no reason to hurry the loop.
    assert not scaler.take(_demand(waiting=4, arrived=9))


def test_what_was_told_before_it_was_put_to_sleep_does_not_wake_it() -> None:
    scaler = _scaler(ManualClock())
    scaler.take(_demand(waiting=1, arrived=1))
    assert _step(scaler) == 1
    scaler.sleep("chat", "put to sleep")
    assert _step(scaler) == 0
    # Somebody who still waits is told again, and wakes it.
    assert scaler.take(_demand(waiting=1, arrived=1))
    assert _step(scaler) == 1


def test_a_failed_start_is_not_repeated_before_its_time_nor_without_a_caller() -> None:
    clock = ManualClock()
    scaler = _scaler(clock)
    scaler.take(_demand(waiting=1, arrived=1))
    assert _step(scaler) == 1
    scaler.start_failed("chat", clock.monotonic_s() + 4.0)
    assert (_step(scaler), scaler.is_held("chat")) == (0, True)
    clock.advance(3.9)
    scaler.take(_demand(waiting=1, arrived=2))
    assert _step(scaler) == 0
    clock.advance(0.1)
    assert (_step(scaler), scaler.is_held("chat")) == (1, False)


def test_a_persons_number_holds_against_the_load_and_sleep_only_until_a_request() -> None:
    clock = ManualClock()
    scaler = _scaler(clock, pinned=2)
    clock.advance(1_000.0)
    assert _step(scaler) == 2
    assert not scaler["chat"].may_sleep
    scaler.want(_sleeper(), at_least=1)
    scaler.sleep("chat", "asked")
    assert _step(scaler) == 0
    scaler.take(_demand(waiting=1))
    assert _step(scaler) == 1


def test_demand_is_summed_over_workers_and_forgotten_when_one_falls_silent() -> None:
    demands = Demands()
    demands.take(_demand(0, waiting=2, running=1), 10.0)
    demands.take(_demand(1, waiting=3), 12.0)
    assert (demands.pressure("chat", 12.0).waiting, demands.pressure("chat", 12.0).running) == (5, 1)
    assert demands.pressure("chat", 15.5).waiting == 3
    assert demands.pressure("chat", 99.0).waiting == 0
    assert demands.pressure("chat", 99.0).idle_for_s == 83.5
    assert demands.pressure("other", 99.0).idle_for_s == 0.0


def _ended(duration_s: float, outcome: str = "completed", name: str = "chat") -> tuple[Reserved, Settled]:
    reserved = Reserved("r", 0.0, "k", 0, name, "m", "chat", "echo", f"{name}@1", True, 0, None)
    usage = Usage(prompt_tokens=30, completion_tokens=11, cached_tokens=10)
    return reserved, Settled("r", 1.0, 200, outcome, usage, None, ttft_s=0.5, duration_s=duration_s)


def test_lengths_and_what_callers_got_are_learned_from_answers() -> None:
    demands = Demands()
    demands.expect("chat", Traffic(input_tokens=20, output_tokens=11))
    for reserved, settled in (_ended(1.5), _ended(9.5), _ended(1.5, "cancelled"), _ended(1.5, name="other")):
        demands.learn(reserved, settled)
    assert demands.attained("chat", Goal(ttft_s=1.0, itl_s=0.2)) == (0.5, 2)
    assert demands.attained("chat", Goal(ttft_s=0.4)) == (0.0, 2)
    assert demands.attained("other", Goal()) is None
    traffic = demands.pressure("chat", 1.0).traffic
    assert (traffic.input_tokens, traffic.output_tokens) == (20.0, 11.0)


def test_arrivals_of_a_restarted_worker_count_from_zero() -> None:
    demands = Demands()
    demands.expect("chat", Traffic())
    for arrived, now_s in ((30, 1.0), (30, 2.0), (60, 3.0), (6, 4.0)):
        demands.take(_demand(arrived=arrived), now_s)
    assert demands.pressure("chat", 4.0).traffic.requests_per_s == pytest.approx((66 - 1.5 * 66**0.5) / 3)
