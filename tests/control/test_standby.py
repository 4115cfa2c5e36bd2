"""Standing by in a real pool: handed over, verified, refilled, and gone when not wanted."""

import os
import signal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.rig import Rig, resolve_echo, rig_in, wanted
from tests.fleet.launching import is_running

from outpace.control.parts import Resolved
from outpace.control.standbys import Ahead, Standbys, together, within
from outpace.fleet.handover import standby_launch
from outpace.fleet.pool import Child
from outpace.values.clock import ManualClock
from outpace.values.deployment import DeploymentSpec, Launch, Replicas, Standby
from outpace.values.errors import EngineFailed
from outpace.values.home import Home
from outpace.values.signals import Demand, DeploymentDemand

_ECHO = "outpace.engines.echo_server"
_IMPORTED = Replicas(min=0, max=2, standby=Standby(imported=1))
_LOADED = Replicas(min=0, max=2, standby=1)


def _ask(rig: Rig) -> None:
    rig.reconciler.take_demand(Demand(worker=0, deployments={"chat": DeploymentDemand(waiting=1)}))


def _standing(rig: Rig) -> list[int]:
    return [standing.pid for standing in rig.reconciler.replicas.standbys._standing.values()]


async def test_a_sleeper_wakes_in_a_process_that_stood_by_and_another_takes_its_place(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=_IMPORTED), at_least=0)
        await rig.until(lambda: len(_standing(rig)) == 1)
        assert rig.lives == {}
        (stood_by,) = _standing(rig)
        _ask(rig)
        await rig.until_shown("chat@1")
        assert rig.lives["chat@1"].pid == stood_by
        await rig.until(lambda: len(_standing(rig)) == 1)
        assert _standing(rig) != [stood_by]
        await rig.until(lambda: bool(rig.reconciler.replicas.history.of("chat")))
        bill = rig.reconciler.replicas.history.of("chat")[-1]
        assert (bill.started_from, "process" in bill.phases) == ("imported", False)
        rig.reconciler.unwant("chat")
        await rig.until(lambda: not _standing(rig) and not rig.lives)


async def test_one_that_was_killed_is_noticed_and_started_again(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=_IMPORTED), at_least=0)
        await rig.until(lambda: len(_standing(rig)) == 1)
        (first,) = _standing(rig)
        os.kill(first, signal.SIGKILL)
        await rig.until(lambda: len(_standing(rig)) == 1 and _standing(rig) != [first])


async def test_one_that_does_not_answer_is_ended_and_the_start_goes_on_without_it(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=_IMPORTED), at_least=0)
        await rig.until(lambda: len(_standing(rig)) == 1)
        (mute,) = _standing(rig)
        os.kill(mute, signal.SIGSTOP)
        _ask(rig)
        await rig.until_shown("chat@1")
        assert rig.lives["chat@1"].pid != mute
        assert not is_running(mute)


async def test_a_loaded_one_gets_traffic_only_when_it_is_asked_for(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=_LOADED), at_least=0)
        await rig.until(lambda: rig.reconciler.is_idle("chat@1"))
        assert rig.shown() == []
        assert rig.snapshot().deployments["chat"].state == "sleeping"
        pid = rig.lives["chat@1"].pid
        _ask(rig)
        await rig.until_shown("chat@1")
        assert rig.lives["chat@1"].pid == pid
        await rig.until(lambda: rig.reconciler.is_idle("chat@2"))
        assert rig.shown() == ["chat@1"]


async def test_a_loaded_one_that_hangs_is_not_handed_over(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=_LOADED), at_least=0)
        await rig.until(lambda: rig.reconciler.is_idle("chat@1"))
        pid = rig.lives["chat@1"].pid
        os.kill(pid or 0, signal.SIGSTOP)
        await rig.reconciler.replicas.require_alive("chat@1")
        assert rig.lives["chat@1"].state == "failed"
        _ask(rig)
        await rig.until(lambda: bool(rig.shown()))
        assert all(life.pid != pid for life in rig.lives.values())


async def test_a_replica_that_dies_is_replaced_by_the_loaded_one(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=Replicas(min=1, max=1, standby=1)))
        await rig.until(lambda: len(rig.shown()) == 1 and len(rig.reconciler._idle) == 1)
        (serving,), (idle,) = rig.shown(), rig.reconciler._idle
        os.kill(rig.lives[serving].pid or 0, signal.SIGKILL)
        await rig.until_shown(idle)
        await rig.until(lambda: len(rig.reconciler._idle) == 1)
        assert rig.shown() == [idle]


