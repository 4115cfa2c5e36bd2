"""The reconcile loop with real processes: start, adopt, replace, break, hang, drain."""

import asyncio
import os
import signal
import threading

import aiohttp
import msgspec
import pytest
from tests.control.rig import Rig, parts_in, resolve_echo, rig_in, wanted
from tests.fleet.launching import SLEEPER, is_running

from outpace.control.parts import Progress, Resolved
from outpace.control.reconcile import Reconciler
from outpace.fleet.probe import Probe
from outpace.fleet.restarts import RestartPolicy
from outpace.values.deployment import DeploymentSpec, External, Launch, Replicas
from outpace.values.errors import SourceUnreachable
from outpace.values.home import Home
from outpace.values.money import FREE
from outpace.values.signals import Demand, DeploymentDemand


def _entry_state(rig: Rig, name: str = "chat") -> str | None:
    entry = rig.snapshot().deployments.get(name)
    return entry.state if entry else None


async def _complete(rig: Rig, replica_id: str, num_tokens: int, timeout_s: float = 30.0) -> int:
    life = rig.lives[replica_id]
    connector = aiohttp.UnixConnector(life.address.removeprefix("unix:"))
    headers = {"Authorization": f"Bearer {life.token}"}
    body = {"model": "chat", "prompt": "word", "max_tokens": num_tokens}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session,
        session.post("http://replica/v1/completions", json=body) as response,
    ):
        await response.read()
        return response.status


async def _is_working(rig: Rig, replica_id: str) -> None:
    """Return when the replica says that something runs."""
    life, echo = rig.lives[replica_id], rig.parts.engine("echo")
    async with Probe(life.address, life.token) as probe, asyncio.timeout(10):
        while not (load := await probe.load(echo, 1.0)) or not load.running:
            await asyncio.sleep(0.01)


async def test_a_wanted_deployment_is_started_shown_and_ended(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(replicas=2, price=FREE))
        await rig.until_shown("chat@1", "chat@2")
        entry = rig.snapshot().deployments["chat"]
        assert (entry.state, entry.context_tokens, entry.price) == ("ready", 512, FREE)
        assert await _complete(rig, "chat@1", 3) == 200
        pids = [life.pid for life in rig.lives.values()]
        rig.reconciler.unwant("chat")
        await rig.until(lambda: not rig.lives)
        assert "chat" not in rig.snapshot().deployments
    assert not any(is_running(pid or 0) for pid in pids)


