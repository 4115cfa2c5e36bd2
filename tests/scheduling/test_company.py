"""Whether a request that begins alone stays alone, by those before it."""

from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.company import Company
from outpace.scheduling.tickets import Ticket


def lone(company: Company, most: int) -> None:
    """One that begins alone; so many are served at once before it ends."""
    ticket = Ticket("k", arrived_s=0.0, deadline_s=60.0)
    company.began(ticket)
    for users in range(1, most + 1):
        company.seen(users)
    company.ended(Ticket("k", arrived_s=0.0, deadline_s=60.0))
    company.ended(ticket)


def test_one_alone_says_nothing_yet() -> None:
    company = Company()
    assert company.expected() == 1
    lone(company, 32)
    assert company.expected() == 1
    lone(company, 32)
    assert company.expected() == 32


def test_the_others_of_a_burst_that_outlive_its_first_are_not_counted_for_the_next() -> None:
    company = Company()
    for _ in range(2):
        lone(company, 1)
        company.seen(16)
    assert company.expected() == 1


@given(st.lists(st.integers(1, 64), min_size=3, max_size=30))
def test_two_of_the_last_three_had_as_many(counts: list[int]) -> None:
    company = Company()
    for most in counts:
        lone(company, most)
    assert company.expected() == sorted(counts[-3:])[1]
