"""What a machine of a cluster is told and tells, and the decisions about them. Pure."""

from collections.abc import Container, Mapping, Sequence

import msgspec

from outpace.fleet.pool import PoolMachine
from outpace.values.deployment import Launch, Needs
from outpace.values.units import GIB

# Replicas that nobody has asked for this long end themselves.
LEASE_S = 120.0
# Ray's names of what every machine has.
CPU, MEMORY, DEVICE = "CPU", "memory", "GPU"
MACHINE_LABEL = "ray.io/node-id"
ACCELERATOR_LABEL = "ray.io/accelerator-type"


class HostOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a host on a machine is told: the replica, and the paths where it was written."""

    name: str
    launch: Launch
    note: str = ""
    # Of the one who gives the order; the host has its own.
    version: str
    python: str
    socket_dir: str
    # Its place among the machines of one replica, and the first one's address.
    rank: int = 0
    first_address: str = ""
    stands_by: bool = False
    # Where the one who gives the order keeps artifacts.
    artifacts_dir: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has when one looks on it, whatever the cluster believes."""

    version: str
    cores: int
    memory_bytes: int
    # Names of the accelerators as their driver tells them.
    accelerators: tuple[str, ...] = ()


def bundles_of(needs: Needs) -> list[dict[str, float]]:
    """What to reserve, one bundle for each machine; a bundle never spans two."""
    bundle: dict[str, float] = {CPU: needs.cpus}
    if needs.memory_bytes:
        bundle[MEMORY] = float(needs.memory_bytes)
    if needs.devices:
        bundle[DEVICE] = float(needs.devices)
    return [dict(bundle) for _ in range(needs.num_machines)]


def selector_of(needs: Needs, avoided: Sequence[str]) -> dict[str, str]:
    """Labels that a machine must have, and those machines (by the cluster's id) that must not be taken."""
    selector = dict(needs.labels)
    if needs.accelerator:
        selector[ACCELERATOR_LABEL] = needs.accelerator
    if avoided:
        selector[MACHINE_LABEL] = f"!in({','.join(sorted(avoided))})"
    return selector


def avoided_for(needs: Needs, machines: Sequence[PoolMachine], siblings: Container[str]) -> list[str]:
    """Machines not to take: those with a problem or not named, and where others have room the less wanted ones.

    Less wanted are those with a sibling replica, or, where replicas are packed, those without.
    """
    bad = [m.name for m in machines if m.problem is not None or not _is_named(needs, m)]
    good = [machine for machine in machines if machine.name not in bad and machine.is_alive]
    preferred = [machine for machine in good if (machine.name in siblings) == needs.packs]
    bundle = bundles_of(needs)[0]
    if sum(_lack(bundle, needs, machine) is None for machine in preferred) < needs.num_machines:
        return bad
    return bad + [machine.name for machine in good if machine not in preferred]


def is_hopeless(needs: Needs, machines: Sequence[PoolMachine]) -> bool:
    """Too few machines could ever hold it, with nothing else on them: waiting does not help."""
    bundle = bundles_of(needs)[0]
    empty = [msgspec.structs.replace(machine, free=machine.resources) for machine in machines]
    return sum(_lack(bundle, needs, machine) is None for machine in empty) < needs.num_machines


def why_no_room(needs: Needs, machines: Sequence[PoolMachine]) -> str:
    """Which machine lacks what, in a sentence with the remedy."""
    bundle = bundles_of(needs)[0]
    wishes = [_amounts(bundle), *(f"{name}={value}" for name, value in _wanted_labels(needs).items())]
    wish = ", ".join([*wishes, *([f"on {' or '.join(needs.nodes)}"] if needs.nodes else [])])
    many = f" on each of {needs.num_machines} machines" if needs.num_machines > 1 else ""
    lacks = "; ".join(
        f"{machine.address}: {_lack(bundle, needs, machine) or 'has room'}" for machine in machines
    )
    has_devices = any(machine.resources.get(DEVICE) for machine in machines)
    hint = (
        "" if has_devices or not needs.devices else "; `placement: {accelerator: none}` where it needs none"
    )
    return (
        f"no room in the cluster for {wish}{many} ({lacks or 'it has no machines'}); "
        f"add a machine with `outpace node join`, or scale something down{hint}"
    )


