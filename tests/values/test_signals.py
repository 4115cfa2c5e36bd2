"""Signals survive the wire, and what is no signal is refused."""

import msgspec
import pytest

from outpace.values import signals
from outpace.values.signals import Demand, DeploymentDemand, SnapshotWritten


@pytest.mark.parametrize(
    "signal",
    [
        Demand(worker=1, deployments={"chat": DeploymentDemand(waiting=2, oldest_wait_s=0.5)}),
        SnapshotWritten(version=7),
    ],
)
def test_a_signal_survives_its_datagram(signal: signals.Signal) -> None:
    assert signals.decode(signals.encode(signal)) == signal


@pytest.mark.parametrize("datagram", [b"", b"{}", b'{"type":"reboot"}', b'{"type":"snapshot","version":"x"}'])
def test_what_is_no_signal_is_refused(datagram: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        signals.decode(datagram)
