"""Device facts and their spellings."""

import pytest

from outpace.hardware.devices import device, devices
from outpace.values.errors import InvalidInput
from outpace.values.units import GIB


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("H100", "H100-SXM-80GB"),
        ("nvidia h100 80gb hbm3", "H100-SXM-80GB"),
        ("AMD Instinct MI325X 256GB HBM3E", "MI325X"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Google TPU v6e", "TPU-v6e"),
        ("Huawei Ascend 910B2", "Ascend-910B2"),
        ("[MAXSUN] MS-Intel Arc Pro B60 Dual 48G Turbo", "Arc-Pro-B60-Dual-48GB"),
    ],
)
def test_a_device_is_found_under_any_spelling(written: str, meant: str) -> None:
    assert device(written).name == meant


def test_unknown_device_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInput, match="H100"):
        device("H101-SXM-80GB")


def test_no_spelling_means_two_devices_and_every_fact_has_a_source_and_date() -> None:
    spellings = [spelling.lower() for found in devices() for spelling in (found.name, *found.aliases)]
    assert len(spellings) == len(set(spellings))
    assert all(found.source and found.checked_on and found.confidence for found in devices())


def test_the_mission_table_is_corrected() -> None:
    # 312 TFLOPS of an A100 and 121 of an L4 are dense 16-bit rates, not TF32 or FP32.
    a100, l4 = device("A100-SXM-80GB"), device("L4")
    assert (a100.bf16_flops, a100.fp8_flops) == (312e12, 0)
    assert (l4.bf16_flops, l4.fp8_flops, l4.fp32_flops) == (121e12, 242e12, 30.3e12)
    h200, h100 = device("H200"), device("H100")
    assert (h200.fp8_flops, h200.bf16_flops) == (h100.fp8_flops, h100.bf16_flops) == (1979e12, 989e12)
    assert h200.bandwidth_bytes_per_s / h100.bandwidth_bytes_per_s == pytest.approx(1.43, abs=0.01)


def test_a_device_without_a_unit_multiplies_on_the_next_wider_one() -> None:
    assert device("A100").multiply_flops("fp8") == device("A100").bf16_flops
    assert device("H100").multiply_flops("fp4") == device("H100").fp8_flops


def test_memory_is_what_drivers_report() -> None:
    assert device("H100").memory_bytes == 80 * GIB
    assert device("L4").memory_bytes == pytest.approx(22.5 * GIB)
