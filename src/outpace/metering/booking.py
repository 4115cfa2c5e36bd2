"""From journal records to what the ledger books. Pure: any order and any split of the records gives the same."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from outpace.values.money import Price
from outpace.values.records import LoadSeen, Progressed, Record, Refused, Reserved, Serving, Settled
from outpace.values.usage import Usage

# Year 9999; a wall clock beyond it is wrong, and the usage still counts.
_LAST_DAY_S = 253_402_300_799.0
# Spending of requests whose Reserved record was damaged belongs to no row of the counters.
_NO_SLOT = -1
RECOVERED_CODE = "worker_died"


class OpenRequest(msgspec.Struct):
    """What is known of one request so far."""

    request_id: str
    boot_id: str
    reserved: Reserved | None = None
    marked: Progressed | None = None
    settled: Settled | None = None

    @property
    def is_complete(self) -> bool:
        """Whether a receipt can be written."""
        return self.reserved is not None and self.settled is not None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one request: the fields of its Reserved and Settled records."""

    request_id: str
    boot_id: str
    # None when the Reserved record was damaged: then key and model are empty too.
    reserved_at_s: float | None
    settled_at_s: float
    key_id: str
    slot: int | None
    deployment: str
    model: str
    endpoint: str
    engine: str
    replica: str | None
    stream: bool
    reserved_pusd: int
    price: Price | None
    client_request_id: str | None
    status: int
    outcome: str
    usage: Usage
    cost_pusd: int | None
    finish_reason: str | None
    error_code: str | None
    queue_s: float | None
    ttft_s: float | None
    duration_s: float
    attempts: int
    num_choices: int
    # None for receipts of versions that did not record it.
    serving: Serving | None = None


class UsageKey(msgspec.Struct, frozen=True):
    """One line of usage per unit."""

    day: str
    key_id: str
    model: str
    deployment: str
    unit: str


class RefusalKey(msgspec.Struct, frozen=True):
    """One line of refusals."""

    day: str
    key_id: str
    status: int
    code: str


class SpendKey(msgspec.Struct, frozen=True):
    """One line of spending."""

    boot_id: str
    key_id: str
    slot: int


class Batch(msgspec.Struct):
    """Records of one journal, sorted by what is to be done with them."""

    requests: dict[str, OpenRequest] = {}
    refusals: Counter[RefusalKey] = msgspec.field(default_factory=Counter)
    load: LoadSeen | None = None


def sort_records(boot_id: str, items: Iterable[Record]) -> Batch:
    """Put the records of one journal in order by request."""
    batch = Batch()
    for record in items:
        if isinstance(record, Refused):
            key = RefusalKey(utc_day(record.at_s), record.key_id or "", record.status, record.code or "")
            batch.refusals[key] += record.count
        elif isinstance(record, LoadSeen):
            batch.load = record
        else:
            request = batch.requests.get(record.request_id)
            if request is None:
                request = batch.requests[record.request_id] = OpenRequest(record.request_id, boot_id)
            add_record(request, record)
    return batch


def add_record(request: OpenRequest, record: Reserved | Progressed | Settled) -> None:
    """Add one record; the first Reserved and Settled count, and of marks the furthest."""
    if isinstance(record, Reserved):
        request.reserved = request.reserved or record
    elif isinstance(record, Settled):
        request.settled = request.settled or record
    else:
        request.marked = _furthest(request.marked, record)


def _furthest(one: Progressed | None, other: Progressed) -> Progressed:
    if one is None:
        return other
    return Progressed(
        one.request_id,
        max(one.prompt_tokens, other.prompt_tokens),
        max(one.cached_tokens, other.cached_tokens),
        max(one.completion_tokens, other.completion_tokens),
    )


def merge(request: OpenRequest, other: OpenRequest) -> None:
    """Add all that `other` knows of the same request."""
    for record in (other.reserved, other.marked, other.settled):
        if record is not None:
            add_record(request, record)


