"""What runs where: only known formats, and the cases that people get wrong."""

import pytest

from outpace.precision.formats import kv_format, weight_format
from outpace.precision.recipes import recipes
from outpace.precision.support import kv_support, support_rows, weight_support


def test_every_name_is_a_known_format() -> None:
    for row in support_rows():
        assert [weight_format(name).name for name in (*row.native, *row.emulated)]
        assert [kv_format(name).name for name in row.kv]


@pytest.mark.parametrize(
    ("engine", "device", "name", "support"),
    [
        ("vllm", "sm90", "fp8", "native"),
        ("vllm", "sm80", "fp8", "emulated"),
        ("vllm", "cpu", "fp8", "no"),
        ("llamacpp", "cpu", "q4_0", "native"),
        ("llamacpp", "cpu", "int4-awq", "no"),
        ("nobody", "cpu", "bf16", "no"),
    ],
)
def test_support(engine: str, device: str, name: str, support: str) -> None:
    assert weight_support(engine, device, name) == support


def test_kv() -> None:
    assert kv_support("llamacpp", "cpu", "q8_0") == "native"
    assert kv_support("llamacpp", "cpu", "fp8") == "no"


def test_every_recipe_is_a_known_format() -> None:
    assert [weight_format(name).name for name in recipes()]
