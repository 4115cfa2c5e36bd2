"""Pages of keys and values: nobody's page is another's, known beginnings are shared, nothing is lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.openvino_pages import Pages, Seat, Tokens

_PAGE_TOKENS = 4
_NUM_PAGES = 12


def prompt(*tokens: int) -> Tokens:
    return np.array(tokens, dtype=np.int64)


def test_a_known_beginning_is_read_once_but_for_the_last_token() -> None:
    pages = Pages(_NUM_PAGES, _PAGE_TOKENS)
    asked = prompt(*range(8))
    first = pages.take(asked, 10)
    assert first is not None
    assert first.known_tokens == 0
    pages.keep(asked, first)
    again = pages.take(asked, 10)
    longer = pages.take(prompt(*range(9)), 10)
    assert again is not None
    assert longer is not None
    assert (again.known_tokens, longer.known_tokens) == (4, 8)
    assert again.pages[0] == longer.pages[0] == first.pages[0]


def test_the_same_tokens_behind_another_beginning_are_another_beginning() -> None:
    pages = Pages(_NUM_PAGES, _PAGE_TOKENS)
    asked = prompt(1, 1, 1, 1, 2, 2, 2, 2)
    seat = pages.take(asked, 8)
    assert seat is not None
    pages.keep(asked, seat)
    other = pages.take(prompt(2, 2, 2, 2, 9), 5)
    assert other is not None
    assert other.known_tokens == 0


def test_what_one_tenant_read_is_not_known_to_another() -> None:
    pages = Pages(_NUM_PAGES, _PAGE_TOKENS)
    asked = prompt(*range(8))
    seat = pages.take(asked, 8, "a")
    assert seat is not None
    pages.keep(asked, seat, "a")
    known = [taken.known_tokens for tenant in ("b", "", "a") if (taken := pages.take(asked, 8, tenant))]
    assert known == [0, 0, 4]


def test_what_nobody_uses_goes_when_pages_are_short() -> None:
    pages = Pages(2, _PAGE_TOKENS)
    asked = prompt(*range(8))
    seat = pages.take(asked, 8)
    assert seat is not None
    pages.keep(asked, seat)
    assert pages.take(prompt(50), 1) is None
    pages.give_back(seat)
    assert pages.used_fraction == 0.0
    assert pages.take(prompt(50), 8) is not None
    assert pages.used_fraction == 1.0


# Prompts of few different tokens, so that many begin alike; and whether an earlier one ends first.
_ASKED = st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=14), st.integers(0, 8), st.booleans())


@given(st.lists(_ASKED, max_size=30))
def test_pages_are_held_by_one_sequence_or_by_those_that_begin_alike(
    asked: list[tuple[list[int], int, bool]],
) -> None:
    pages = Pages(_NUM_PAGES, _PAGE_TOKENS)
    there: list[tuple[list[int], Seat]] = []
    for tokens, more, ends_one in asked:
        if ends_one and there:
            pages.give_back(there.pop(0)[1])
        seat = pages.take(prompt(*tokens), len(tokens) + more)
        if seat is None:
            continue
        assert len(seat.pages) == -(-(len(tokens) + more) // _PAGE_TOKENS)
        assert seat.known_tokens < len(tokens)
        pages.keep(prompt(*tokens), seat)
        there.append((tokens, seat))
        for other, held in there[:-1]:
            for at, (own, others) in enumerate(zip(seat.pages, held.pages, strict=False)):
                end = (at + 1) * _PAGE_TOKENS
                alike = tokens[:end] == other[:end] and len(tokens) > end
                assert own != others or alike
            assert not {*seat.pages[seat.known_tokens // _PAGE_TOKENS :]} & {*held.pages}
    for _, seat in there:
        pages.give_back(seat)
    assert pages.used_fraction == 0.0
    assert pages.take(prompt(7), _NUM_PAGES * _PAGE_TOKENS) is not None
