"""What all tests share: each room's tests run on the event loop that the room runs on."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from tests.fleet import ray_cluster

# A busy machine is no fault of the code: time is no subject of tests.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

_ON_UVLOOP = ("gateway", "engines")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop for what runs on uvloop in production, asyncio's own loop for the rest."""
    if item.path.parent.name in _ON_UVLOOP or item.path.parent.parent.name in _ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def ray() -> Iterator[ray_cluster.RayCluster]:
    """A Ray cluster of two machines; who takes one away brings it back."""
    with ray_cluster.cluster() as started:
        yield started


@pytest.fixture(scope="session")
def ray_pools(ray: ray_cluster.RayCluster) -> Iterator[ray_cluster.PoolsProcess]:
    """A process with pools on that cluster."""
    process = ray_cluster.PoolsProcess(ray)
    yield process
    process.close()
