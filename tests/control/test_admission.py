"""Who may start in the memory that there is, and who leaves for it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.control.admission import SHARE_FOR_REPLICAS, Holding, Tenant, admit
from outpace.control.decide import Start
from outpace.values.units import GIB

# 9.2 GiB are for replicas.
MEMORY = 10 * GIB


def _start(name: str, number: int = 1) -> Start:
    return Start(f"{name}@{number}", name)


def _held(name: str, gib: float, up_for_s: float = 600.0, is_leaving: bool = False) -> Holding:
    return Holding(deployment=name, memory_bytes=int(gib * GIB), up_for_s=up_for_s, is_leaving=is_leaving)


def _tenant(gib: float, spare: int = 0, idle_for_s: float = 0.0, is_busy: bool = False) -> Tenant:
    return Tenant(replica_bytes=int(gib * GIB), spare=spare, idle_for_s=idle_for_s, is_busy=is_busy)


def test_what_fits_starts_and_who_waits_comes_first() -> None:
    tenants = {"a": _tenant(6.0), "b": _tenant(6.0, is_busy=True)}
    admission = admit([_start("a"), _start("b")], [], tenants, MEMORY)
    assert admission.starts == (_start("b"),)
    assert list(admission.refused) == ["a"]
    assert admit([_start("a"), _start("b")], [], tenants, None).starts == (_start("a"), _start("b"))


def test_the_longest_unused_makes_room_and_the_start_waits_for_its_end() -> None:
    tenants = {
        "new": _tenant(4.0, is_busy=True),
        "old": _tenant(4.0, spare=1, idle_for_s=500.0),
        "fresh": _tenant(4.0, spare=1, idle_for_s=20.0),
    }
    holdings = [_held("old", 4.0), _held("fresh", 4.0)]
    admission = admit([_start("new")], holdings, tenants, MEMORY)
    assert (admission.starts, admission.evict, admission.refused) == ((), ("old",), {})
    leaving = [_held("old", 4.0, is_leaving=True), _held("fresh", 4.0)]
    waits = admit([_start("new")], leaving, tenants, MEMORY)
    assert (waits.starts, waits.evict, waits.refused) == ((), (), {})
    assert admit([_start("new")], leaving[1:], tenants, MEMORY).starts == (_start("new"),)


@pytest.mark.parametrize(
    ("tenant", "up_for_s"),
    [
        # In use, wanted by its file, used a moment ago, or just come up.
        (_tenant(6.0, spare=1, idle_for_s=0.0, is_busy=True), 600.0),
        (_tenant(6.0, spare=0, idle_for_s=500.0), 600.0),
        (_tenant(6.0, spare=1, idle_for_s=4.9), 600.0),
        (_tenant(6.0, spare=1, idle_for_s=29.0), 29.0),
    ],
)
def test_who_does_not_make_room_is_named_in_the_refusal(tenant: Tenant, up_for_s: float) -> None:
    tenants = {"new": _tenant(4.0, is_busy=True), "holder": tenant}
    admission = admit([_start("new")], [_held("holder", 6.0, up_for_s)], tenants, MEMORY)
    assert (admission.starts, admission.evict) == ((), ())
    said = admission.refused["new"]
    assert said.startswith("a replica needs 4.00 GiB, 3.20 of 9.20 GiB for replicas are free; holder hold")


def test_nobody_leaves_in_vain() -> None:
    tenants = {"huge": _tenant(40.0, is_busy=True), "idle": _tenant(4.0, spare=1, idle_for_s=500.0)}
    admission = admit([_start("huge")], [_held("idle", 4.0)], tenants, MEMORY)
    assert (admission.starts, admission.evict, list(admission.refused)) == ((), (), ["huge"])


_NAMES = ("a", "b", "c", "d")
_TENANTS = st.fixed_dictionaries(
    {
        name: st.builds(
            _tenant, st.floats(0.1, 12.0), st.integers(0, 2), st.floats(0.0, 900.0), st.booleans()
        )
        for name in _NAMES
    }
)


@given(_TENANTS, st.lists(st.sampled_from(_NAMES), max_size=6), st.lists(st.sampled_from(_NAMES), max_size=6))
def test_memory_is_never_promised_twice(
    tenants: dict[str, Tenant], held: list[str], wanted: list[str]
) -> None:
    budget = SHARE_FOR_REPLICAS * MEMORY
    holdings: list[Holding] = []
    for name in held:
        if sum(holding.memory_bytes for holding in holdings) + tenants[name].replica_bytes <= budget:
            holdings.append(_held(name, tenants[name].replica_bytes / GIB))
    tenants = {
        name: msgspec.structs.replace(
            tenant, spare=min(tenant.spare, sum(holding.deployment == name for holding in holdings))
        )
        for name, tenant in tenants.items()
    }
    starts = [_start(name, 10 + number) for number, name in enumerate(wanted)]
    admission = admit(starts, holdings, tenants, MEMORY)
    started = sum(tenants[start.deployment].replica_bytes for start in admission.starts)
    assert sum(holding.memory_bytes for holding in holdings) + started <= budget
    for name in admission.evict:
        assert not tenants[name].is_busy
        assert admission.evict.count(name) <= tenants[name].spare


def test_a_companion_leaves_first_and_nobody_leaves_for_it() -> None:
    tenants = {
        "chat@companion": Tenant(replica_bytes=4 * GIB, spare=1, is_busy=True, is_companion=True),
        "old": Tenant(replica_bytes=4 * GIB, spare=1, idle_for_s=1000.0),
        "new": Tenant(replica_bytes=4 * GIB, is_busy=True),
    }
    holdings = [
        Holding(deployment="chat@companion", memory_bytes=4 * GIB, up_for_s=1.0),
        Holding(deployment="old", memory_bytes=4 * GIB, up_for_s=1000.0),
    ]
    admitted = admit([Start("new@1", "new")], holdings, tenants, 10 * GIB)
    assert admitted.evict == ("chat@companion",)
    refused = admit([Start("chat@companion@1", "chat@companion")], holdings[1:], tenants, 7 * GIB)
    assert (refused.evict, list(refused.refused)) == ((), ["chat@companion"])
