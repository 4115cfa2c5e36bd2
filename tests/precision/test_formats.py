"""Names of number formats as users and measurements write them."""

import pytest

from outpace.precision.formats import kv_format, kv_formats, weight_format, weight_formats
from outpace.values.errors import InvalidInput


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("FP8", "fp8"),
        ("FP8(inferred)", "fp8"),
        ("unspecified(bf16)", "bf16"),
        ("INT4-AWQ(W4A8)", "w4a8"),
        ("AWQ-INT4", "int4-awq"),
        ("W8A8-INT8", "int8"),
        ("FP4", "nvfp4"),
        ("Q4_K_M", "q4_k_m"),
    ],
)
def test_weight_format_reads_every_spelling(written: str, meant: str) -> None:
    assert weight_format(written).name == meant


def test_auto_kv_is_16_bit() -> None:
    assert kv_format("auto").bits == 16


def test_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"known are .*fp8"):
        weight_format("fp3")
    with pytest.raises(InvalidInput, match="kv_precision"):
        kv_format("fp3")


def test_no_alias_means_two_formats_and_every_format_has_a_source() -> None:
    for table in (weight_formats(), kv_formats()):
        names = [name for item in table for name in (item.name, *item.aliases)]
        assert len(names) == len(set(names))
        assert all(item.source for item in table)
