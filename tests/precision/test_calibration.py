"""Calibration texts: the shipped set, and what is refused by which name."""

from pathlib import Path

import pytest

from outpace.precision.calibration import parse_calibration, read_calibration, shipped_calibration
from outpace.precision.items import shipped_items
from outpace.values.errors import InvalidInput

LINE = b'{"text": "some words"}\n'


def test_the_shipped_texts_are_not_those_that_the_gate_asks() -> None:
    asked = {turn.content for item in shipped_items().items for turn in item.messages}
    texts = shipped_calibration().texts
    assert len(texts) >= 40
    assert not asked & set(texts)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b"", "0 texts"),
        (LINE * 7, "7 texts"),
        (LINE * 2_049, "2,049 texts"),
        (LINE * 8 + b'{"text": ""}', "line 9"),
        (LINE * 8 + b'{"txt": "x"}', "line 9"),
        (LINE * 8 + b"\xff", "line 9"),
        (b"\n".join([LINE] * 8) + b"[1]", "line"),
    ],
)
def test_what_is_refused(raw: bytes, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        parse_calibration(raw, "mine")
    assert refused.value.param == "--calibration"


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_calibration(tmp_path / "none")
    large = tmp_path / "large"
    large.touch()
    with large.open("r+b") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(InvalidInput, match="16 MiB"):
        read_calibration(large)
