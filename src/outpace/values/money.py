"""Money as whole pico-dollars (`_pusd`, 1e-12 USD): $0.001 per million tokens is 1,000 pUSD a token."""

from decimal import Decimal, InvalidOperation

import msgspec

from outpace.values.errors import InvalidInput

PUSD_PER_USD = 10**12
TOKENS_PER_MTOK = 10**6
# A signed 64-bit column holds 9.2 million USD; sums above that are made in Python.
MAX_USD = Decimal(1_000_000)


def parse_usd(text: str, name: str) -> int:
    """Whole pico-dollars of a decimal amount such as `12.50`. Raises InvalidInput naming `name`."""
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        raise InvalidInput(name, f"{text!r} is not an amount in USD, such as 12.50") from None
    if not amount.is_finite() or amount < 0 or amount > MAX_USD:
        raise InvalidInput(name, f"must be between 0 and {MAX_USD:,} USD")
    pusd = amount * PUSD_PER_USD
    if pusd != pusd.to_integral_value():
        raise InvalidInput(name, "has more than 12 decimals; the smallest amount is 1e-12 USD")
    return int(pusd)


def parse_usd_per_mtok(text: str, name: str) -> int:
    """Pico-dollars per token of a price per million tokens; at most 6 decimals, so that it stays exact."""
    pusd_per_mtok = parse_usd(text, name)
    if pusd_per_mtok % TOKENS_PER_MTOK:
        raise InvalidInput(name, "a price per million tokens has at most 6 decimals")
    return pusd_per_mtok // TOKENS_PER_MTOK


def format_usd(pusd: int) -> str:
    """The exact amount as a decimal without trailing zeros, never in scientific notation."""
    sign = "-" if pusd < 0 else ""
    whole, fraction = divmod(abs(pusd), PUSD_PER_USD)
    return f"{sign}{whole}.{fraction:012d}".rstrip("0").rstrip(".")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one deployment charges: pico-dollars per token, and per request."""

    input_pusd: int
    output_pusd: int
    cached_input_pusd: int
    request_pusd: int = 0

    def cost_pusd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """Exact price of one request; `cached_tokens` are part of `prompt_tokens`."""
        fresh_tokens = prompt_tokens - cached_tokens
        return (
            self.request_pusd
            + fresh_tokens * self.input_pusd
            + cached_tokens * self.cached_input_pusd
            + completion_tokens * self.output_pusd
        )


FREE = Price(input_pusd=0, output_pusd=0, cached_input_pusd=0)


def parse_price(fields: dict[str, object]) -> Price:
    """A price from a deployment file or a model card. Raises InvalidInput for unknown or wrong fields."""
    known = {"input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok", "usd_per_request"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InvalidInput(f"price.{unknown[0]}", f"is not known; a price has {', '.join(sorted(known))}")
    for required in ("input_usd_per_mtok", "output_usd_per_mtok"):
        if required not in fields:
            raise InvalidInput(f"price.{required}", "is missing; write 0 if it is meant to be free")
    input_pusd = parse_usd_per_mtok(str(fields["input_usd_per_mtok"]), "price.input_usd_per_mtok")
    cached = fields.get("cached_input_usd_per_mtok")
    return Price(
        input_pusd=input_pusd,
        output_pusd=parse_usd_per_mtok(str(fields["output_usd_per_mtok"]), "price.output_usd_per_mtok"),
        cached_input_pusd=input_pusd
        if cached is None
        else parse_usd_per_mtok(str(cached), "price.cached_input_usd_per_mtok"),
        request_pusd=parse_usd(str(fields.get("usd_per_request", 0)), "price.usd_per_request"),
    )
