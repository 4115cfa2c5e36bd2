"""What all tests share: each room's tests run on the event loop that the room runs on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_ON_UVLOOP = ("gateway", "engines")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop for what runs on uvloop in production, asyncio's own loop for the rest."""
    if item.path.parent.name in _ON_UVLOOP or item.path.parent.parent.name in _ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
