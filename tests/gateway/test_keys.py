"""Who may come in: every malformed credential is a 401, and guessing slows down."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.gateway.keys import Keys, presented_key
from outpace.values.clock import ManualClock
from outpace.values.errors import InvalidKey, ModelNotAllowed, RateLimited
from outpace.values.snapshot import KeyEntry, Snapshot

SECRET = b"op-test-secret"


def snapshot_with(secret: bytes = SECRET, **changes: object) -> Snapshot:
    fields: dict[str, object] = {"id": "key-1", "name": "n", "slot": 0, "scopes": ("inference",)}
    key = KeyEntry(**(fields | changes))  # type: ignore[arg-type]  # a test table of fields
    return Snapshot(version=1, written_at=0.0, keys={hashlib.sha256(secret).hexdigest(): key})


def bearer(secret: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + secret)]


def test_a_right_key_is_found_under_all_its_headers() -> None:
    keys = Keys(ManualClock())
    assert keys.authenticate(snapshot_with(), bearer(SECRET), "a").id == "key-1"
    assert keys.authenticate(snapshot_with(), [(b"x-api-key", SECRET)], "a").id == "key-1"
    assert keys.authenticate(snapshot_with(), [(b"api-key", SECRET)], "a").id == "key-1"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic " + SECRET)],
        [(b"authorization", SECRET)],
        bearer(SECRET) * 2,
        [*bearer(SECRET), (b"x-api-key", SECRET)],
        bearer(SECRET + b"x"),
        bearer(b"' OR 1=1 --"),
        bearer(b"%s%n{0}"),
        bearer(b"x" * 1_000_000),
    ],
)
def test_anything_else_is_a_401(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidKey):
        Keys(ManualClock()).authenticate(snapshot_with(), headers, "a")


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"cookie"]), st.binary(max_size=64)))
)
def test_arbitrary_headers_never_break_the_parser(headers: list[tuple[bytes, bytes]]) -> None:
    found = presented_key(headers)
    assert found is None or 0 < len(found) <= 512


def test_an_expired_key_is_a_401_and_a_jump_back_does_not_revive_it_early() -> None:
    clock = ManualClock()
    snapshot = snapshot_with(expires_at=clock.wall_s() + 10)
    keys = Keys(clock)
    keys.authenticate(snapshot, bearer(SECRET), "a")
    clock.advance(10)
    with pytest.raises(InvalidKey):
        keys.authenticate(snapshot, bearer(SECRET), "a")


def test_an_admin_key_does_not_call_models() -> None:
    with pytest.raises(ModelNotAllowed):
        Keys(ManualClock()).authenticate(snapshot_with(scopes=("admin",)), bearer(SECRET), "a")


def test_guessing_is_slowed_down_by_address_and_locks_nobody_out() -> None:
    clock = ManualClock()
    keys = Keys(clock)
    refusals = []
    for _ in range(100):
        with pytest.raises((InvalidKey, RateLimited)) as caught:
            keys.authenticate(snapshot_with(), bearer(b"wrong"), "bad")
        refusals.append(caught.type)
    assert refusals[:40] == [InvalidKey] * 40
    assert set(refusals[41:]) == {RateLimited}
    assert keys.authenticate(snapshot_with(), bearer(SECRET), "bad").id == "key-1"
    with pytest.raises(InvalidKey):
        keys.authenticate(snapshot_with(), bearer(b"wrong"), "another")
    clock.advance(5)
    with pytest.raises(InvalidKey):
        keys.authenticate(snapshot_with(), bearer(b"wrong"), "bad")
