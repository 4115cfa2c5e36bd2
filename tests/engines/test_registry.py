"""Engines by name."""

import pytest

from outpace.engines.registry import ENGINES, engine
from outpace.values.errors import InvalidInput


def test_every_listed_engine_loads_under_its_name() -> None:
    assert [engine(name).name for name in ENGINES] == list(ENGINES)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="echo, external, llamacpp"):
        engine("lama")


def test_every_engine_says_which_fields_it_honours() -> None:
    for name in ENGINES:
        capabilities = engine(name).capabilities
        assert set(capabilities.parameters) == capabilities.tasks
        assert "messages" in capabilities.parameters.get("chat", {"messages"})
