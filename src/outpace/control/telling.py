"""What control knows as JSON for the admin door. Pure."""

from typing import Any

import msgspec

from outpace.control.companions import edges, mix_seen, option_of
from outpace.control.parts import Resolved
from outpace.control.reconcile import Reconciler
from outpace.control.scaler import Scaler
from outpace.control.served import Served
from outpace.control.specs import notes_on, price_document, spec_document
from outpace.fleet.cluster import MACHINE_LABEL
from outpace.fleet.pool import Fetching, PoolMachine
from outpace.fleet.replicas import Life
from outpace.fleet.starts import remedy
from outpace.metering.booking import Receipt
from outpace.metering.reports import UsageLine
from outpace.scheduling.autoscale import Pressure
from outpace.scheduling.profiles import best_concurrency, is_disturbed, reachable
from outpace.scheduling.variants import choose
from outpace.values.money import format_usd
from outpace.values.snapshot import DeploymentEntry
from outpace.values.starts import StartBill

STARTS_TOLD = 10
_MB = 10**6


def deployment_document(served: Served, reconciler: Reconciler) -> dict[str, Any]:
    """A wanted deployment and its replicas."""
    spec, entry = served.wanted.spec, reconciler.entry(served)
    return {
        "name": spec.name,
        "model": entry.model,
        "engine": entry.engine,
        "state": entry.state if served.is_external else reconciler.state_of(served),
        "reason": reconciler.problem(served) or _fetching_words(reconciler, spec.name),
        "precision": served.resolved.precision if served.resolved else spec.precision,
        "kv_precision": served.resolved.kv_precision if served.resolved else spec.kv_precision,
        "engine_version": served.resolved.engine_version if served.resolved else None,
        "precision_reason": served.resolved.precision_reason if served.resolved else None,
        "precision_proven": served.resolved.is_proven if served.resolved else None,
        "speculation": served.resolved.speculation if served.resolved else None,
        "speculation_reason": served.resolved.speculation_reason if served.resolved else None,
        "profile": profile_document(served.resolved),
        "variants": [] if served.is_external else variant_documents(served, reconciler),
        "variants_reason": None if served.is_external else variants_reason(served, reconciler),
        "price": price_document(spec.price),
        "context_tokens": entry.context_tokens,
        "tasks": list(entry.tasks),
        "spec": spec_document(spec),
        "notes": notes_on(spec),
        "standby": None if served.is_external else _standby(served, reconciler),
        "starts": [start_document(bill) for bill in reconciler.replicas.history.of(spec.name)[-STARTS_TOLD:]],
        "replicas": _external(entry) if served.is_external else _replicas(reconciler, spec.name),
        "desired": 1 if served.is_external else reconciler.scaler[spec.name].desired,
        "scaling": None if served.is_external else _scaling(reconciler.scaler, spec.name),
        "created_at": served.wanted.created_at,
    }


def profile_document(resolved: Resolved | None) -> dict[str, Any] | None:
    """What was measured of a variant here, or why nothing was; None where there is nothing to measure."""
    if resolved is None or (resolved.profile is None and resolved.profile_reason is None):
        return None
    if resolved.profile is None:
        return {"reason": resolved.profile_reason}
    points = reachable(resolved.profile.points, resolved.parallel)
    document: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(resolved.profile, points=points))
    document["best_concurrency"] = best_concurrency(points)
    document["is_disturbed"] = is_disturbed(resolved.profile)
    return document


def variant_documents(main: Served, reconciler: Reconciler) -> list[dict[str, Any]]:
    """The variants of a deployment, the main one first; `serves` is what the gateway takes at the present load."""
    companion = reconciler.companions.of(main.id)
    known = [main] if companion is None or companion.served.resolved is None else [main, companion.served]
    serves = _serves(known, reconciler)
    return [_variant(each, reconciler, serves == each.id) for each in known if each.resolved is not None]