async def test_a_start_is_billed_phase_by_phase(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until(lambda: bool(rig.reconciler.replicas.history.of("chat")))
        (bill,) = rig.reconciler.replicas.history.of("chat")
        assert list(bill.phases) == ["place", "process", "import", "load", "first_token", "other"]
        assert (bill.replica, bill.started_from) == ("chat@1", "nothing")
        assert bill.total_s == rig.lives["chat@1"].load_s


async def test_scaling_keeps_the_oldest_and_changes_nothing_else(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(replicas=1))
        await rig.until_shown("chat@1")
        first = rig.lives["chat@1"].pid
        rig.reconciler.want(wanted(replicas=3))
        await rig.until_shown("chat@1", "chat@2", "chat@3")
        rig.reconciler.want(wanted(replicas=1))
        await rig.until(lambda: list(rig.lives) == ["chat@1"])
        assert rig.shown() == ["chat@1"]
        assert rig.lives["chat@1"].pid == first


async def test_the_next_control_adopts_what_runs_without_a_gap(home: Home) -> None:
    async with rig_in(home) as rig:
        async with rig:
            rig.reconciler.want(wanted(replicas=2))
            await rig.until_shown("chat@1", "chat@2")
            before = {life.id: life.pid for life in rig.lives.values()}
            version = rig.snapshot().version
        again = Rig(home, parts_in(home))
        again.reconciler.want(wanted(replicas=2))
        async with again:
            shown: list[list[str]] = []
            await again.until(lambda: shown.append(again.shown()) or again.snapshot().version > version)  # type: ignore[func-returns-value]
            assert {life.id: life.pid for life in again.lives.values()} == before
            assert set(map(tuple, shown)) == {("chat@1", "chat@2")}
            assert again.failures == []


async def test_the_next_control_stops_what_nobody_wants(home: Home) -> None:
    async with rig_in(home) as rig:
        async with rig:
            rig.reconciler.want(wanted("old"))
            await rig.until_shown("old@1", name="old")
        stranger = await rig.parts.pool.start("stranger", Launch(argv=SLEEPER, address="", token=""))
        async with Rig(home, parts_in(home)) as again:
            await again.until(lambda: not again.lives)
            await again.until(lambda: not is_running(stranger.pid))


async def test_a_killed_replica_leaves_the_snapshot_and_comes_back(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        pid, token = rig.lives["chat@1"].pid, rig.lives["chat@1"].token
        os.kill(pid or 0, signal.SIGKILL)
        await rig.until(lambda: rig.lives["chat@1"].restarts == 1 and rig.shown() == ["chat@1"])
        assert rig.lives["chat@1"].pid != pid
        assert rig.lives["chat@1"].token != token
        assert rig.failures == ["chat"]


async def test_a_crash_loop_opens_the_breaker_and_asking_again_closes_it(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted("bad", engine_settings={"crash_on_start": True}))
        rig.reconciler.want(wanted("good"))
        await rig.until(lambda: _entry_state(rig, "bad") == "failed")
        assert rig.failures.count("bad") == 3
        assert "3 starts in a row failed" in (rig.snapshot().deployments["bad"].reason or "")
        await rig.until_shown("good@1", name="good")
        rig.reconciler.want(wanted("bad", engine_settings={"crash_on_start": True}))
        await rig.until(lambda: rig.failures.count("bad") == 6)


async def test_a_start_that_never_got_ready_backs_off_however_long_it_tried(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted("never", engine_settings={"slow_start_ms": 60_000.0}))
        replicas = rig.reconciler.replicas
        for failures in (1, 2):
            await rig.until(lambda: any(life.pid and life.is_running for life in rig.lives.values()))
            (life,) = rig.lives.values()
            replicas.lives[life.id] = msgspec.structs.replace(life, started_s=life.started_s - 1000.0)
            os.kill(life.pid or 0, signal.SIGKILL)
            await rig.until(
                lambda count=failures: rig.reconciler.served["never"].failures.in_a_row == count  # type: ignore[misc]
            )


async def test_a_hung_replica_is_ejected_killed_and_replaced(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        pid = rig.lives["chat@1"].pid or 0
        os.kill(pid, signal.SIGSTOP)
        await rig.until(lambda: rig.shown() == [])
        await rig.until(lambda: rig.lives["chat@1"].restarts == 1 and rig.shown() == ["chat@1"])
        assert not is_running(pid)
        assert rig.failures == ["chat"]


async def test_a_busy_replica_is_not_taken_for_a_hung_one(home: Home) -> None:
    settings: dict[str, str | int | float | bool] = {"parallel": 1, "token_interval_ms": 50.0}
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(engine_settings=settings))
        await rig.until_shown("chat@1")
        # 40 tokens take two seconds; every probe meanwhile waits behind them, four times its idle limit.
        assert await _complete(rig, "chat@1", 40) == 200
        assert rig.failures == []
        assert rig.shown() == ["chat@1"]


async def test_draining_waits_for_the_running_request(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(engine_settings={"token_interval_ms": 50.0}))
        await rig.until_shown("chat@1")
        running = asyncio.create_task(_complete(rig, "chat@1", 30))
        await _is_working(rig, "chat@1")
        rig.reconciler.unwant("chat")
        await rig.until(lambda: rig.lives["chat@1"].state == "draining")
        assert rig.shown() == []
        assert await running == 200
        await rig.until(lambda: not rig.lives)


async def test_a_changed_spec_is_replaced_without_a_moment_of_nothing(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        rig.reconciler.want(wanted(engine_settings={"tokens": 3, "slow_start_ms": 300.0}))
        seen: set[tuple[str, ...]] = set()

        def is_replaced() -> bool:
            seen.add(tuple(rig.shown()))
            return list(rig.lives) == ["chat@2"]

        await rig.until(is_replaced)
        assert seen <= {("chat@1",), ("chat@2",)}
        assert rig.snapshot().deployments["chat"].engine_settings == {"tokens": 3, "slow_start_ms": 300.0}


async def test_a_new_price_changes_the_snapshot_and_restarts_nothing(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        pid = rig.lives["chat@1"].pid
        rig.reconciler.want(wanted(price=FREE))
        await rig.until(lambda: rig.snapshot().deployments["chat"].price == FREE)
        assert (rig.lives["chat@1"].pid, rig.failures) == (pid, [])


async def test_a_model_that_is_not_there_fails_by_name_and_hurts_nobody(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        absent = wanted("missing")
        spec = DeploymentSpec(name="missing", model="absent")
        rig.reconciler.want(type(absent)(spec=spec, created_at=1.0))
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await rig.until(lambda: _entry_state(rig, "missing") == "failed")
        assert rig.snapshot().deployments["missing"].reason == "no model 'absent'"


async def test_a_pull_shows_its_progress_and_a_failed_one_its_reason(home: Home) -> None:
    go_on = threading.Event()

    def resolve(spec: DeploymentSpec) -> Resolved:
        resolved = resolve_echo(spec)
        return Resolved(
            **{name: getattr(resolved, name) for name in Resolved.__struct_fields__} | {"needs_pull": True}
        )

    def pull(spec: DeploymentSpec, progress: Progress) -> None:
        progress(25_000_000, 100_000_000)
        go_on.wait(10)
        raise SourceUnreachable("the source is out of reach; try again later")

    async with rig_in(home, resolve=resolve, pull=pull) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until(lambda: _entry_state(rig) == "starting")
        await rig.until(lambda: "25 % of 100 MB" in (rig.snapshot().deployments["chat"].reason or ""))
        go_on.set()
        await rig.until(lambda: _entry_state(rig) == "failed")
        assert rig.snapshot().deployments["chat"].reason == "the source is out of reach; try again later"


@pytest.mark.parametrize("is_set", [True, False])
async def test_an_external_deployment_needs_its_key_and_no_process(home: Home, is_set: bool) -> None:
    external = External(base_url="http://127.0.0.1:9/v1/", model="m", api_key_env="SOME_KEY")
    spec = DeploymentSpec(name="mock", engine="external", external=external)
    secrets = {"SOME_KEY": "x"} if is_set else {}
    async with rig_in(home, secret=secrets.get) as rig, rig:
        rig.reconciler.want(type(wanted())(spec=spec, created_at=1.0))
        await rig.until(lambda: _entry_state(rig, "mock") == ("ready" if is_set else "failed"))
        entry = rig.snapshot().deployments["mock"]
        assert [replica.address for replica in entry.replicas] == (
            ["http://127.0.0.1:9/v1"] if is_set else []
        )
        assert is_set or "SOME_KEY is not set" in (entry.reason or "")
        assert rig.lives == {}


async def test_while_models_are_looked_up_again_adopted_replicas_keep_their_facts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.control.reconcile._FIRST_LOOK_UP_S", 0.0)
    go_on = threading.Event()

    def resolve_late(spec: DeploymentSpec) -> Resolved:
        go_on.wait(10)
        return resolve_echo(spec)

    async with rig_in(home) as rig:
        async with rig:
            rig.reconciler.want(wanted())
            await rig.until_shown("chat@1")
            before = rig.snapshot()
        again = Rig(home, parts_in(home, resolve=resolve_late))
        again.reconciler.want(wanted())
        async with again:
            await again.until(lambda: again.snapshot().version > before.version)
            assert again.snapshot().deployments == before.deployments
            go_on.set()


async def test_a_new_verdict_switches_to_another_artifact_without_a_gap(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.control.served._CONSIDER_EVERY_S", 0.0)
    variants = [""]
    shown: list[list[str]] = []

    def resolve(spec: DeploymentSpec) -> Resolved:
        return msgspec.structs.replace(resolve_echo(spec), variant=variants[-1], precision_reason="pass")

    def is_switched() -> bool:
        shown.append([replica.id for replica in rig.snapshot().deployments["chat"].replicas])
        return shown[-1] == ["chat@2"]

    async with rig_in(home, resolve=resolve) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        variants.append("0123456789ab")
        await rig.until(is_switched)
    assert all(shown)


async def test_a_replica_that_misses_its_canary_never_serves_and_the_next_choice_does(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.control.served._CONSIDER_EVERY_S", 0.0)
    variants, missed = [""], []

    def resolve(spec: DeploymentSpec) -> Resolved:
        return msgspec.structs.replace(resolve_echo(spec), variant=variants[-1], canary=variants[-1])

    async def canary(address: str, token: str, variant: str) -> str | None:
        if variant != "broken":
            return None
        missed.append(variant)
        return "canary: canary-1 differs at token 0"

    async with rig_in(home, resolve=resolve, canary=canary) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        variants.append("broken")
        await rig.until(lambda: len(missed) > 0)
        assert [replica.id for replica in rig.snapshot().deployments["chat"].replicas] == ["chat@1"]
        variants.append("sound")
        await rig.until(
            lambda: (
                [
                    life.digest.endswith("-sound")
                    for life in rig.reconciler.replicas.lives.values()
                    if life.state == "ready"
                ]
                == [True]
            )
        )


@pytest.mark.parametrize("misses_at", [2, 3])
async def test_a_wake_is_handed_over_before_a_canary_that_was_answered_lately_and_ended_by_a_miss(
    home: Home, misses_at: int
) -> None:
    asked: list[list[str]] = []

    async def canary(address: str, token: str, variant: str) -> str | None:
        asked.append(rig.shown())
        return "canary: differs" if len(asked) == misses_at else None

    def resolve(spec: DeploymentSpec) -> Resolved:
        return msgspec.structs.replace(resolve_echo(spec), canary="proven")

    async with rig_in(home, resolve=resolve, canary=canary) as rig, rig:
        rig.reconciler.want(wanted(replicas=1))
        await rig.until_shown("chat@1")
        # Nobody was let in before the first answer.
        assert asked == [[]]
        rig.reconciler.want(wanted(replicas=2))
        await rig.until(lambda: len(asked) >= 2)
        assert asked[1] == ["chat@1", "chat@2"]
        if misses_at == 2:
            # The one that missed is ended, and the next start waits for its answer again.
            await rig.until(lambda: len(asked) == 3)
            assert asked[2] == ["chat@1"]
            await rig.until_shown("chat@1", "chat@2")


_SLEEPS = Replicas(min=0, max=1, idle_s=0.2)


def _waits(count: int = 1) -> Demand:
    return Demand(worker=0, deployments={"chat": DeploymentDemand(waiting=count)})


async def test_an_idle_deployment_sleeps_and_any_number_of_callers_wakes_one_replica(home: Home) -> None:
    announced: list[int] = []
    async with rig_in(home) as rig:
        rig.reconciler = Reconciler(rig.parts, rig.failures.append, announced.append)
        async with rig:
            rig.reconciler.want(wanted(bounds=_SLEEPS))
            await rig.until_shown("chat@1")
            await rig.until(lambda: _entry_state(rig) == "sleeping" and not rig.lives)
            entry = rig.snapshot().deployments["chat"]
            assert (entry.wakes, entry.reason, entry.replicas) == (True, None, ())
            assert 0.0 < (entry.ready_in_s or 0.0) < 10.0
            for _ in range(50):
                rig.reconciler.take_demand(_waits(1_000))
            await rig.until(lambda: bool(rig.lives))
            rig.reconciler.take_demand(_waits(1_000))
            await rig.until_shown("chat@1")
            assert (len(rig.lives), rig.lives["chat@1"].restarts, rig.failures) == (1, 0, [])
            assert announced[-1] == rig.snapshot().version


async def test_a_sleeper_that_cannot_start_tells_why_and_waits_for_the_next_caller(home: Home) -> None:
    failing = RestartPolicy(first_wait_s=0.3, opens_after=2, retry_open_s=0.3)
    spec = wanted(bounds=_SLEEPS, engine_settings={"crash_on_start": True})
    async with rig_in(home, restart_policy=failing) as rig, rig:
        rig.reconciler.want(spec, at_least=0)
        await rig.until(lambda: _entry_state(rig) == "sleeping")
        for num_failures in (1, 2, 3):
            rig.reconciler.take_demand(_waits())
            await rig.until(lambda: _entry_state(rig) == "failed")
            assert "crash" in (rig.snapshot().deployments["chat"].reason or "")
            rig.reconciler.take_demand(Demand(worker=0, deployments={"chat": DeploymentDemand()}))
            # The back-off is over, also that of an open breaker: the next caller tries again.
            await rig.until(lambda: _entry_state(rig) == "sleeping")
            assert len(rig.failures) == num_failures


async def test_what_is_about_to_end_serves_again_when_it_is_wanted_again(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(replicas=1, engine_settings={"token_interval_ms": 50.0}))
        await rig.until_shown("chat@1")
        pid = rig.lives["chat@1"].pid
        running = asyncio.create_task(_complete(rig, "chat@1", 30))
        await _is_working(rig, "chat@1")
        sleeper = wanted(bounds=_SLEEPS, engine_settings={"token_interval_ms": 50.0})
        rig.reconciler.want(sleeper)
        rig.reconciler.sleep("chat")
        await rig.until(lambda: rig.lives["chat@1"].state == "draining")
        rig.reconciler.take_demand(_waits())
        await rig.until_shown("chat@1")
        assert (rig.lives["chat@1"].pid, await running) == (pid, 200)


async def test_a_restarted_control_leaves_sleepers_asleep_and_runners_running(home: Home) -> None:
    async with rig_in(home) as rig:
        async with rig:
            rig.reconciler.want(wanted(bounds=Replicas(min=0)))
            rig.reconciler.want(wanted("other", bounds=Replicas(min=0)))
            await rig.until_shown("chat@1")
            await rig.until_shown("other@1", name="other")
            rig.reconciler.sleep("other")
            await rig.until(lambda: list(rig.lives) == ["chat@1"])
            pid = rig.lives["chat@1"].pid
        again = Rig(home, parts_in(home))
        again.reconciler.want(wanted(bounds=Replicas(min=0)), at_least=0)
        again.reconciler.want(wanted("other", bounds=Replicas(min=0)), at_least=0)
        async with again:
            await again.until(lambda: _entry_state(again, "other") == "sleeping" and bool(again.lives))
            # How long its start took is known from before.
            assert (again.snapshot().deployments["other"].ready_in_s or 0.0) > 0.0
            assert again.shown() == ["chat@1"]
            assert [life.pid for life in again.lives.values()] == [pid]


async def test_the_longest_unused_sleeper_makes_room_and_what_never_fits_says_so(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.control.admission.SETTLED_AFTER_S", 0.0)
    monkeypatch.setattr("outpace.control.admission.IDLE_AFTER_S", 0.0)

    def resolve(spec: DeploymentSpec) -> Resolved:
        return msgspec.structs.replace(resolve_echo(spec), replica_bytes=900 if spec.name == "huge" else 400)

    sleeps = Replicas(min=0)
    async with rig_in(home, resolve=resolve, memory_bytes=1_000) as rig, rig:
        rig.reconciler.want(wanted("first", bounds=sleeps))
        await rig.until_shown("first@1", name="first")
        rig.reconciler.want(wanted("chat", bounds=sleeps))
        await rig.until_shown("chat@1")
        rig.reconciler.want(wanted("third"))
        await rig.until_shown("third@1", name="third")
        assert (rig.shown("first"), rig.shown()) == ([], ["chat@1"])
        assert _entry_state(rig, "first") == "sleeping"
        assert "made room" in rig.reconciler.scaler["first"].reason
        rig.reconciler.want(wanted("huge"))
        await rig.until(lambda: "huge" in rig.snapshot().deployments)
        await rig.until(lambda: "a replica needs" in (rig.snapshot().deployments["huge"].reason or ""))
        assert (rig.shown("third"), rig.shown()) == (["third@1"], ["chat@1"])
        # A caller of a sleeper that finds no room is told, and the others serve on.
        rig.reconciler.want(wanted("chat", replicas=1))
        waits = Demand(worker=0, deployments={"first": DeploymentDemand(waiting=1)})
        rig.reconciler.take_demand(waits)
        await rig.until(lambda: _entry_state(rig, "first") == "failed")
        assert "chat, third hold the rest" in (rig.snapshot().deployments["first"].reason or "")
        assert rig.failures == []


async def test_a_failed_start_of_a_further_replica_leaves_those_that_serve(home: Home) -> None:
    async with rig_in(home) as rig, rig:
        rig.reconciler.want(wanted(bounds=Replicas(min=0, max=2)))
        await rig.until_shown("chat@1")
        further = msgspec.structs.replace(rig.lives["chat@1"], id="chat@2", state="starting")
        rig.reconciler.replica_failed(further, "no port", 0.1)
        assert rig.reconciler.scaler["chat"].desired == 1
        assert rig.shown() == ["chat@1"]
