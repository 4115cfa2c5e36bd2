"""Money is exact: what goes in as a decimal comes out as the same decimal, and costs are sums of whole pUSD."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.values.errors import InvalidInput
from outpace.values.money import (
    MAX_USD,
    PUSD_PER_USD,
    Price,
    format_usd,
    parse_price,
    parse_usd,
    parse_usd_per_mtok,
)

_amounts_pusd = st.integers(0, int(MAX_USD) * PUSD_PER_USD)
_prices_pusd = st.integers(0, 10**9)
_tokens = st.integers(0, 10**7)


@settings(deadline=None)
@given(_amounts_pusd)
def test_an_amount_survives_writing_and_reading(pusd: int) -> None:
    text = format_usd(pusd)
    assert parse_usd(text, "budget") == pusd
    assert Decimal(text) * PUSD_PER_USD == pusd
    assert "e" not in text.lower()


@settings(deadline=None)
@given(_amounts_pusd)
def test_a_negative_amount_is_written_with_its_sign(pusd: int) -> None:
    assert Decimal(format_usd(-pusd)) == -Decimal(format_usd(pusd))


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "nan", "inf", "1000001", "1e7", "0.0000000000001", "1,5", "0x10", "-0.01"]
)
def test_what_is_no_amount_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^budget: ") as caught:
        parse_usd(text, "budget")
    assert caught.value.param == "budget"


def test_the_smallest_price_is_exact_and_a_finer_one_refused() -> None:
    assert parse_usd_per_mtok("0.001", "price") == 1_000
    assert parse_usd_per_mtok("0.000001", "price") == 1
    with pytest.raises(InvalidInput, match="at most 6 decimals"):
        parse_usd_per_mtok("0.0000001", "price")


@settings(deadline=None)
@given(_prices_pusd, _prices_pusd, _prices_pusd, _prices_pusd, _tokens, _tokens, _tokens)
def test_a_cost_is_the_sum_of_its_units(
    fresh_pusd: int,
    output_pusd: int,
    cached_pusd: int,
    request_pusd: int,
    fresh: int,
    cached: int,
    output: int,
) -> None:
    price = Price(fresh_pusd, output_pusd, cached_pusd, request_pusd)
    cost_pusd = price.cost_pusd(fresh + cached, cached, output)
    assert cost_pusd == request_pusd + fresh * fresh_pusd + cached * cached_pusd + output * output_pusd
    # Progress never makes a request cheaper: a recovered request is charged at most its full cost.
    assert price.cost_pusd(fresh + cached, cached, output // 2) <= cost_pusd


@settings(deadline=None)
@given(_prices_pusd, _prices_pusd, _prices_pusd, _amounts_pusd)
def test_a_price_is_read_as_written(
    input_pusd: int, output_pusd: int, cached_pusd: int, request_pusd: int
) -> None:
    fields: dict[str, object] = {
        "input_usd_per_mtok": format_usd(input_pusd * 10**6),
        "output_usd_per_mtok": format_usd(output_pusd * 10**6),
        "cached_input_usd_per_mtok": format_usd(cached_pusd * 10**6),
        "usd_per_request": format_usd(request_pusd),
    }
    assert parse_price(fields) == Price(input_pusd, output_pusd, cached_pusd, request_pusd)


def test_cached_input_costs_like_input_unless_said_otherwise() -> None:
    assert parse_price({"input_usd_per_mtok": 2, "output_usd_per_mtok": 0.5}) == Price(
        2 * 10**6, 500_000, 2 * 10**6
    )


def test_a_missing_or_unknown_price_field_is_refused_never_free() -> None:
    with pytest.raises(InvalidInput, match=r"price.output_usd_per_mtok: is missing"):
        parse_price({"input_usd_per_mtok": "1"})
    with pytest.raises(InvalidInput, match=r"price.input: is not known"):
        parse_price({"input": "1", "output_usd_per_mtok": "1", "input_usd_per_mtok": "1"})
