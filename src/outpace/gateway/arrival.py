"""A request on its arrival: what is known of it, its ticket, and what its receipt will say of who served it."""

import msgspec

from outpace.gateway.admit import expected_tokens
from outpace.gateway.asked import Asked
from outpace.gateway.prefix import prefix_of
from outpace.metering import RateState
from outpace.scheduling.queue import ReplicaQueue
from outpace.scheduling.tickets import Ticket
from outpace.values.records import Serving
from outpace.values.requests import EngineBound, num_choices
from outpace.values.snapshot import DeploymentEntry, KeyEntry, ReplicaEntry, VariantEntry


class Arrival(msgspec.Struct):
    """What is known of a request before it is admitted."""

    request_id: str
    at_s: float
    key_id: str | None = None
    model: str | None = None
    rate: RateState | None = None
    # Tokens taken from the key's limit per minute; what was not used is given back.
    taken_tokens: int = 0
    # It has a journal record of its own, so a failure is not counted as a refusal as well.
    is_metered: bool = False


def new_ticket(
    key: KeyEntry,
    deployment: DeploymentEntry,
    request: EngineBound,
    arrival: Arrival,
    asked: Asked,
    raw_bytes: int,
    queue: ReplicaQueue,
) -> Ticket:
    """The request as the scheduler sees it."""
    prompt_tokens, output_tokens = expected_tokens(request, raw_bytes)
    if output_tokens and not getattr(request, "ignore_eos", None):
        usual_tokens = queue.mean_output_tokens * max(1, num_choices(request))
        output_tokens = min(output_tokens, int(usual_tokens))
    allowed_s = deployment.timeout_s if asked.deadline_s is None else asked.deadline_s
    return Ticket(
        key.id,
        arrived_s=arrival.at_s,
        deadline_s=arrival.at_s + allowed_s,
        priority=asked.priority,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        affinity=prefix_of(request, key.id, asked.session) if queue.num_replicas > 1 else None,
        tells_first_token=bool(getattr(request, "stream", False)),
    )


def serving_of(deployment: DeploymentEntry, replica: ReplicaEntry) -> Serving | None:
    """What a replica serves, for the receipt; None where the snapshot does not say."""
    variant = next((entry for entry in deployment.variants if entry.id == replica.variant), None)
    if variant is None:
        return None
    return Serving(
        variant=variant.id,
        engine_version=variant.engine_version,
        precision=variant.precision,
        kv_precision=variant.kv_precision,
        is_proven=variant.is_proven,
        speculation=_launched_speculation(variant),
    )


def served(
    serving: Serving | None, ticket: Ticket, moves: int, *, speculates: bool, method: str | None
) -> Serving | None:
    """What served a request, and what befell it: how it waited, where it moved, whether tokens were guessed."""
    if ticket.priority == "interactive" and not (ticket.held_s or moves or speculates):
        return serving
    serving = serving or Serving()
    return msgspec.structs.replace(
        serving,
        speculation=method if speculates else serving.speculation,
        priority=ticket.priority,
        held_s=round(ticket.held_s, 6),
        moves=moves,
    )


def guessed_with(facts: DeploymentEntry | None, variant_id: str) -> str | None:
    """The method of speculation that a variant decides per request."""
    variants = facts.variants if facts is not None else ()
    bands = [band for each in variants if each.id == variant_id for band in each.speculation]
    return bands[0].method if bands else None


def _launched_speculation(variant: VariantEntry) -> str | None:
    """What the replica was launched with, where that is not decided per request."""
    method = str(variant.engine_settings.get("speculation", "off"))
    return None if variant.speculation or method in ("off", "none") else method
