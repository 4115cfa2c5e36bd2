"""Datagrams in and out, and that none of them can hurt."""

import asyncio
import socket

from outpace.control.signal_door import SignalDoor
from outpace.values.home import Home
from outpace.values.signals import (
    CONTROL_SOCKET,
    Demand,
    DeploymentDemand,
    SnapshotWritten,
    decode,
    encode,
    worker_socket,
)


async def test_demand_comes_in_past_garbage_and_news_goes_to_every_worker(home: Home) -> None:
    taken: list[Demand] = []
    door = SignalDoor(home, taken.append)
    (home.sockets / CONTROL_SOCKET).touch()
    door.open()
    demand = Demand(worker=1, deployments={"chat": DeploymentDemand(waiting=2)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
        worker.bind(str(home.sockets / worker_socket(0)))
        worker.settimeout(5)
        for datagram in (b"", b"{", b"\xff", encode(SnapshotWritten(version=1)), encode(demand)):
            worker.sendto(datagram, str(home.sockets / CONTROL_SOCKET))
        async with asyncio.timeout(5):
            while not taken:
                await asyncio.sleep(0.01)
        # A worker that died leaves its socket; one that does not read has a full one.
        (home.sockets / worker_socket(1)).touch()
        door.announce(7)
        assert decode(worker.recv(1 << 16)) == SnapshotWritten(version=7)
        for version in range(2_000):
            door.announce(version)
    assert taken == [demand]
    door.close()
    door.announce(8)
    assert not (home.sockets / CONTROL_SOCKET).exists()
