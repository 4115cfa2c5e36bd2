"""Which replicas may start in the memory that there is, and who makes room for them. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from outpace.control.decide import Start
from outpace.values.units import GIB

# The rest is the system's, the gateway's and the page cache's.
SHARE_FOR_REPLICAS = 0.92
# A replica that came up lately, or served lately, does not make room: its callers may come back.
SETTLED_AFTER_S = 30.0
IDLE_AFTER_S = 5.0


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that a replica's process has."""

    deployment: str
    memory_bytes: int
    # It has been told to go; its memory comes free soon.
    is_leaving: bool = False
    up_for_s: float = 0.0


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as far as its memory matters."""

    # Of one of its replicas.
    replica_bytes: int
    # Replicas above the least that its file or a person wants.
    spare: int = 0
    # Somebody waits, or runs.
    is_busy: bool = False
    idle_for_s: float = 0.0
    # A second variant: it leaves first, whatever it does, and nobody leaves for it.
    is_companion: bool = False


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What of the wanted starts may happen now."""

    starts: tuple[Start, ...] = ()
    # Deployments that give up one replica each, as often as they are named.
    evict: tuple[str, ...] = ()
    # Why a deployment's start does not fit, whoever makes room.
    refused: Mapping[str, str] = {}


def admit(
    starts: Sequence[Start],
    holdings: Sequence[Holding],
    tenants: Mapping[str, Tenant],
    memory_bytes: int | None,
) -> Admission:
    """Starts that fit, those who wait first; idle replicas leave for what does not fit, longest unused first.

    Nobody leaves unless the start then fits, and nothing starts before the memory is free.
    """
    if memory_bytes is None:
        return Admission(starts=tuple(starts))
    budget_bytes = int(SHARE_FOR_REPLICAS * memory_bytes)
    free_bytes = budget_bytes - sum(holding.memory_bytes for holding in holdings)
    leaving_bytes = sum(holding.memory_bytes for holding in holdings if holding.is_leaving)
    admitted: list[Start] = []
    evicted: list[str] = []
    refused: dict[str, str] = {}
    for start in sorted(starts, key=lambda start: _rank(tenants[start.deployment])):
        need_bytes = tenants[start.deployment].replica_bytes
        if need_bytes <= free_bytes:
            admitted.append(start)
            free_bytes -= need_bytes
            continue
        coming_bytes = free_bytes + leaving_bytes
        victims = _victims(start.deployment, need_bytes - coming_bytes, holdings, tenants, evicted)
        if victims is None:
            refused[start.deployment] = _words(
                need_bytes, coming_bytes, budget_bytes, holdings, start.deployment
            )
            continue
        # What comes free is promised to this start.
        evicted += victims
        leaving_bytes += sum(tenants[name].replica_bytes for name in victims) - need_bytes
    return Admission(starts=tuple(admitted), evict=tuple(evicted), refused=refused)


def _rank(tenant: Tenant) -> tuple[bool, bool]:
    """Companions last, and before them those for whom nobody waits."""
    return tenant.is_companion, not tenant.is_busy


def _victims(
    for_whom: str,
    missing_bytes: int,
    holdings: Sequence[Holding],
    tenants: Mapping[str, Tenant],
    evicted: Sequence[str],
) -> list[str] | None:
    """Who gives up replicas so that so much comes free; None when that is not enough."""
    found: list[str] = []
    by_worth = sorted(tenants, key=lambda name: (not tenants[name].is_companion, -tenants[name].idle_for_s))
    for name in by_worth:
        if (
            tenants[for_whom].is_companion
            or name == for_whom
            or not _may_leave(name, holdings, tenants[name])
        ):
            continue
        for _ in range(tenants[name].spare - evicted.count(name)):
            if missing_bytes <= 0:
                return found
            found.append(name)
            missing_bytes -= tenants[name].replica_bytes
    return found if missing_bytes <= 0 else None


def _may_leave(name: str, holdings: Sequence[Holding], tenant: Tenant) -> bool:
    own = [holding for holding in holdings if holding.deployment == name and not holding.is_leaving]
    if tenant.is_companion:
        return bool(own)
    is_settled = bool(own) and all(holding.up_for_s >= SETTLED_AFTER_S for holding in own)
    return is_settled and not tenant.is_busy and tenant.idle_for_s >= IDLE_AFTER_S


def _words(
    need_bytes: int, free_bytes: int, budget_bytes: int, holdings: Sequence[Holding], for_whom: str
) -> str:
    holders = sorted({holding.deployment for holding in holdings if not holding.is_leaving})
    holders = ["its own replicas" if name == for_whom else name for name in holders]
    by = f"; {', '.join(holders[:5])} hold the rest and are in use or must stay" if holders else ""
    return (
        f"a replica needs {need_bytes / GIB:.2f} GiB, {max(0, free_bytes) / GIB:.2f} of {budget_bytes / GIB:.2f} GiB "
        f"for replicas are free{by}: stop or scale down one, or set a smaller context_tokens or parallel"
    )