def recovered(request: OpenRequest, now_s: float) -> Settled:
    """The end of a request whose worker died: charged at its last mark, nothing without one."""
    marked, price = request.marked, request.reserved.price if request.reserved else None
    usage = Usage()
    if marked is not None:
        usage = Usage(marked.prompt_tokens, marked.completion_tokens, marked.cached_tokens)
    cost_pusd = None if price is None else 0
    if marked is not None and price is not None:
        cost_pusd = price.cost_pusd(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    return Settled(
        request_id=request.request_id,
        at_s=now_s,
        # 0: no status was sent.
        status=0 if marked is None else 200,
        outcome="recovered",
        usage=usage,
        cost_pusd=cost_pusd,
        error_code=RECOVERED_CODE,
    )


def receipt_of(request: OpenRequest, settled: Settled) -> Receipt:
    """The receipt of a request that ended."""
    reserved = request.reserved
    return Receipt(
        request_id=request.request_id,
        boot_id=request.boot_id,
        reserved_at_s=reserved.at_s if reserved else None,
        settled_at_s=settled.at_s,
        key_id=reserved.key_id if reserved else "",
        slot=reserved.slot if reserved else None,
        deployment=reserved.deployment if reserved else "",
        model=reserved.model if reserved else "",
        endpoint=reserved.endpoint if reserved else "",
        engine=reserved.engine if reserved else "",
        replica=settled.replica or (reserved.replica if reserved else None),
        stream=reserved.stream if reserved else False,
        reserved_pusd=reserved.reserved_pusd if reserved else 0,
        price=reserved.price if reserved else None,
        client_request_id=reserved.client_request_id if reserved else None,
        status=settled.status,
        outcome=settled.outcome,
        usage=settled.usage,
        cost_pusd=settled.cost_pusd,
        finish_reason=settled.finish_reason,
        error_code=settled.error_code,
        queue_s=settled.queue_s,
        ttft_s=settled.ttft_s,
        duration_s=settled.duration_s,
        attempts=settled.attempts,
        num_choices=settled.num_choices,
        serving=settled.serving,
    )


def units_of(receipts: Iterable[Receipt]) -> Counter[UsageKey]:
    """Quantities to add to the usage, by day, key, model, deployment and unit."""
    total: Counter[UsageKey] = Counter()
    for receipt in receipts:
        day = utc_day(receipt.settled_at_s)
        for unit, quantity in _quantities(receipt):
            if quantity:
                total[UsageKey(day, receipt.key_id, receipt.model, receipt.deployment, unit)] += quantity
    return total


def spend_of(receipts: Iterable[Receipt]) -> Counter[SpendKey]:
    """Pico-dollars to add to the spending, by worker's life, key and slot."""
    total: Counter[SpendKey] = Counter()
    for receipt in receipts:
        slot = _NO_SLOT if receipt.slot is None else receipt.slot
        total[SpendKey(receipt.boot_id, receipt.key_id, slot)] += receipt.cost_pusd or 0
    return total


def _quantities(receipt: Receipt) -> tuple[tuple[str, int], ...]:
    usage = receipt.usage
    return (
        ("requests", 1),
        ("unpriced_requests", int(receipt.cost_pusd is None)),
        ("prompt_tokens", usage.prompt_tokens),
        ("completion_tokens", usage.completion_tokens),
        ("cached_tokens", usage.cached_tokens),
        ("reasoning_tokens", usage.reasoning_tokens),
        ("drafted_tokens", usage.drafted_tokens),
        ("accepted_tokens", usage.accepted_tokens),
        ("cost_pusd", receipt.cost_pusd or 0),
    )


def utc_day(at_s: float) -> str:
    """The UTC day of a wall-clock instant, `YYYY-MM-DD`; a broken clock gives the first or last day there is."""
    return datetime.fromtimestamp(min(max(at_s, 0.0), _LAST_DAY_S), UTC).date().isoformat()
