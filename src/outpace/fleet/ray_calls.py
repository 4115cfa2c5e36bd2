"""The calls to Ray. They block: the pool makes them in threads. Actors and placement groups go by a replica's key."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from outpace.fleet.cluster import MACHINE_LABEL, MEMORY, bundles_of, selector_of
from outpace.fleet.fetching import FetchedStore
from outpace.fleet.pool import PoolMachine
from outpace.fleet.ray_host import ReplicaHost
from outpace.fleet.ray_node import WEIGHTS_DIR, WEIGHTS_GIB
from outpace.values.clock import SystemClock
from outpace.values.deployment import Needs
from outpace.values.errors import EngineFailed, InvalidInput
from outpace.values.units import GIB

# Names of actors are looked up in it; homes are told apart by the names.
_NAMESPACE = "outpace"
_FIND_S = 10.0
_PLACE_S = 5.0
# Behind the key: what a replica reserves beyond what it stood by with.
_MORE = "/memory"


def connect(address: str, *, is_open: bool) -> None:
    """Join the cluster as a driver. Raises InvalidInput with the reason and the remedy."""
    os.environ["RAY_AUTH_MODE"] = "disabled" if is_open else "token"
    import ray

    own = _own_address(address)
    try:
        ray.init(
            address=address,
            _node_ip_address=own,
            namespace=_NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    except Exception as error:
        raise InvalidInput("--ray", f"cannot join {address}: {_first_line(error)}") from error


def _own_address(address: str) -> str:
    """The address under which this machine is a machine of the cluster; the head's first."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        known = GcsClient(address=address).get_all_node_info(timeout=_FIND_S).values()
    except Exception as error:
        raise InvalidInput("--ray", f"cannot ask {address}: {_first_line(error)}") from error
    alive = [info.node_manager_address for info in known if info.state == 0]
    head = address.rpartition(":")[0]
    own = [each for each in sorted(alive, key=lambda each: each != head) if _is_ours(each)]
    if not own:
        raise InvalidInput(
            "--ray",
            f"this machine is no part of the cluster at {address} (it has {', '.join(alive) or 'no machines'}); "
            f"run `outpace node join {address} --cpus 0` here first",
        )
    return str(own[0])


def _is_ours(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class _Host(ReplicaHost):
    """A replica's host as an actor."""

    def __init__(self, lease_s: float) -> None:
        import ray

        machine = ray.util.get_node_ip_address()
        super().__init__(machine, machine, lease_s, _give_back, _fetched())


def _fetched() -> FetchedStore:
    """What this machine was sent, where `outpace node join` said or in the user's cache."""
    told = os.environ.get(WEIGHTS_DIR)
    folder = Path(told).expanduser() if told else Path(platformdirs.user_cache_dir("outpace")) / "weights"
    bound_gib = os.environ.get(WEIGHTS_GIB)
    return FetchedStore(folder, int(float(bound_gib) * GIB) if bound_gib else None, SystemClock())


def own_address() -> str:
    """This machine's address for the others."""
    import ray

    return str(ray.util.get_node_ip_address())


def _give_back() -> None:
    """Return what was reserved for this actor; that ends it as well."""
    import ray

    group = ray.util.get_current_placement_group()
    if group is not None:
        ray.util.remove_placement_group(group)
    os._exit(0)


def reserved(key: str, needs: Needs, avoided: Sequence[str]) -> list[str]:
    """The machines, one for each bundle; empty when there was no room in time, and nothing is reserved then."""
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    bundles = bundles_of(needs)
    selector = selector_of(needs, avoided)
    group = placement_group(
        bundles,
        strategy="STRICT_SPREAD" if needs.num_machines > 1 else "PACK",
        name=key,
        # It must outlive this process, as its actors do.
        lifetime="detached",
        bundle_label_selector=[selector for _ in bundles] if selector else None,
    )
    if not group.wait(_PLACE_S):
        remove_placement_group(group)
        return []
    places = placement_group_table(group)["bundles_to_node_id"]
    return [places[index] for index in range(len(bundles))]


def reserve_memory(key: str, machine: str, memory_bytes: int) -> bool:
    """Reserve memory on one machine for what stood by without; False when there is none left, and nothing is."""
    from ray.util.placement_group import placement_group, remove_placement_group

    selector = [{MACHINE_LABEL: machine}]
    bundles = [{MEMORY: float(memory_bytes)}]
    group = placement_group(bundles, name=key + _MORE, lifetime="detached", bundle_label_selector=selector)
    if group.wait(_PLACE_S):
        return True
    remove_placement_group(group)
    return False


def hosts_for(key: str, needs: Needs, lease_s: float) -> list[Any]:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.get_placement_group(key)
    return [
        ray.remote(_Host)
        .options(
            name=f"{key}/{rank}",
            lifetime="detached",
            max_restarts=0,
            num_cpus=needs.cpus,
            num_gpus=needs.devices,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
        )
        .remote(lease_s)
        for rank in range(needs.num_machines)
    ]


def remove(key: str, hosts: Sequence[Any]) -> None:
    import ray

    for host in hosts:
        ray.kill(host)
    for name in (key, key + _MORE):
        with contextlib.suppress(ValueError):
            ray.util.remove_placement_group(ray.util.get_placement_group(name))


def remove_groups(prefix: str, kept: set[str]) -> None:
    """Remove what an earlier process reserved and nobody lives in."""
    import ray

    groups = [table for table in ray.util.placement_group_table().values() if table["state"] != "REMOVED"]
    for name in [table["name"] for table in groups]:
        key = name.removesuffix(_MORE)
        if key.startswith(prefix) and key not in kept:
            remove(key, ())


def machines_of(key: str) -> list[str]:
    import ray

    table = ray.util.placement_group_table(ray.util.get_placement_group(key))
    return list(dict(sorted(table["bundles_to_node_id"].items())).values())


def machines_now(problems: dict[str, str]) -> list[PoolMachine]:
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        PoolMachine(
            name=node["NodeID"],
            address=node["NodeManagerAddress"],
            is_alive=node["Alive"],
            resources=node["Resources"],
            free=free.get(node["NodeID"], {}),
            labels=node["Labels"],
            problem=problems.get(node["NodeID"]),
        )
        for node in ray.nodes()
    ]


@contextlib.contextmanager
def rays_errors() -> Iterator[None]:
    """Ray's errors in our terms."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise EngineFailed(f"the Ray cluster: {_first_line(error)}") from error
    except TimeoutError as error:
        raise EngineFailed("a machine of the cluster did not answer in time") from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