def variants_reason(main: Served, reconciler: Reconciler) -> str | None:
    """From which load on the second variant serves, or why there is none."""
    companion = reconciler.companions.of(main.id)
    if main.resolved is None or companion is None:
        return None
    second = companion.served.resolved
    if second is None:
        return f"one variant: {main.resolved.no_companion}" if main.resolved.no_companion else None
    if main.resolved.profile is None or second.profile is None:
        missing = main.resolved if main.resolved.profile is None else second
        return f"{missing.engine} is to be measured first: {missing.profile_reason}"
    pressure = _pressure(main, reconciler)
    found = edges(main, companion.served, max(1, len(reconciler.replicas.of(main.id))), pressure)
    if found is None:
        return f"{second.engine} is not faster at any load that was measured"
    users = f"{found.up} users" if found.up > 1 else "1 user"
    read = mix_seen(pressure).read_per_output
    now = pressure.waiting + pressure.running
    return f"{second.engine} from {users} on, at {read:.1f} prompt tokens per output token; {now} now"


def _serves(known: list[Served], reconciler: Reconciler) -> str | None:
    counts = {each.id: reconciler.num_ready(each) for each in known}
    options = [option_of(each, counts[each.id]) for each in known if counts[each.id]]
    if len(options) == 1:
        return options[0].id
    pressure = _pressure(known[0], reconciler)
    users = max(1, pressure.waiting + pressure.running)
    return choose(options, users, None, mix_seen(pressure))


def _pressure(main: Served, reconciler: Reconciler) -> Pressure:
    return reconciler.scaler.pressure(main.id, reconciler.now_s())


def _variant(served: Served, reconciler: Reconciler, serves: bool) -> dict[str, Any]:
    resolved, companion = served.require_resolved(), reconciler.companions.of(served.wanted.spec.name)
    is_second = companion is not None and served is companion.served
    return {
        "engine": resolved.engine,
        "engine_version": resolved.engine_version,
        "precision": resolved.precision,
        "kv_precision": resolved.kv_precision,
        "precision_proven": resolved.is_proven,
        "state": reconciler.state_of(served),
        "desired": reconciler.desired(served),
        "serves": serves,
        "reason": served.reason or (companion.reason if companion and is_second else None) or None,
        "profile": profile_document(resolved),
        "replicas": _replicas(reconciler, served.id),
    }


def stopping_document(name: str, reconciler: Reconciler) -> dict[str, Any]:
    """A deployment that is not wanted any more and whose last requests are ending."""
    lives = reconciler.lives_of(name)
    facts = reconciler.replicas.facts(lives[0].digest) if lives else None
    return {
        "name": name,
        "model": facts.model if facts else name,
        "engine": facts.engine if facts else None,
        "state": "stopped",
        "reason": "its last requests are ending",
        "precision": None,
        "kv_precision": None,
        "price": price_document(facts.price) if facts else None,
        "context_tokens": facts.context_tokens if facts else None,
        "tasks": list(facts.tasks) if facts else [],
        "spec": None,
        "notes": [],
        "starts": [],
        "replicas": [_replica(life, is_idle=False) for life in lives],
        "desired": 0,
        "created_at": facts.created if facts else None,
    }


def usage_document(line: UsageLine, key_name: str | None) -> dict[str, Any]:
    """One line of usage; every unit once by name, and all of them in `units`."""
    named = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens")
    return {
        "key_id": line.key_id,
        "key_name": key_name,
        "model": line.model,
        **{unit: line.units.get(unit, 0) for unit in named},
        "units": line.units,
        "unpriced_requests": line.unpriced_requests,
        "cost_usd": format_usd(line.cost_pusd),
    }


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """A receipt with its fields by name, and money in USD beside the exact integers."""
    fields: dict[str, Any] = msgspec.to_builtins(receipt)
    fields["at_s"] = receipt.reserved_at_s or receipt.settled_at_s
    fields["reserved_usd"] = format_usd(receipt.reserved_pusd)
    fields["cost_usd"] = None if receipt.cost_pusd is None else format_usd(receipt.cost_pusd)
    if receipt.serving is not None:
        # A journal leaves defaults out; on a receipt a forced format and a proven one are told alike.
        fields["serving"]["is_proven"] = receipt.serving.is_proven
    return fields


def _replicas(reconciler: Reconciler, name: str) -> list[dict[str, Any]]:
    return [_told_replica(reconciler, life) for life in reconciler.replicas.of(name)]


