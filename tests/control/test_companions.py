"""A second variant under real control: it comes and goes with the load, and its troubles are its own."""

import asyncio
from typing import Any

import msgspec
from tests.control.rig import Rig, parts_in, resolve_echo, rig_in, wanted

from outpace.control.companions import companion_id, owner_of
from outpace.control.parts import Resolved
from outpace.control.telling import deployment_document, stopping_document
from outpace.scheduling import companions as policy
from outpace.values.deployment import DeploymentSpec, Replicas
from outpace.values.home import Home
from outpace.values.profile import Conditions, LoadPoint, Profile
from outpace.values.signals import Demand, DeploymentDemand
from outpace.values.units import GIB

SECOND = "chat@companion@1"


def profile(*speeds: tuple[int, float]) -> Profile:
    return Profile(
        conditions=Conditions(
            model="echo", artifact_sha256="", engine="echo", engine_version="1", machine="here"
        ),
        measured_at=1.0,
        took_s=1.0,
        load_s=0.1,
        prefill_tokens_per_s=1000.0,
        points=tuple(LoadPoint(users=users, output_tokens_per_s=speed) for users, speed in speeds),
    )


def resolve_two(spec: DeploymentSpec, **changes: Any) -> Resolved:
    """Echo twice: the main one fast for one caller, the companion for many."""
    measured = profile((1, 100.0), (32, 100.0))
    main = msgspec.structs.replace(resolve_echo(spec), profile=measured, parallel=32)
    if spec.variants == "off":
        return msgspec.structs.replace(main, no_companion="`variants: off` in its file")
    companion = msgspec.structs.replace(
        main,
        precision="many",
        variant="second",
        profile=profile((1, 50.0), (32, 500.0)),
        **changes,
    )
    return msgspec.structs.replace(main, companion=companion)


def load(rig: Rig, running: int) -> None:
    rig.reconciler.take_demand(
        Demand(worker=0, deployments={"chat": DeploymentDemand(running=running, arrived=1)})
    )


async def under_load(rig: Rig, running: int, *shown: str) -> None:
    """Keep this load until the gateway would use exactly these replicas."""

    def is_shown() -> bool:
        load(rig, running)
        return rig.shown() == list(shown)

    await rig.until(is_shown)


def hasty(monkeypatch: Any) -> None:
    monkeypatch.setattr(policy, "UP_AFTER_S", 0.2)
    monkeypatch.setattr(policy, "LEAST_UP_AFTER_S", 0.2)
    monkeypatch.setattr(policy, "SMOOTHED_OVER_S", 0.01)
    monkeypatch.setattr(policy, "_DOWN_AFTER_S", (0.3, 0.3))
    monkeypatch.setattr(policy, "REST_S", 0.0)


def test_replicas_of_a_companion_belong_to_its_deployment() -> None:
    assert owner_of(companion_id("chat")) == owner_of("chat") == "chat"


async def test_it_comes_with_the_load_serves_beside_the_main_one_and_leaves(
    home: Home, monkeypatch: Any
) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        entry = rig.snapshot().deployments["chat"]
        assert [variant.id for variant in entry.variants] == ["echo/none", "echo/many"]
        await under_load(rig, 32, "chat@1", SECOND)
        entry = rig.snapshot().deployments["chat"]
        assert [replica.variant for replica in entry.replicas] == ["echo/none", "echo/many"]
        document = deployment_document(rig.reconciler.served["chat"], rig.reconciler)
        assert [variant["serves"] for variant in document["variants"]] == [False, True]
        assert (document["desired"], len(document["replicas"])) == (1, 1)
        assert document["variants_reason"] == (
            "echo from 6 users on, at 2.0 prompt tokens per output token; 32 now"
        )
        await under_load(rig, 1, "chat@1")
        await rig.until(lambda: SECOND not in rig.lives)
        assert rig.failures == []


