"""`placement`: refused by name where it is wrong, where no cluster is, and where the cluster has no such machine."""

import pytest

from outpace.control.placing import check_placement, placed, require_known, require_placeable
from outpace.control.specs import digest, parse_spec
from outpace.fleet.pool import PoolMachine
from outpace.values.deployment import DeploymentSpec, Launch, Needs, Placement, Replicas, Standby
from outpace.values.errors import InvalidInput

_LAUNCH = Launch(argv=("e",), address="unix:/x", token="t")
_MACHINES = [
    PoolMachine(
        name="id-2",
        address="10.0.0.2",
        is_alive=True,
        labels={"ray.io/accelerator-type": "H100", "zone": "a"},
    ),
    PoolMachine(name="id-3", address="10.0.0.3", is_alive=False, labels={"zone": "b"}),
]


def _spec(**fields: object) -> DeploymentSpec:
    return parse_spec({"name": "chat", "model": "m", **fields}, lambda _: None)


def test_a_placement_is_parsed_and_belongs_to_the_version() -> None:
    spec = _spec(placement={"accelerator": "H100", "nodes": ["10.0.0.2"], "strategy": "pack"})
    assert spec.placement == Placement(accelerator="H100", nodes=("10.0.0.2",), strategy="pack")
    assert digest(spec) != digest(_spec())
    assert digest(_spec(placement={"accelerator": "auto", "strategy": "spread"})) == digest(_spec())


@pytest.mark.parametrize(
    ("placement", "param"),
    [
        ({"zones": ["a"]}, "placement"),
        ({"strategy": "close"}, "placement.strategy"),
        ({"nodes": "10.0.0.2"}, "placement.nodes"),
        ({"nodes": ["10.0.0.2, !in(x)"]}, "placement.nodes"),
        ({"nodes": [f"10.0.0.{n}" for n in range(65)]}, "placement"),
        ({"accelerator": "!in(a)"}, "placement.accelerator"),
        ({"labels": {"zone": "!in(a)"}}, "placement.labels"),
        ({"labels": {"a b": "c"}}, "placement.labels"),
        ({"labels": ["zone"]}, "placement.labels"),
    ],
)
def test_wrong_ones_are_refused_by_name(placement: object, param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _spec(placement=placement)
    assert refused.value.param == param


def test_an_external_api_is_placed_nowhere() -> None:
    with pytest.raises(InvalidInput, match="nothing is started"):
        parse_spec(
            {
                "name": "e",
                "external": {"base_url": "http://h/v1", "model": "m"},
                "placement": {"strategy": "pack"},
            },
            lambda _: None,
        )


def test_without_a_cluster_it_is_refused_with_the_remedy() -> None:
    spec = _spec(placement={"strategy": "pack"})
    with pytest.raises(InvalidInput, match=r"placement: .*outpace up --ray"):
        require_placeable(spec, has_machines=False)
    require_placeable(spec, has_machines=True)
    require_placeable(_spec(), has_machines=False)


def test_processes_that_stand_by_anywhere_are_not_promised_to_a_placed_deployment() -> None:
    bounds = Replicas(standby=Standby(imported=1))
    spec = DeploymentSpec(name="c", model="m", replicas=bounds, placement=Placement(nodes=("10.0.0.2",)))
    with pytest.raises(InvalidInput, match=r"replicas\.standby\.imported"):
        require_placeable(spec, has_machines=True)


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        (Placement(nodes=("10.0.0.2",)), None),
        (Placement(nodes=("10.0.0.3",)), "no machine 10.0.0.3; the cluster has 10.0.0.2"),
        (Placement(accelerator="H100"), None),
        (Placement(accelerator="none"), None),
        (Placement(accelerator="A100"), "no machine has A100; the cluster has H100"),
        (Placement(labels={"zone": "a"}), None),
        (Placement(labels={"zone": "b"}), "no machine has zone=b"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(placement: Placement, says: str | None) -> None:
    check_placement(DeploymentSpec(name="c", model="m", placement=placement))
    if says is None:
        require_known(placement, _MACHINES)
        return
    with pytest.raises(InvalidInput, match=says):
        require_known(placement, _MACHINES)


def test_a_launch_gets_the_memory_of_its_replica_or_its_accelerators() -> None:
    here = Placement(nodes=("10.0.0.2",), labels={"zone": "a"}, strategy="pack")
    assert placed(_LAUNCH, here, 100).needs == Needs(
        memory_bytes=100, nodes=("10.0.0.2",), labels={"zone": "a"}, packs=True
    )
    on_two = Launch(argv=("e",), address="", token="", needs=Needs(devices=2))
    assert placed(on_two, Placement(accelerator="H100"), 100).needs == Needs(devices=2, accelerator="H100")
    assert placed(on_two, Placement(accelerator="none"), 100).needs == Needs(memory_bytes=100)
