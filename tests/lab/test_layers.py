"""What a story says, from made-up runs; the page is well formed. No engine runs here."""

import xml.etree.ElementTree as ET

import msgspec
import pytest

from outpace.lab.compare import Run
from outpace.lab.figures import Sample, summed
from outpace.lab.layers import CONTINUOUS, ENGINE, NAIVE, PREFIX, SPECULATION, Story, factors
from outpace.lab.layers_report import story_html


def run(side: str, workload: str, users: int, *rates: float) -> Run:
    """A round for each rate."""
    rounds = (
        summed([Sample(began_s=0.0, first_s=0.1, ended_s=10.0, output_tokens=round(10 * rate))], 10.0)
        for rate in rates
    )
    return Run(side=side, workload=workload, users=users, rounds=tuple(rounds))


def story(skipped: dict[str, str] | None = None) -> Story:
    runs = [
        run(ENGINE, "chat", 8, 40.0),
        # The slow sides at the begin have one round, whatever is asked for.
        run("static", "chat", 8, 50.0, 60.0),
        run(CONTINUOUS, "chat", 8, 100.0, 120.0),
        run(CONTINUOUS, "code", 8, 100.0),
        run(SPECULATION, "code", 8, 150.0),
        run(CONTINUOUS, "multi-turn", 8, 80.0),
        run(PREFIX, "multi-turn", 8, 120.0),
    ]
    if not skipped:
        runs.insert(0, run(NAIVE, "chat", 8, 10.0))
    return Story(
        model="a <model>",
        served_precision="q4_mix",
        machine="here",
        engine_version="1",
        measured_at=0.0,
        loads=(8,),
        rounds=1,
        runs=tuple(runs),
        skipped=skipped or {},
    )


def test_each_layer_is_compared_with_the_one_before_on_its_own_workload() -> None:
    made = {factor.layer: factor for factor in factors(story())}
    assert made[ENGINE].over_before == pytest.approx(4.0)
    assert made[CONTINUOUS].over_before == pytest.approx(2.0)
    assert made[CONTINUOUS].over_first == pytest.approx(10.0)
    assert made[SPECULATION].over_before == pytest.approx(1.5)
    assert made[PREFIX].over_before == pytest.approx(1.5)
    # Naive serving was not asked these questions.
    assert made[SPECULATION].over_first is None


def test_a_layer_with_other_rounds_than_the_first_is_compared_by_the_middle_ones() -> None:
    one = msgspec.structs.replace(
        story(), runs=(*story().runs[:2], run("precision", "chat", 8, 70.0, 50.0, 60.0))
    )
    made = {factor.layer: factor for factor in factors(one)}
    assert made["precision"].over_before == pytest.approx(1.5)
    assert made["precision"].over_first == pytest.approx(6.0)


def test_without_naive_serving_the_story_begins_one_step_later() -> None:
    made = {factor.layer: factor for factor in factors(story({NAIVE: "not installed"}))}
    assert NAIVE not in made
    assert made[ENGINE].over_before is None
    assert made[CONTINUOUS].over_first == pytest.approx(2.5)


def test_the_page_is_whole_and_loads_nothing() -> None:
    page = story_html(story({NAIVE: "not <installed>"}))
    start = page.index("<svg")
    ET.fromstring(page[start : page.index("</svg>") + 6])
    assert "a &lt;model&gt;" in page
    assert "not &lt;installed&gt;" in page
    assert "src=" not in page
    assert "href=" not in page
