"""Waiting for deployments, and how they are told in a line."""

from collections.abc import Callable
from typing import Any

import msgspec

from outpace.cli.client import AdminClient
from outpace.values.clock import Clock, sleep_blocking
from outpace.values.errors import EngineFailed, ModelNotFound
from outpace.values.home import Home
from outpace.values.snapshot import decode

POLL_S = 0.05
# A gateway worker looks five times a second for a new snapshot.
_WORKERS_LOOK_S = 0.25
# Large models load for minutes; a replica has a deadline of its own that ends in `failed`.
_DEADLINE_S = 900.0
_GONE = frozenset({"failed", "stopped"})


def deployment_named(client: AdminClient, name: str) -> dict[str, Any]:
    """The deployment as control tells it. Raises ModelNotFound listing what there is."""
    deployments = client.get("/admin/status")["deployments"]
    for deployment in deployments:
        if deployment["name"] == name:
            return dict(deployment)
    known = ", ".join(sorted(entry["name"] for entry in deployments)) or "none"
    raise ModelNotFound(f"no deployment {name!r}; there is {known}")


def wait_until_ready(
    client: AdminClient,
    home: Home,
    name: str,
    clock: Clock,
    *,
    require_life: Callable[[], None] = lambda: None,
    on_change: Callable[[dict[str, Any]], None] = lambda deployment: None,
) -> dict[str, Any]:
    """The deployment once as many replicas as wanted answer and the gateway knows. Raises EngineFailed."""
    deadline_s = clock.monotonic_s() + _DEADLINE_S
    while True:
        require_life()
        deployment = deployment_named(client, name)
        on_change(deployment)
        if deployment["state"] in _GONE:
            raise EngineFailed(f"{name} {deployment['state']}: {deployment['reason'] or 'no reason given'}")
        if is_settled(deployment):
            break
        if clock.monotonic_s() > deadline_s:
            raise EngineFailed(
                f"{name} is not ready after {_DEADLINE_S:.0f} s: {deployment['reason'] or 'no reason given'}"
            )
        sleep_blocking(POLL_S)
    _wait_for_gateway(home, name, clock)
    return deployment


def is_settled(deployment: dict[str, Any]) -> bool:
    """Exactly the wanted replicas are there, and all are ready; a sleeper wants none."""
    states = [replica["state"] for replica in deployment["replicas"] if replica["state"] != "stopped"]
    return deployment["state"] == "sleeping" or (
        deployment["state"] == "ready"
        and states.count("ready") == deployment["desired"]
        and "starting" not in states
    )


def engine_line(deployment: dict[str, Any]) -> str:
    """`chat   llamacpp · q4_1 · ready in 0.9 s`."""
    parts = [deployment["engine"], deployment["precision"]]
    loads = [replica["load_s"] for replica in deployment["replicas"] if replica.get("load_s") is not None]
    if len(deployment["replicas"]) > 1:
        parts.append(f"{len(deployment['replicas'])} replicas")
    if deployment["state"] == "sleeping":
        parts.append("asleep; the next request wakes it")
    else:
        parts.append(f"ready in {max(loads):.1f} s" if loads else "ready")
    return f"{deployment['name']}   {' · '.join(str(part) for part in parts if part and part != 'none')}"


def _wait_for_gateway(home: Home, name: str, clock: Clock) -> None:
    deadline_s = clock.monotonic_s() + 5.0
    while not _is_in_snapshot(home, name) and clock.monotonic_s() < deadline_s:
        sleep_blocking(POLL_S)
    sleep_blocking(_WORKERS_LOOK_S)


def _is_in_snapshot(home: Home, name: str) -> bool:
    try:
        entry = decode(home.snapshot.read_bytes()).deployments.get(name)
    except (OSError, msgspec.DecodeError):
        return False
    return entry is not None and (bool(entry.replicas) or entry.state == "sleeping")