def _told_replica(reconciler: Reconciler, life: Life) -> dict[str, Any]:
    fetching = reconciler.replicas.fetching(life.id)
    document = _replica(life, reconciler.is_idle(life.id))
    return document if fetching is None else {**document, "reason": _fetched_words(fetching)}


def _fetching_words(reconciler: Reconciler, name: str) -> str | None:
    """How far weights are on their way to a machine of this deployment; None when none are."""
    seen = (reconciler.replicas.fetching(life.id) for life in reconciler.replicas.of(name))
    return next((_fetched_words(fetching) for fetching in seen if fetching is not None), None)


def _fetched_words(fetching: Fetching) -> str:
    if not fetching.total_bytes:
        return "the machine is to be sent the weights"
    share = fetching.done_bytes / fetching.total_bytes
    return f"sending the weights to the machine: {100 * share:.0f} % of {fetching.total_bytes / _MB:.0f} MB"


def _standby(served: Served, reconciler: Reconciler) -> dict[str, Any]:
    """What is wanted to stand by, and what does now; imported ones serve every deployment of their engine."""
    idle = [life for life in reconciler.replicas.of(served.wanted.spec.name) if reconciler.is_idle(life.id)]
    return {
        "wanted": msgspec.to_builtins(served.wanted.spec.replicas.stands_by),
        "loaded": len(idle),
        "imported": reconciler.num_imported(served),
        "cached": _cached(served, reconciler),
    }


def _cached(served: Served, reconciler: Reconciler) -> float | None:
    """The share of the weights that was in memory at the last look; None where nobody looks."""
    path = served.resolved.artifact_path if served.resolved else None
    seen = reconciler.warmth.seen.get(path or "")
    return None if seen is None or not seen.file_bytes else seen.resident_bytes / seen.file_bytes


def start_document(bill: StartBill) -> dict[str, Any]:
    """What one start cost, and what helps against its slowest phase."""
    return {
        "replica": bill.replica,
        "at": bill.at,
        "started_from": bill.started_from,
        "total_s": round(bill.total_s, 4),
        "phases_s": {phase: round(took_s, 4) for phase, took_s in bill.phases.items()},
        "slowest": bill.slowest,
        "remedy": remedy(bill.slowest),
    }


def _scaling(scaler: Scaler, name: str) -> dict[str, Any]:
    """Who sets the count, within which bounds, why it is what it is, and what callers got."""
    scaled, attained = scaler[name], scaler.attained(name)
    return {
        "by": "load" if scaled.pinned is None else "hand",
        "min": scaled.bounds.least,
        "max": scaled.bounds.most,
        "reason": scaled.reason,
        "changed_at": scaled.changed_at,
        "objective_attained": None if attained is None else round(attained[0], 4),
        "objective_answers": 0 if attained is None else attained[1],
        "starts_last_hour": len(scaled.history.starts_s),
    }


def _replica(life: Life, is_idle: bool) -> dict[str, Any]:
    return {
        "id": life.id,
        # Loaded, and no traffic comes to it.
        "state": "standby" if is_idle else life.state,
        "pid": life.pid if life.is_running else None,
        "machine": life.machine or None,
        "reason": life.reason,
        "load_s": None if life.load_s is None else round(life.load_s, 3),
        "restarts": life.restarts,
        "started_at": life.started_at,
    }


def _external(entry: DeploymentEntry) -> list[dict[str, Any]]:
    """The API itself, told like a replica."""
    return [
        {
            "id": f"{entry.name}@1",
            "state": "ready" if entry.state == "ready" else "failed",
            "pid": None,
            "reason": entry.reason,
            "load_s": None,
            "restarts": 0,
            "started_at": entry.created,
        }
    ]


def machine_document(machine: PoolMachine) -> dict[str, Any]:
    """A machine of a pool that has several; its own names of amounts are the cluster's."""
    return {
        "id": machine.name,
        "address": machine.address,
        "state": "gone" if not machine.is_alive else "refused" if machine.problem else "ready",
        "reason": machine.problem,
        "resources": {name: _amount(machine, name) for name in machine.resources if ":" not in name},
        "labels": {name: value for name, value in machine.labels.items() if name != MACHINE_LABEL},
    }


def _amount(machine: PoolMachine, name: str) -> dict[str, float]:
    return {"total": machine.resources[name], "free": machine.free.get(name, 0.0)}
