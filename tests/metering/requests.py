"""Journal records as a gateway would write them."""

from outpace.values.money import Price
from outpace.values.records import Progressed, Reserved, Settled
from outpace.values.usage import Usage

PRICE = Price(input_pusd=1_000, output_pusd=3_000, cached_input_pusd=100)
AT_S = 1_800_000_000.0


def reserved(
    request_id: str,
    reserved_pusd: int = 1_000_000,
    *,
    key_id: str = "key_a",
    slot: int = 3,
    price: Price | None = PRICE,
) -> Reserved:
    return Reserved(
        request_id, AT_S, key_id, slot, "d", "m", "chat", "echo", "d@1", True, reserved_pusd, price, "label"
    )


def marked(request_id: str, completion_tokens: int) -> Progressed:
    return Progressed(request_id, 100, 40, completion_tokens)


def settled(
    request_id: str, completion_tokens: int = 50, *, at_s: float = AT_S + 1, price: Price | None = PRICE
) -> Settled:
    cost_pusd = None if price is None else price.cost_pusd(100, 40, completion_tokens)
    return Settled(
        request_id, at_s, 200, "completed", Usage(100, completion_tokens, 40), cost_pusd, "stop", None, "d@2"
    )
