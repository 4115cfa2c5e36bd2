"""What is loaded beside the steps: in order, taken once, and never missed in silence."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from outpace.engines.openvino_later import Later


def test_things_come_in_their_order_or_the_wanted_one_first() -> None:
    order: list[str] = []

    def loads() -> dict[str, Callable[[], Any]]:
        return {name: partial(order.append, name) for name in "ab"}

    Later(loads()).wait()
    later = Later(loads())
    later.begin(first="b")
    later.begin(first="a")
    later.wait()
    assert order == ["a", "b", "b", "a"]


def test_what_is_there_can_be_taken_once_while_the_rest_is_loaded() -> None:
    goes_on = threading.Event()
    is_there = threading.Event()

    def second() -> str:
        is_there.set()
        assert goes_on.wait(10.0)
        return "two"

    later = Later({"one": lambda: "one", "two": second})
    assert later.take("one") is None
    later.begin()
    assert is_there.wait(10.0)
    assert (later.take("one"), later.take("one"), later.take("two")) == ("one", None, None)
    assert not later.is_done
    goes_on.set()
    later.wait()
    assert not later.is_done
    assert later.take("two") == "two"
    assert later.is_done


def test_a_failure_is_told_at_the_next_look() -> None:
    def fails() -> None:
        raise RuntimeError("no memory")

    later = Later({"one": lambda: "one", "two": fails, "three": lambda: "three"})
    later.wait()
    with pytest.raises(RuntimeError, match="no memory"):
        later.take("one")
