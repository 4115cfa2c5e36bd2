"""The OpenVINO process that computes: sequences in, tokens out, one frame per step.

A process of its own because the library holds the interpreter during a step: beside it no HTTP would be answered. Run
by the front as `python -m outpace.engines.openvino_stepper` with the socket as standard input: the first frame is the
configuration, and until it comes this process stands by with everything imported.
"""

import ctypes
import select
import signal
import socket
from pathlib import Path

from outpace.engines import child
from outpace.engines.openvino_pipeline import LaterFailed, Pipeline, refusal
from outpace.engines.openvino_wire import Add, Frames, Loaded, Order, Piece, Step, framed, take_config
from outpace.values.clock import SystemClock

_PR_SET_PDEATHSIG = 1
_RECEIVED_BYTES = 1 << 20
_CLOCK = SystemClock()
# What can be loaded later is, when nobody has asked for so long, or at last beside requests that never end.
_QUIET_S = 1.0
_LATEST_S = 10.0


def main() -> None:
    """Load, tell so, step until the front is gone."""
    # A step may take long; the front's end must end it all the same.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    front = socket.socket(fileno=0)
    config = take_config(front)
    if config is None:
        return
    started_s = _CLOCK.monotonic_s()
    try:
        pipeline = Pipeline(config, Path(config.model_path))
    except RuntimeError as error:
        child.fail("load_failed", f"OpenVINO could not load {Path(config.model_path).name}: {error}")
    front.sendall(framed(Loaded(_CLOCK.monotonic_s() - started_s)))
    try:
        Stepper(pipeline, front).run()
    except LaterFailed as error:
        child.fail(
            "load_failed", f"OpenVINO could not load the rest of {Path(config.model_path).name}: {error}"
        )


class Stepper:
    """Takes orders between steps, reports after each."""

    def __init__(self, pipeline: Pipeline, front: socket.socket) -> None:
        self._pipeline = pipeline
        self._front = front
        self._frames = Frames()
        self._latest_s = _CLOCK.monotonic_s() + _LATEST_S

    def run(self) -> None:
        """Until the front closes its end."""
        while True:
            orders = self._orders()
            if orders is None:
                return
            pieces = [piece for order in orders if (piece := self._obey(order))]
            if not self._pipeline.is_idle:
                pieces += self._pipeline.step()
                self._load_at_last()
            if pieces:
                self._front.sendall(framed(Step(pieces, self._pipeline.kv_used_fraction)))

    def _orders(self) -> list[Order] | None:
        """What has come in; waits when there is nothing to compute. None at the end."""
        orders: list[Order] = []
        is_waiting = self._pipeline.is_idle
        while is_waiting or select.select([self._front], [], [], 0)[0]:
            if is_waiting and not self._pipeline.is_whole and not self._hears_within(_QUIET_S):
                self._pipeline.load_more()
                continue
            received = self._front.recv(_RECEIVED_BYTES)
            if not received:
                return None
            orders += self._frames.orders(received)
            is_waiting = is_waiting and not orders
        return orders

    def _hears_within(self, timeout_s: float) -> bool:
        return bool(select.select([self._front], [], [], timeout_s)[0])

    def _load_at_last(self) -> None:
        if not self._pipeline.is_whole and _CLOCK.monotonic_s() >= self._latest_s:
            self._pipeline.load_more()

    def _obey(self, order: Order) -> Piece | None:
        if not isinstance(order, Add):
            self._pipeline.drop(order.id)
            return None
        try:
            self._pipeline.add(order.id, order.prompt, order.sampling, order.tenant)
        except RuntimeError as error:
            return refusal(order.id, error)
        return None


if __name__ == "__main__":
    main()
