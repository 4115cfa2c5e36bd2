"""The plan: who wins, why the others lost, and money."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from outpace.hardware.devices import device, devices
from outpace.planner.architectures import architecture
from outpace.planner.calibration import shipped_calibration
from outpace.planner.choose import Plan, make_plan
from outpace.planner.explain import break_even
from outpace.planner.objective import Objective
from outpace.planner.plot import plan_svg
from outpace.planner.prices import HourlyPrice, price_table
from outpace.values.errors import InvalidInput
from outpace.values.money import PUSD_PER_USD


def plan(
    model: str,
    *,
    gpus: str = "",
    dollars: int = 0,
    rate_per_s: float = 1.0,
    ttft_ms: float = 0.0,
    itl_ms: float = 0.0,
    max_pusd_hour: int = 0,
    least_sure: float = 0.0,
    engine_version: str = "",
) -> Plan:
    found = [device(name) for name in gpus.split(",")] if gpus else list(devices())
    prices = price_table()
    if dollars:
        prices |= {d.name: HourlyPrice(dollars * PUSD_PER_USD, "t", "", "t") for d in found}
    goal = Objective(
        1000, 200, rate_per_s, ttft_ms, itl_ms, max_pusd_hour=max_pusd_hour, least_sure=least_sure
    )
    return make_plan(
        architecture(model), goal, found, prices, shipped_calibration(), engine_version=engine_version
    )


def test_l4_serves_a_small_model_when_latency_is_loose_and_loses_when_it_is_tight() -> None:
    loose = plan("Llama-3.1-8B", gpus="L4,H100,H200", rate_per_s=0.5)
    assert loose.best is not None
    assert loose.best.point.variant.device.name == "L4"
    tight = plan("Llama-3.1-8B", gpus="L4,H100,H200", rate_per_s=0.5, itl_ms=12)
    assert tight.best is not None
    assert tight.best.point.variant.device.name != "L4"
    [lost] = [r for r in tight.rejected if r.device == "L4"]
    assert "ITL" in lost.reason or "dearer" in lost.reason


def test_who_wants_to_be_sure_runs_fewer_at_once_and_pays_for_it() -> None:
    plain, sure = (plan("Llama-3.1-70B", gpus="H200", itl_ms=30, least_sure=least) for least in (0.0, 0.75))
    assert plain.best is not None
    assert sure.best is not None
    assert sure.best.point.sure >= 0.75 > plain.best.point.sure
    assert (sure.best.pusd_per_mtok or 0) >= (plain.best.pusd_per_mtok or 0)


def test_a_version_never_measured_keeps_the_point_and_widens_the_interval() -> None:
    opened, new, latest = (
        plan("Llama-3.1-70B", gpus="H200", itl_ms=60, engine_version=named)
        for named in ("", "99.1", "latest")
    )
    points = [found.best.point for found in (opened, new, latest) if found.best]
    assert [point.tokens_per_s for point in points] == pytest.approx([points[0].tokens_per_s] * 3)
    width = [point.tokens_high_per_s - point.tokens_low_per_s for point in points]
    assert width[0] < width[1] == width[2]
    assert [point.basis for point in points[1:]] == ["version", "version"]
    assert (opened.engine_version, new.engine_version) == ("", "99.1")


def test_a_measured_version_brings_its_corrections_and_an_old_one_its_engine() -> None:
    found = [
        plan("Llama-3.1-70B", gpus="H200", engine_version=named).best for named in ("", "0.11.0", "v0.6.3")
    ]
    opened, known, old = (option.point for option in found if option)
    assert "version" not in known.basis
    assert known.tokens_per_s != opened.tokens_per_s
    assert (known.variant.generation.name, old.variant.generation.name) == ("vllm-v1", "vllm-v0")


def test_both_formats_of_keys_and_values_are_tried_where_the_device_has_them() -> None:
    made = plan("Llama-3.1-8B", gpus="H100,A100")
    tried = {(o.point.variant.device.name, o.point.variant.kv.name) for o in made.options}
    assert tried == {("H100-SXM-80GB", "bf16"), ("H100-SXM-80GB", "fp8"), ("A100-SXM-80GB", "bf16")}


def test_a_large_model_gets_a_large_device() -> None:
    made = plan("Llama-3.1-70B", gpus="L4,T4,H100,H200", ttft_ms=1000, itl_ms=50)
    assert made.best is not None
    assert made.best.point.variant.device.name in ("H100-SXM-80GB", "H200-SXM-141GB")


def test_every_other_device_is_rejected_with_one_reason() -> None:
    made = plan("Llama-3.1-70B", ttft_ms=1000, itl_ms=50)
    assert made.best is not None
    losers = {d.name for d in devices()} - {made.best.point.variant.device.name}
    assert [r.device for r in made.rejected] == [d.name for d in devices() if d.name in losers]
    assert all(r.reason for r in made.rejected)
    reasons = {r.device: r.reason for r in made.rejected}
    assert "does not fit" in reasons["Apple-M1"]


def test_options_meet_the_objective_and_are_sorted_by_cost() -> None:
    made = plan("Llama-3.1-8B", ttft_ms=500, itl_ms=30, rate_per_s=20)
    costs = [option.pusd_per_mtok or 0 for option in made.options]
    assert costs == sorted(costs)
    assert min(costs) > 0
    for option in made.options:
        assert option.point.ttft_ms <= 500
        assert option.point.itl_ms <= 30
        assert option.replicas * option.point.rate_per_s >= 20 * 0.999


def test_no_operating_point_queues_without_end() -> None:
    made = plan("Llama-2-70B", gpus="H100,H200", rate_per_s=4.0)
    assert made.options
    assert all(option.point.ttft_ms < 20_000 for option in made.options)


def test_a_device_without_a_price_is_never_chosen() -> None:
    made = plan("Llama-3.1-8B", gpus="Gaudi3")
    assert made.best is None
    assert "no price known" in made.rejected[0].reason


def test_money_is_exact_and_limits_hold() -> None:
    made = plan("Llama-3.1-8B", gpus="H100", dollars=3, rate_per_s=2.0)
    assert made.best is not None
    assert made.best.pusd_per_hour == 3 * PUSD_PER_USD * made.best.devices
    tokens_per_hour = 2.0 * 200 * 3600
    assert made.best.pusd_per_mtok == round(made.best.pusd_per_hour * 1e6 / tokens_per_hour)
    poor = plan("Llama-3.1-8B", gpus="H100", dollars=3, max_pusd_hour=2 * PUSD_PER_USD)
    assert poor.best is None
    assert "$3/h > $2/h" in poor.rejected[0].reason


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (Objective(1000, 200, 0.0), "rate"),
        (Objective(-1, 200, 1.0), "isl"),
        (Objective(1000, 200, 1.0, itl_ms=0.02), "did you mean seconds"),
        (Objective(1000, 200, 1.0, percentile=42), "percentile"),
        (Objective(200_000, 200, 1.0), "context"),
    ],
)
def test_contradictory_objectives_are_refused(goal: Objective, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_plan(architecture("Llama-3.1-8B"), goal, devices(), price_table(), shipped_calibration())


def test_own_prices_win_and_bad_price_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("gpu,usd_per_gpu_hour,as_of\nH100,1.25,2026-11-01\n")
    found = price_table(path)["H100-SXM-80GB"]
    assert (found.pusd, found.basis) == (1_250_000_000_000, "your price file")
    path.write_text("gpu,usd_per_gpu_hour\nH100,cheap\n")
    with pytest.raises(InvalidInput, match="line 2"):
        price_table(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        price_table(tmp_path / "none.csv")


def test_every_published_price_says_its_age_and_names_a_known_device() -> None:
    for name, price in price_table().items():
        assert device(name).name == name or name.startswith("TPU")
        assert price.as_of
        assert price.pusd > 0


def test_break_even_is_where_both_cost_the_same() -> None:
    even = break_even(2 * PUSD_PER_USD, 5000.0, 500_000, 1.0, 200)
    assert even.rate_per_s * 200 * 3600 * 500_000 == pytest.approx(2 * PUSD_PER_USD)
    assert not even.plan_is_cheaper
    assert even.is_reachable


def test_the_picture_is_well_formed() -> None:
    made = plan("Llama-3.1-8B", ttft_ms=500)
    root = ET.fromstring(plan_svg(made))
    assert root.tag.endswith("svg")
    ET.fromstring(plan_svg(plan("Llama-3.1-8B", gpus="Gaudi3")))
