"""Placing, refusing, and how a launch reads on another machine."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.fleet.cluster import (
    Facts,
    HostOrder,
    avoided_for,
    bundles_of,
    is_hopeless,
    moved,
    selector_of,
    why_lying,
    why_no_room,
    why_not_there,
    why_other_version,
)
from outpace.fleet.pool import PoolMachine
from outpace.values.deployment import Launch, Needs

GIB = 1 << 30
TWO_H100 = Facts(version="1", cores=8, memory_bytes=64 * GIB, accelerators=("NVIDIA H100 80GB HBM3",) * 2)


def _machine(name: str, cpus: float = 4.0, problem: str | None = None, **more: object) -> PoolMachine:
    return PoolMachine(
        name=name,
        address=f"10.0.0.{name}",
        is_alive=bool(more.get("is_alive", True)),
        resources={"CPU": 4.0, "GPU": 2.0},
        free={"CPU": cpus, "GPU": 2.0},
        labels={"zone": "a"},
        problem=problem,
    )


def test_tensor_parallel_is_one_bundle_and_pipeline_parallel_many() -> None:
    needs = Needs(cpus=2, devices=4, num_machines=2, memory_bytes=GIB)
    assert bundles_of(needs) == [{"CPU": 2, "GPU": 4, "memory": GIB}] * 2
    assert bundles_of(Needs()) == [{"CPU": 1.0}]


def test_a_selector_names_labels_kind_and_what_to_avoid() -> None:
    needs = Needs(labels={"zone": "a"}, accelerator="H100")
    assert selector_of(needs, ["b", "a"]) == {
        "zone": "a",
        "ray.io/accelerator-type": "H100",
        "ray.io/node-id": "!in(a,b)",
    }
    assert selector_of(Needs(), []) == {}


def test_replicas_of_one_deployment_spread_while_there_is_room_elsewhere() -> None:
    one, two = _machine("1"), _machine("2")
    assert avoided_for(Needs(), [one, two], {"1"}) == ["1"]
    assert avoided_for(Needs(), [one, _machine("2", cpus=0)], {"1"}) == []
    assert avoided_for(Needs(), [one, _machine("2", problem="lies")], {"1"}) == ["2"]


def test_packed_replicas_go_where_siblings_are_while_there_is_room() -> None:
    one, two = _machine("1"), _machine("2")
    packs = Needs(packs=True)
    assert avoided_for(packs, [one, two], {"1"}) == ["2"]
    assert avoided_for(packs, [_machine("1", cpus=0), two], {"1"}) == []
    assert avoided_for(packs, [one, two], set()) == []


def test_only_named_machines_are_taken_and_the_reason_names_them() -> None:
    one, two = _machine("1"), _machine("2", cpus=0)
    named = Needs(nodes=("10.0.0.2",))
    assert avoided_for(named, [one, two], set()) == ["1"]
    said = why_no_room(named, [one, two])
    assert "1 CPU, on 10.0.0.2" in said
    assert "10.0.0.1: is not among placement.nodes" in said
    assert not is_hopeless(named, [one, two])
    assert is_hopeless(Needs(nodes=("10.0.0.9",)), [one, two])


def test_what_stands_by_becomes_only_what_its_machine_has_room_for() -> None:
    machine = msgspec.structs.replace(_machine("1", cpus=0), free={"CPU": 0.0, "memory": 5.0 * GIB})
    # Its processor is reserved already.
    assert why_not_there(Needs(memory_bytes=5 * GIB), machine) is None
    assert "5.00 of 0.00 GiB of memory free" in (why_not_there(Needs(memory_bytes=6 * GIB), machine) or "")
    assert "without accelerators" in (why_not_there(Needs(devices=1), machine) or "")


def test_without_any_accelerator_the_way_out_is_told() -> None:
    machine = msgspec.structs.replace(_machine("1"), resources={"CPU": 4.0}, free={"CPU": 4.0})
    assert "`placement: {accelerator: none}`" in why_no_room(Needs(devices=1), [machine])
    assert "accelerator: none" not in why_no_room(Needs(devices=4), [_machine("1")])


def test_what_no_machine_could_ever_hold_is_hopeless_and_what_is_only_full_is_not() -> None:
    full = _machine("1", cpus=0)
    assert not is_hopeless(Needs(), [full])
    assert is_hopeless(Needs(devices=4), [full])
    assert is_hopeless(Needs(num_machines=2), [full, _machine("2", problem="lies")])


def test_no_room_says_what_each_machine_lacks() -> None:
    machines = [
        _machine("1", cpus=0.5),
        _machine("2", problem="it lies"),
        _machine("3", is_alive=False),
    ]
    said = why_no_room(Needs(), machines)
    assert "10.0.0.1: 0.5 of 4 CPU free" in said
    assert "10.0.0.2: it lies" in said
    assert "10.0.0.3: is gone" in said
    assert "outpace node join" in said
    assert "10.0.0.1: zone is a" in why_no_room(Needs(labels={"zone": "b"}), machines[:1])
    assert "it has no machines" in why_no_room(Needs(), [])


@pytest.mark.parametrize(
    ("claimed", "labels", "says"),
    [
        ({"GPU": 2.0}, {}, None),
        ({"GPU": 2.0}, {"ray.io/accelerator-type": "H100"}, None),
        ({"CPU": 640.0}, {}, None),
        ({"GPU": 4.0}, {}, "4 accelerators, but its driver shows 2"),
        ({"GPU": 2.0}, {"ray.io/accelerator-type": "A100-80G"}, "A100-80G, but its driver shows NVIDIA H100"),
        ({"memory": 65.0 * GIB}, {}, "bytes of memory"),
    ],
)
def test_a_machine_that_says_more_than_it_has_is_found_out(
    claimed: dict[str, float], labels: dict[str, str], says: str | None
) -> None:
    found = why_lying(claimed, labels, TWO_H100)
    assert found is None if says is None else says in (found or "")


def test_two_versions_do_not_work_together() -> None:
    assert why_other_version("1", "1") is None
    assert "install the same version" in (why_other_version("1", "2") or "")


def _order(launch: Launch, rank: int = 0) -> HostOrder:
    return HostOrder(
        name="r",
        launch=launch,
        version="1",
        python="/p",
        socket_dir="/s",
        rank=rank,
        first_address="10.0.0.9",
    )


def test_a_launch_reads_with_the_paths_of_its_machine() -> None:
    launch = Launch(
        argv=("/home/a/.venv/bin/python", "-m", "x", '{"socket":"/home/a/run/s/chat@1.sock"}'),
        address="unix:/home/a/run/s/chat@1.sock",
        token="t",
    )
    here = {"/home/a/.venv/bin/python": "/usr/bin/python3", "/home/a/run/s": "/tmp/o/s"}
    there = moved(launch, _order(launch), here)
    assert there.argv == ("/usr/bin/python3", "-m", "x", '{"socket":"/tmp/o/s/chat@1.sock"}')
    assert there.address == "unix:/tmp/o/s/chat@1.sock"


def test_further_machines_get_their_rank_and_the_first_ones_address() -> None:
    launch = Launch(
        argv=("e", "--node-rank", "0"),
        follower_argv=("e", "--node-rank", "{rank}", "--of", "{num_machines}", "--at", "{first_address}"),
        address="unix:/x",
        token="t",
        needs=Needs(num_machines=2),
    )
    assert moved(launch, _order(launch), {}).argv == ("e", "--node-rank", "0")
    assert moved(launch, _order(launch, rank=1), {}).argv[2:] == ("1", "--of", "2", "--at", "10.0.0.9")


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_names_no_path_is_not_touched(one: str, other: str) -> None:
    launch = Launch(argv=(one, other), address="unix:/x", token="t")
    assert moved(launch, _order(launch), {"/a/path/nobody/has": "y"}).argv == (one, other)
