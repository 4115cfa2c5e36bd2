"""Sizes of replicas: small models get everything, large ones give up sequences first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.fleet.sizing import LARGEST_KV_BYTES, SHORTEST_CONTEXT_TOKENS, replica_size, require_room
from outpace.values.deployment import Replicas, Standby
from outpace.values.errors import InvalidInput
from outpace.values.units import GIB


def test_a_small_model_gets_eight_sequences() -> None:
    assert replica_size(8_192, 23_040, 24 * GIB) == (8, 4_096)


def test_where_an_imported_process_stands_by_half_the_memory_is_cleared() -> None:
    assert replica_size(8_192, 23_040, 24 * GIB, starts_soon=True) == (4, 4_096)


@given(st.integers(1, 1 << 20), st.floats(1, 1e6), st.integers(GIB, 1 << 42))
def test_a_process_that_stands_by_costs_no_context(context: int, kv_bytes: float, memory_bytes: int) -> None:
    usual = replica_size(context, kv_bytes, memory_bytes)
    soon = replica_size(context, kv_bytes, memory_bytes, starts_soon=True)
    assert soon.context_tokens == usual.context_tokens
    assert soon.parallel <= usual.parallel


def test_a_model_of_70_billion_gives_up_sequences_before_context() -> None:
    assert replica_size(131_072, 327_680, 24 * GIB) == (1, 2_048)


@given(st.integers(1, 1 << 20), st.floats(1, 1e6), st.integers(GIB, 1 << 42))
def test_it_fits_or_is_the_smallest(context: int, kv_bytes: float, memory_bytes: int) -> None:
    size = replica_size(context, kv_bytes, memory_bytes)
    assert size.context_tokens <= context
    fits = size.parallel * size.context_tokens * kv_bytes <= LARGEST_KV_BYTES
    assert fits or (size.parallel == 1 and size.context_tokens <= SHORTEST_CONTEXT_TOKENS * 2)


@pytest.mark.parametrize(
    ("replicas", "fits"),
    [
        (Replicas(min=0, standby=3), True),
        (Replicas(min=0, standby=4), False),
        (Replicas(min=2, standby=3), False),
        (Replicas(min=1, max=64), True),
        (Replicas(min=64, max=64), True),
        (Replicas(min=3, standby=Standby(imported=16)), True),
        (Replicas(min=4, standby=Standby(imported=16)), False),
    ],
)
def test_more_standby_than_memory_is_refused_by_name(replicas: Replicas, fits: bool) -> None:
    if fits:
        require_room(replicas, 1.0 * GIB, 4 * GIB)
        return
    with pytest.raises(InvalidInput, match="let fewer stand by") as refused:
        require_room(replicas, 1.0 * GIB, 4 * GIB)
    assert refused.value.param == "replicas.standby"


def test_an_engine_of_two_processes_counts_for_what_both_hold() -> None:
    replicas = Replicas(standby=Standby(imported=10))
    require_room(replicas, 1.0 * GIB, 2 * GIB)
    with pytest.raises(InvalidInput, match="let fewer stand by"):
        require_room(replicas, 1.0 * GIB, 2 * GIB, "openvino")