def why_not_there(needs: Needs, machine: PoolMachine) -> str | None:
    """Why a process that stands by on this machine cannot become a replica with these needs; None when it can."""
    memory = {MEMORY: float(needs.memory_bytes)} if needs.memory_bytes else {}
    if needs.devices or needs.num_machines > 1:
        return "it stands by without accelerators, on one machine"
    return _lack(memory, needs, machine)


def why_lying(claimed: Mapping[str, float], labels: Mapping[str, str], facts: Facts) -> str | None:
    """Why what a machine says it has is not what is there; None when it is there."""
    devices = int(claimed.get(DEVICE, 0))
    if devices > len(facts.accelerators):
        return _lie(f"{devices} accelerators", f"its driver shows {len(facts.accelerators)}", "--devices")
    kind = labels.get(ACCELERATOR_LABEL, "")
    strangers = [name for name in facts.accelerators[:devices] if not _is_kind(kind, name)]
    if kind and strangers:
        return _lie(kind, f"its driver shows {strangers[0]}", "its own accelerator type")
    memory_bytes = claimed.get(MEMORY, 0.0)
    if memory_bytes > facts.memory_bytes:
        return _lie(
            f"{memory_bytes:.0f} bytes of memory", f"there are {facts.memory_bytes}", "its own memory"
        )
    return None


def why_other_version(own: str, other: str) -> str | None:
    """Why two installations cannot work together; None when they can."""
    if own == other:
        return None
    return f"it has Outpace {other}, and this is {own}; install the same version there"


def moved(launch: Launch, order: HostOrder, paths: Mapping[str, str]) -> Launch:
    """The launch as it reads on its machine: its paths and, on further machines, its rank."""
    argv = launch.argv if order.rank == 0 else (launch.follower_argv or launch.argv)
    if order.rank > 0 or launch.follower_argv:
        rank = {
            "{rank}": str(order.rank),
            "{num_machines}": str(launch.needs.num_machines),
            "{first_address}": order.first_address,
        }
        paths = {**paths, **rank}
    return msgspec.structs.replace(
        launch,
        argv=tuple(_replaced(word, paths) for word in argv),
        env={name: _replaced(value, paths) for name, value in launch.env.items()},
        address=_replaced(launch.address, paths),
        files=tuple(_replaced(path, paths) for path in launch.files),
    )


def _replaced(text: str, paths: Mapping[str, str]) -> str:
    # Longest first: one path may begin another.
    for here in sorted(paths, key=len, reverse=True):
        text = text.replace(here, paths[here])
    return text


def _lie(says: str, shows: str, option: str) -> str:
    return f"the machine says it has {says}, but {shows}; let it join again with {option}"


def _is_kind(kind: str, driver_name: str) -> bool:
    """`H100` is kind of `NVIDIA H100 80GB HBM3`; Ray writes kinds with dashes."""
    words = kind.replace("-", " ").upper().split()
    return all(word in driver_name.upper().replace("-", " ") for word in words)


def _is_named(needs: Needs, machine: PoolMachine) -> bool:
    return not needs.nodes or machine.address in needs.nodes


def _wanted_labels(needs: Needs) -> dict[str, str]:
    kind = {"accelerator": needs.accelerator} if needs.accelerator else {}
    return {**needs.labels, **kind}


def _lack(bundle: Mapping[str, float], needs: Needs, machine: PoolMachine) -> str | None:
    """What a machine lacks for a bundle; None when it has room."""
    if not machine.is_alive:
        return "is gone"
    if machine.problem is not None:
        return machine.problem
    if not _is_named(needs, machine):
        return "is not among placement.nodes"
    wanted = selector_of(needs, ())
    unlike = [name for name, value in wanted.items() if machine.labels.get(name) != value]
    if unlike:
        return f"{unlike[0]} is {machine.labels.get(unlike[0], 'not set')}"
    short = [name for name, amount in bundle.items() if machine.free.get(name, 0.0) < amount]
    if not short:
        return None
    return ", ".join(
        f"{_number(name, machine.free.get(name, 0.0))} of {_amount(name, machine.resources.get(name, 0.0))} free"
        for name in short
    )


def _amounts(bundle: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, amount) for name, amount in bundle.items())


def _amount(name: str, amount: float) -> str:
    return f"{_number(name, amount)} GiB of memory" if name == MEMORY else f"{amount:g} {name}"


def _number(name: str, amount: float) -> str:
    return f"{amount / GIB:.2f}" if name == MEMORY else f"{amount:g}"
