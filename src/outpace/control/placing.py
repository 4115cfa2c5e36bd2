"""Where replicas may run: what a spec's `placement` asks for, checked, and as a pool of machines takes it. Pure."""

import re
from collections.abc import Sequence

import msgspec

from outpace.fleet.cluster import ACCELERATOR_LABEL
from outpace.fleet.pool import PoolMachine
from outpace.values.deployment import DeploymentSpec, Launch, Placement
from outpace.values.errors import InvalidInput

NO_ACCELERATOR = "none"
ANYWHERE = Placement()
# What Ray takes as a label's name and value.
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_NAME = re.compile(r"([A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_MOST = 64


def check_placement(spec: DeploymentSpec) -> None:
    """Raises InvalidInput for what no machine could be called."""
    placement = spec.placement
    if spec.external is not None and placement != ANYWHERE:
        raise InvalidInput("placement", "leave it out; nothing is started for an external API")
    if placement.accelerator and not _LABEL.fullmatch(placement.accelerator):
        raise InvalidInput("placement.accelerator", "a kind such as H100, or `none`")
    if len(placement.nodes) > _MOST or len(placement.labels) > _MOST:
        raise InvalidInput("placement", f"at most {_MOST} nodes and {_MOST} labels")
    if not all(_ADDRESS.fullmatch(node) for node in placement.nodes):
        raise InvalidInput("placement.nodes", "addresses as `outpace status` shows them, such as 10.0.0.2")
    for name, value in placement.labels.items():
        if not _LABEL_NAME.fullmatch(name) or not _LABEL.fullmatch(value):
            raise InvalidInput("placement.labels", "names and values of letters, digits and - _ . only")


def require_placeable(spec: DeploymentSpec, *, has_machines: bool) -> None:
    """Raises InvalidInput for a placement where replicas run on this machine only."""
    if spec.placement != ANYWHERE and not has_machines:
        raise InvalidInput(
            "placement",
            "replicas run on this machine only; start with `outpace up --ray HOST:PORT`, or leave it out",
        )
    if spec.placement != ANYWHERE and spec.replicas.stands_by.imported:
        raise InvalidInput(
            "replicas.standby.imported",
            "those processes stand by on any machine; leave placement out, or keep `loaded` ones",
        )


def require_known(placement: Placement, machines: Sequence[PoolMachine]) -> None:
    """Raises InvalidInput for machines, kinds and labels that the cluster does not have now."""
    alive = [machine for machine in machines if machine.is_alive]
    addresses = sorted({machine.address for machine in alive})
    for node in placement.nodes:
        if node not in addresses:
            raise InvalidInput("placement.nodes", f"no machine {node}; the cluster has {_words(addresses)}")
    kinds = sorted({machine.labels.get(ACCELERATOR_LABEL, "") for machine in alive} - {""})
    if placement.accelerator not in ("", NO_ACCELERATOR, *kinds):
        raise InvalidInput(
            "placement.accelerator",
            f"no machine has {placement.accelerator}; the cluster has {_words(kinds)}",
        )
    if not any(placement.labels.items() <= machine.labels.items() for machine in alive):
        wanted = " ".join(f"{name}={value}" for name, value in placement.labels.items())
        raise InvalidInput(
            "placement.labels", f"no machine has {wanted}; `outpace status` shows their labels"
        )


def placed(launch: Launch, placement: Placement, replica_bytes: int) -> Launch:
    """The launch with what its replica needs of a machine, by its spec and its size."""
    is_accelerated = launch.needs.devices > 0 and placement.accelerator != NO_ACCELERATOR
    needs = msgspec.structs.replace(
        launch.needs,
        devices=launch.needs.devices if is_accelerated else 0,
        # The size is that of weights and KV cache; with accelerators they lie there.
        memory_bytes=0 if is_accelerated else replica_bytes,
        accelerator="" if placement.accelerator == NO_ACCELERATOR else placement.accelerator,
        labels=placement.labels,
        nodes=placement.nodes,
        packs=placement.strategy == "pack",
    )
    return msgspec.structs.replace(launch, needs=needs)


def _words(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
