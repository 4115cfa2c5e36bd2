"""`outpace bench planner` on what is stored, and its refusals."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from outpace.cli.app import app_for
from outpace.values.errors import InvalidInput


def run(*words: str) -> Result:
    return CliRunner().invoke(app_for(["bench"]), ["bench", "planner", *words])


def test_every_number_has_a_goal_and_says_whether_it_is_met() -> None:
    document = json.loads(run("--json").output)
    names = {number["name"] for number in document["numbers"]}
    assert {
        "throughput, median error",
        "throughput, mean error",
        "itl mean, median error",
        "itl mean, mean error",
        "ttft below saturation, median error",
        "80 % interval holds throughput",
        "faster device by throughput",
        "a plan over every device and format",
        "predictions of 2,000 cases",
    } <= names
    left_out = {number["left_out"] for number in document["numbers"]}
    assert {"setup", "device", "model", "engine version", "device family"} <= left_out
    assert all(number["goal"] and number["met"] in (True, False) for number in document["numbers"])
    compared = {(one["name"], one["siblings"]) for one in document["scatter"]}
    assert ("itl mean", "the same run on other versions") in compared
    assert ("throughput", "the same run again") in compared
    repeats = [one for one in document["scatter"] if one["siblings"] == "the same run again"]
    assert all(one["rows"] and one["median"] < one["own_median"] for one in repeats)
    assert document["not_used"]["the same run published again"] > 1000
    assert document["not_used"]["marked SUSPECT in the source list"] == 44


@pytest.mark.parametrize("words", [("--write", "x"), ("--again", "--ground-truth", "/none")])
def test_what_cannot_be_done_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert isinstance(run(*words).exception, InvalidInput)
