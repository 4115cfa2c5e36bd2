"""The reconcile decision as a table, and that repeating it always arrives."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.control.decide import (
    Action,
    Recall,
    Retire,
    Standing,
    Start,
    decide,
    deployment_state,
    routed,
    shown_digest,
)
from outpace.fleet.replicas import Life, turned
from outpace.values.deployment import ReplicaState


def _life(
    replica_id: str,
    state: ReplicaState = "ready",
    digest: str = "new",
    is_running: bool = True,
    **fields: Any,
) -> Life:
    return Life(
        id=replica_id,
        deployment=replica_id.partition("@")[0],
        digest=digest,
        state=state,
        address="unix:/x",
        token="t",
        is_running=is_running,
        **fields,
    )


def _wants(
    desired: int = 1, *, loaded: int = 0, refills: bool = True, may_start: bool = True
) -> dict[str, Standing]:
    standing = Standing(
        name="a", digest="new", desired=desired, loaded=loaded, refills=refills, may_start=may_start
    )
    return {"a": standing}


@pytest.mark.parametrize(
    ("wanted", "lives", "actions"),
    [
        (_wants(2), [], [Start("a@1", "a"), Start("a@2", "a")]),
        (_wants(2, may_start=False), [], []),
        (_wants(1), [_life("a@1")], []),
        (_wants(2), [_life("a@2")], [Start("a@1", "a")]),
        # Loaded ones stand by beyond those.
        (_wants(1, loaded=1), [_life("a@1")], [Start("a@2", "a")]),
        (_wants(1, loaded=1, refills=False), [_life("a@1")], []),
        (_wants(2, loaded=1, refills=False), [_life("a@1")], [Start("a@2", "a")]),
        (_wants(0, loaded=1, refills=False), [_life("a@1")], []),
        (_wants(0, loaded=1), [_life("a@1")], []),
        (_wants(0, loaded=1), [_life("a@1"), _life("a@2")], [Retire("a@2")]),
        # A process that is not gone yet keeps its number.
        (_wants(1), [_life("a@1", "failed")], []),
        (_wants(1), [_life("a@1", "failed", is_running=False)], [Start("a@1", "a")]),
        (_wants(1, may_start=False), [_life("a@1", "failed", is_running=False)], []),
        (_wants(1), [_life("a@1", "draining")], [Start("a@2", "a")]),
        # Wanted again before it was told to end: it serves on, also while starts have to wait.
        (_wants(1), [_life("a@1", "draining", ready_at=1.0)], [Recall("a@1")]),
        (_wants(2), [_life("a@1", "draining", ready_at=1.0)], [Recall("a@1"), Start("a@2", "a")]),
        (_wants(1, may_start=False), [_life("a@1", "draining", ready_at=1.0)], [Recall("a@1")]),
        (_wants(1), [_life("a@1", "draining", ready_at=1.0, is_ending=True)], [Start("a@2", "a")]),
        (_wants(1, may_start=False), [_life("a@1", "draining", ready_at=1.0, digest="old")], []),
        (_wants(0), [_life("a@1")], [Retire("a@1")]),
        # Too many: the ready and the oldest stay.
        (_wants(1), [_life("a@1", "starting"), _life("a@2"), _life("a@10")], [Retire("a@10"), Retire("a@1")]),
        # Not wanted.
        ({}, [_life("a@1"), _life("a@2", "failed")], [Retire("a@1"), Retire("a@2")]),
        ({}, [_life("a@1", "draining")], []),
        # Changed: the old one serves until the new one is ready.
        (_wants(1), [_life("a@1", digest="old")], [Start("a@2", "a")]),
        (_wants(1), [_life("a@1", digest="old"), _life("a@2", "starting")], []),
        (_wants(1), [_life("a@1", digest="old"), _life("a@2")], [Retire("a@1")]),
        (_wants(2), [_life("a@1", digest="old"), _life("a@2"), _life("a@3", "starting")], []),
        (_wants(1), [_life("a@1", "starting", digest="old")], [Retire("a@1"), Start("a@2", "a")]),
        (_wants(1, may_start=False), [_life("a@1", digest="old")], []),
    ],
)
def test_what_is_done(wanted: dict[str, Standing], lives: Sequence[Life], actions: list[Action]) -> None:
    assert decide(wanted, lives) == actions


@pytest.mark.parametrize(
    ("ready", "desired", "shown"),
    [
        ([], 1, "new"),
        (["old"], 1, "old"),
        (["old", "new"], 1, "new"),
        (["old", "old", "new"], 2, "old"),
        (["old", "old", "new", "new"], 2, "new"),
        (["new"], 2, "new"),
    ],
)
def test_which_version_gets_the_traffic(ready: list[str], desired: int, shown: str) -> None:
    lives = [_life(f"a@{index}", digest=digest) for index, digest in enumerate(ready)]
    assert shown_digest(_wants(desired)["a"], lives) == shown


def test_one_ready_replica_is_enough_and_giving_up_is_failing() -> None:
    assert deployment_state(1, is_given_up=True) == "ready"
    assert deployment_state(0, is_given_up=True) == "failed"
    assert deployment_state(0, is_given_up=False) == "starting"
    assert deployment_state(0, is_given_up=False, is_asleep=True) == "sleeping"
    assert deployment_state(0, is_given_up=True, is_asleep=True) == "failed"


_LIVES = st.builds(
    _life,
    st.integers(1, 6).map(lambda index: f"a@{index}"),
    st.sampled_from(["starting", "ready", "draining", "failed"]),
    st.sampled_from(["old", "new"]),
)


@given(st.lists(_LIVES, unique_by=lambda life: life.id, max_size=6), st.integers(0, 4))
def test_from_any_state_it_arrives_and_then_rests(lives: list[Life], desired: int) -> None:
    wanted = _wants(desired) if desired else {}
    for _ in range(10):
        actions = decide(wanted, lives)
        assert len({action.replica_id for action in actions}) == len(actions)
        lives = _after(lives, actions)
    assert decide(wanted, lives) == []
    assert sorted(life.digest for life in lives if life.state == "ready") == ["new"] * desired


def _after(lives: Sequence[Life], actions: Sequence[Action]) -> list[Life]:
    """The world one tick later: starts succeed, what drains or failed has ended."""
    by_id = {life.id: life for life in lives}
    for action in actions:
        if isinstance(action, Start):
            by_id[action.replica_id] = _life(action.replica_id, "starting")
        elif by_id[action.replica_id].is_running:
            by_id[action.replica_id] = turned(by_id[action.replica_id], "unwanted")
        else:
            del by_id[action.replica_id]
    answered = [turned(life, "answered") for life in by_id.values() if life.state != "draining"]
    return [msgspec.structs.replace(life, is_running=life.state != "failed") for life in answered]


def test_traffic_goes_to_those_longest_ready_and_only_to_as_many_as_are_desired() -> None:
    lives = [
        _life("a@1", ready_at=30.0),
        _life("a@2", ready_at=10.0),
        _life("a@3", "starting"),
        _life("a@4", ready_at=20.0),
        _life("a@5", ready_at=1.0, digest="old"),
    ]
    assert [life.id for life in routed(_wants(2, loaded=1)["a"], lives, "new")] == ["a@2", "a@4"]
    assert routed(_wants(0, loaded=1)["a"], lives, "new") == []
