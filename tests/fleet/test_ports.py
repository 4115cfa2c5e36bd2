"""Ports that are taken, not ours, or no ports."""

import socket

import pytest

from outpace.fleet.ports import require_free
from outpace.values.errors import InvalidInput


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port_is_refused_also_when_its_holder_shares_it(shares: bool) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port: 127.0.0.1:{port} is taken"):
            require_free("127.0.0.1", port, "port")
    require_free("127.0.0.1", port, "port")


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 80), ("127.0.0.1", 70_000), ("192.0.2.1", 80)]
)
def test_addresses_that_are_none_are_refused(host: str, port: int) -> None:
    with pytest.raises(InvalidInput, match="admin_port"):
        require_free(host, port, "admin_port")
