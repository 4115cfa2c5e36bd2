"""Precisions are proven in the background: one model at a time, when its deployment has served for a while."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from outpace.control.parts import Prove
from outpace.control.served import Served
from outpace.engines.facts import PROVABLE
from outpace.values.clock import Clock
from outpace.values.errors import OutpaceError

_LOG = structlog.get_logger()
_LOOK_EVERY_S = 5.0
# A start is when people try things: the machine is theirs then.
SETTLE_S = 120.0


class Proofs:
    """The loop that asks for proofs; what it finds out, `Served.reconsider_when_due` picks up from disk."""

    def __init__(
        self,
        prove: Prove,
        served: Mapping[str, Served],
        clock: Clock,
        alone: asyncio.Lock,
        is_starting: Callable[[], bool],
    ) -> None:
        self._prove = prove
        self._served = served
        self._clock = clock
        self._alone = alone
        # A replica is on its way up, and somebody may wait for it: proofs leave it the machine.
        self._is_starting = is_starting
        self._asked: set[str] = set()
        self._here_since_s: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            model = self.due(self._clock.monotonic_s())
            if model is not None:
                await self.ask(model)

    def due(self, now_s: float) -> str | None:
        """A model that `auto` may serve faster and that was not asked about in this life of control."""
        for name, served in list(self._served.items()):
            since_s = self._here_since_s.setdefault(name, now_s) if served.is_here else now_s
            if wants_proof(served) and now_s - since_s >= SETTLE_S:
                model = served.wanted.spec.model
                if model is not None and model not in self._asked:
                    return model
        return None

    async def ask(self, model: str) -> None:
        """Have a model's formats proven; once in this life of control, whatever comes of it."""
        self._asked.add(model)
        try:
            async with self._alone:
                _LOG.info("proof_started", model=model)
                await self._prove(model, self._is_starting)
            _LOG.info("proof_ended", model=model)
        except (OutpaceError, OSError) as error:
            _LOG.warning("proof_failed", model=model, reason=str(error))


def wants_proof(served: Served) -> bool:
    """A text model on an engine whose formats can be made and gated here, with the choice left to us."""
    resolved = served.resolved
    if served.is_external or resolved is None or not served.is_here:
        return False
    is_text = bool({"chat", "completions"} & set(resolved.tasks))
    return served.wanted.spec.precision == "auto" and resolved.engine in PROVABLE and is_text
