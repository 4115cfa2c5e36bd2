"""Guesses that `auto` chose go where memory is short; those asked for by name stay, with their bytes."""

import msgspec
import pytest

from outpace.control.guessing import within_room
from outpace.control.parts import Resolved

PLAIN = Resolved(
    engine="openvino",
    model="m",
    engine_model="m",
    owned_by="o",
    precision="q8_0",
    tasks=("chat",),
    variant="v",
)
TUNED = msgspec.structs.replace(
    PLAIN, speculation="ngram", variant="v~ngram", engine_settings={"speculation": "lookup"}
)


def bytes_of(resolved: Resolved) -> int:
    return 200 if resolved.speculation else 100


@pytest.mark.parametrize(("room_bytes", "is_auto"), [(200, True), (199, False)])
def test_guesses_stay_where_they_fit_or_were_asked_for(room_bytes: int, is_auto: bool) -> None:
    found = within_room(PLAIN, TUNED, bytes_of, room_bytes, is_auto=is_auto)
    assert (found.speculation, found.variant, found.replica_bytes) == ("ngram", "v~ngram", 200)


def test_without_memory_for_both_auto_serves_without() -> None:
    found = within_room(PLAIN, TUNED, bytes_of, 199, is_auto=True)
    assert (found.speculation, found.variant, found.replica_bytes) == (None, "v", 100)
    assert found.engine_settings == {}
    assert found.speculation_reason is not None
    assert "memory" in found.speculation_reason