async def test_stop_ends_both_and_says_so(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        rig.reconciler.unwant("chat")
        assert len(stopping_document("chat", rig.reconciler)["replicas"]) == 2
        await rig.until(lambda: not rig.lives)


async def test_a_companion_that_cannot_start_is_nobody_else_s_trouble(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)

    def resolve(spec: DeploymentSpec) -> Resolved:
        return resolve_two(spec, engine_settings={"no_such_switch": 1})

    async with rig_in(home, resolve=resolve) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        companion = rig.reconciler.companions.of("chat")
        assert companion is not None

        def is_broken() -> bool:
            load(rig, 32)
            return companion.served.is_given_up

        await rig.until(is_broken)
        document = deployment_document(rig.reconciler.served["chat"], rig.reconciler)
        assert (document["state"], document["reason"]) == ("ready", None)
        second = document["variants"][1]
        assert second["state"] == "failed"
        assert "no_such_switch" in second["reason"]
        assert rig.shown() == ["chat@1"]


async def test_another_spec_is_not_answered_by_the_old_companion(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        old = rig.reconciler.replicas.lives[SECOND].digest
        rig.reconciler.want(wanted(engine_settings={"context_tokens": 256}))

        def is_new() -> bool:
            load(rig, 32)
            entry = rig.snapshot().deployments["chat"]
            mixed = {
                rig.lives[each.id].digest.split("-")[0] for each in entry.replicas if each.id in rig.lives
            }
            assert len(mixed) <= 1
            life = rig.lives.get("chat@companion@1") or rig.lives.get("chat@companion@2")
            return life is not None and life.digest != old and life.state == "ready"

        await rig.until(is_new)


async def test_variants_off_ends_the_companion_and_leaves_the_main_one_alone(
    home: Home, monkeypatch: Any
) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        pid = rig.lives["chat@1"].pid
        rig.reconciler.want(wanted(variants="off"))
        await under_load(rig, 32, "chat@1")
        assert rig.lives["chat@1"].pid == pid
        document = deployment_document(rig.reconciler.served["chat"], rig.reconciler)
        assert document["variants_reason"] == "one variant: `variants: off` in its file"


async def test_the_next_control_adopts_both(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig:
        async with rig:
            rig.reconciler.want(wanted())
            await rig.until_shown("chat@1")
            await under_load(rig, 32, "chat@1", SECOND)
            before = {life.id: life.pid for life in rig.lives.values()}
            version = rig.snapshot().version
        again = Rig(home, parts_in(home, resolve=resolve_two))
        again.reconciler.want(wanted(), at_least=0)
        async with again:
            shown: list[list[str]] = []

            def is_written() -> bool:
                load(again, 32)
                shown.append(again.shown())
                return again.snapshot().version > version

            await again.until(is_written)
            assert {life.id: life.pid for life in again.lives.values()} == before
            assert set(map(tuple, shown)) == {("chat@1", SECOND)}
            assert again.failures == []


async def test_it_sleeps_with_the_main_one_and_does_not_wake_it(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)
    async with rig_in(home, resolve=resolve_two) as rig, rig:
        rig.reconciler.want(wanted(bounds=Replicas(min=0, max=1)))
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        rig.reconciler.sleep("chat")
        await rig.until(lambda: not rig.lives)
        await asyncio.sleep(0)
        document = deployment_document(rig.reconciler.served["chat"], rig.reconciler)
        assert document["state"] == "sleeping"
        assert [variant["state"] for variant in document["variants"]] == ["sleeping", "sleeping"]


async def test_it_leaves_first_when_another_deployment_needs_memory(home: Home, monkeypatch: Any) -> None:
    hasty(monkeypatch)

    def resolve(spec: DeploymentSpec) -> Resolved:
        main = resolve_two(spec)
        assert main.companion is not None
        companion = msgspec.structs.replace(main.companion, replica_bytes=4 * GIB)
        needs = 2 if spec.name == "chat" else 6
        return msgspec.structs.replace(main, replica_bytes=needs * GIB, companion=companion)

    async with rig_in(home, resolve=resolve, memory_bytes=10 * GIB) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        rig.reconciler.want(wanted("other"))
        await under_load(rig, 32, "chat@1")
        await rig.until_shown("other@1", name="other")
        # Nobody leaves for its sake: it rests.
        companion = rig.reconciler.companions.of("chat")
        assert companion is not None
        assert companion.reason == "made room: others needed the memory"
        await under_load(rig, 32, "chat@1")
        assert rig.reconciler.served["other"].problem is None


async def test_a_version_without_a_profile_changes_nothing_while_the_load_is_high(
    home: Home, monkeypatch: Any
) -> None:
    hasty(monkeypatch)
    has_proof = [False]

    def resolve(spec: DeploymentSpec) -> Resolved:
        found = resolve_two(spec)
        if not has_proof[0]:
            return found
        assert found.companion is not None
        second = msgspec.structs.replace(found.companion, variant="second+u8", profile=None)
        return msgspec.structs.replace(found, variant="faster", profile=None, companion=second)

    async with rig_in(home, resolve=resolve) as rig, rig:
        rig.reconciler.want(wanted())
        await rig.until_shown("chat@1")
        await under_load(rig, 32, "chat@1", SECOND)
        pid = rig.lives[SECOND].pid
        has_proof[0] = True
        await rig.reconciler.served["chat"]._reconsider()
        # The main variant is replaced, the companion serves on.
        await under_load(rig, 32, "chat@2", SECOND)
        for _ in range(4):
            await under_load(rig, 32, "chat@2", SECOND)
            await rig.reconciler.tick()
        assert rig.lives[SECOND].pid == pid
        await under_load(rig, 1, "chat@2")
        companion = rig.reconciler.companions.of("chat")
        assert companion is not None
        await rig.until(lambda: companion.served.digest.endswith("second+u8"))
