"""The shipped items, and what is refused in a user's file."""

import json
from collections import Counter
from pathlib import Path

import pytest

from outpace.precision.items import in_order, parse_items, read_items, shipped_items
from outpace.values.errors import InvalidInput


def lines(count: int, **extra: object) -> bytes:
    rows = [
        {"id": f"i{number}", "messages": [{"role": "user", "content": "hello"}], **extra}
        for number in range(count)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_the_shipped_set_covers_every_kind() -> None:
    shipped = shipped_items()
    kinds = Counter(item.kind for item in shipped.items)
    assert len(shipped.items) >= 200
    assert set(kinds) == {"single", "multi", "long", "code", "json", "language"}
    assert min(kinds.values()) >= 20
    assert all(item.schema is not None for item in shipped.items if item.kind == "json")
    assert all(len(item.messages[0].content) > 4_000 for item in shipped.items if item.kind == "long")


def test_no_item_is_asked_twice() -> None:
    asked = Counter(
        tuple((turn.role, turn.content) for turn in item.messages) for item in shipped_items().items
    )
    assert asked.most_common(1)[0][1] == 1


def test_the_order_is_fixed_by_the_content() -> None:
    items = shipped_items().items
    assert in_order(items[::-1], "a") == in_order(items[::-1], "a")
    assert in_order(items, "a") != in_order(items, "b")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "0 items"),
        (lines(3), "3 items"),
        (lines(30, kind="poetry"), "kind"),
        (lines(30, extra=1), "extra"),
        (lines(30) + b"\n{", "line 31"),
        (lines(30) + b"\n" + lines(1), "two items"),
        (b"\xff\xfe" * 40, "line 1"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput, match=said):
        read_items(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


def test_a_good_file_is_taken() -> None:
    assert len(parse_items(lines(30), "mine", {}).items) == 30
