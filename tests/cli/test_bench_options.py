import pytest

from outpace.cli.bench_options import loads_of
from outpace.values.errors import InvalidInput


def test_loads_are_sorted_and_unique() -> None:
    assert loads_of("32,1,8,8") == (1, 8, 32)


@pytest.mark.parametrize("text", ["", "x", "0,1", "1,,2", "1,1000"])
def test_other_loads_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--users"):
        loads_of(text)
