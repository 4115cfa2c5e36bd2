"""What AccelMark's results say of its runs goes before what the tables say; other cases stay as they are."""

import pytest
from tests.planner.samples import case

from outpace.hardware.devices import device
from outpace.planner.accelmark import completed, hosts
from outpace.planner.cases import Case
from outpace.planner.setups import resolve


def run(number: str, **changes: str) -> Case:
    return completed(case(id=number, isl="280", osl="310", notes="sharegpt_standard", **changes))


@pytest.mark.parametrize(
    ("number", "lengths"),
    [("AMK-D-H100-SXM-80GBx1-off", ("28639.0", "256.0")), ("AMK-G-RTX-4090x8-sus", ("302.8", "339.0"))],
)
def test_lengths_are_the_means_of_its_results(number: str, lengths: tuple[str, str]) -> None:
    found = run(number)
    assert (found.isl, found.osl) == lengths


def test_a_case_of_another_source_stays_as_it_is() -> None:
    plain = case(id="TRT-001", isl="280", osl="310", notes="sharegpt_standard")
    assert completed(plain) is plain


@pytest.mark.parametrize(
    ("number", "model"),
    [
        ("AMK-F-RTX-6000-Adax1-sus", "qwen3-0.6b"),
        ("AMK-F-Google TPU v6ex1-off", "qwen3-0.6b"),
        ("AMK-F-RTX-4000-Adax1-sus", "qwen2.5-0.5b"),
        ("AMK-A-RTX-6000-Adax1-sus", "qwen2.5-0.5b"),
    ],
)
def test_where_a_suite_ran_another_model_that_one_counts(number: str, model: str) -> None:
    assert resolve(run(number, model="Qwen2.5-0.5B-Instruct")).shape.name == model


@pytest.mark.parametrize(
    ("number", "processor"),
    [
        ("AMK-F-A100-SXM-40GBx1-int-p50", "epyc 7532"),
        ("AMK-E-A100-SXM-40GBx8-n1", "epyc 7742"),
        ("AMK-A-RTX-4090-Dx1-off", "epyc 9554"),
        ("AMK-A-RTX-4090x1-off", "xeon gold 6530"),
        ("AMK-F-Apple M1x1-off", ""),
        ("AMK-F-A device of tomorrowx1-off", ""),
    ],
)
def test_the_processor_beside_the_devices_is_that_of_the_run(number: str, processor: str) -> None:
    assert resolve(run(number)).processor == processor


def test_every_host_is_beside_a_device_that_is_known() -> None:
    assert all(device(host.device) for host in hosts())