class _NoPool:
    """A pool that cannot start anything to stand by."""

    def __init__(self) -> None:
        self.asked = 0

    async def stand_by(self, name: str, launch: Launch, note: str = "") -> Child:
        self.asked += 1
        raise EngineFailed("no room")


async def test_what_cannot_be_started_is_tried_again_with_patience() -> None:
    clock, pool = ManualClock(), _NoPool()
    standbys = Standbys(pool, clock)  # type: ignore[arg-type]
    for _ in range(100):
        await standbys.keep({_ECHO: Ahead(1)}, 1.0)
        clock.advance(0.25)
    # 25 s with waits of 1, 2, 4, 8, 16 s.
    assert pool.asked == 5
    assert standbys.take(standby_launch(_ECHO)) is None


@pytest.mark.parametrize("argv", [("sleep", "1"), ("python", "-m", "other"), ("python", "-m")])
def test_a_launch_of_another_kind_takes_none(argv: tuple[str, ...]) -> None:
    standbys = Standbys(_NoPool(), ManualClock())  # type: ignore[arg-type]
    assert standbys.take(Launch(argv=argv, address="", token="")) is None


async def test_weights_that_shall_be_cached_are_looked_at_and_told(home: Home, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"x" * 100_000)

    def resolve(spec: DeploymentSpec) -> Resolved:
        return msgspec.structs.replace(resolve_echo(spec), artifact_path=str(weights))

    bounds = Replicas(min=0, standby=Standby(cached=True))
    async with rig_in(home, resolve=resolve) as rig, rig:
        rig.reconciler.want(wanted(bounds=bounds), at_least=0)
        await rig.until(lambda: any(seen.file_bytes for seen in rig.reconciler.warmth.seen.values()))
        assert rig.reconciler.warmth.seen == {str(weights): (100_000, 100_000, 0)}
        rig.reconciler.unwant("chat")
        await rig.until(lambda: "chat" not in rig.snapshot().deployments)


@given(st.integers(0, 100), st.integers(0, 4), st.integers(0, 60), st.booleans())
def test_memory_is_taken_ahead_only_where_it_is_spare(room: int, num: int, each: int, holds: bool) -> None:
    ahead = within(room, Ahead(num, each), holds=holds)
    assert ahead.num == num
    assert ahead.memory_bytes in (0, each)
    assert ahead.num * ahead.memory_bytes <= room * (0.5 if holds else 0.25)


def test_deployments_share_what_stands_by() -> None:
    wishes = [("a", Ahead(1, 50)), ("b", Ahead(1)), ("a", Ahead(2, 10)), ("", Ahead(3, 1))]
    assert together(wishes) == {"a": Ahead(2, 50), "b": Ahead(1)}


async def test_another_amount_of_memory_is_another_process() -> None:
    class Pool:
        def __init__(self) -> None:
            self.argvs: list[tuple[str, ...]] = []
            self.stopped: list[str] = []

        async def stand_by(self, name: str, launch: Launch, note: str = "") -> Child:
            self.argvs.append(launch.argv)
            return Child(name=name, pid=len(self.argvs), started_at=0.0)

        async def stop(self, name: str, grace_s: float) -> None:
            self.stopped.append(name)

    pool = Pool()
    standbys = Standbys(pool, ManualClock())  # type: ignore[arg-type]
    await standbys.keep({_ECHO: Ahead(1, 1_000)}, 1.0)
    # Held already: given up later than it would be taken.
    assert standbys.within(2_500, {_ECHO: Ahead(1, 1_000)}) == {_ECHO: Ahead(1, 1_000)}
    assert standbys.within(2_500, {_ECHO: Ahead(1, 999)}) == {_ECHO: Ahead(1)}
    await standbys.keep({_ECHO: Ahead(1, 1_000)}, 1.0)
    await standbys.keep({_ECHO: Ahead(1)}, 1.0)
    assert [argv[3:] for argv in pool.argvs] == [(_ECHO, "1000"), (_ECHO, "0")]
    assert len(pool.stopped) == 1
    assert standbys.counts() == {_ECHO: 1}
