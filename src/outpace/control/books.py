"""The ledger's loop: book what journals say, close the books of dead workers, keep the counters' bases right."""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from outpace.control.metrics import Metrics
from outpace.control.tail import Tail
from outpace.control.threads import in_thread
from outpace.metering import Counters, is_writer_alive, journal_files
from outpace.metering.ledger import Ledger
from outpace.metering.recovery import load_spending, settle_the_dead
from outpace.values.clock import Clock
from outpace.values.errors import OutpaceError

_LOG = structlog.get_logger()
_EVERY_S = 0.5
_AFTER_FAILURE_S = 2.0
_CLEAN_EVERY_S = 3600.0
# Receipts are in the database by then; the files serve only for looking back.
_RETENTION_S = 7 * 86_400.0


class Books:
    """Runs in threads, one step at a time, so that a locked database blocks nobody else."""

    def __init__(
        self, ledger: Ledger, counters: Counters, folder: Path, clock: Clock, tail: Tail, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._counters = counters
        self._folder = folder
        self._clock = clock
        self._tail = tail
        self._metrics = metrics
        # Dead workers whose books are closed: no need to ask the database again.
        self._settled: set[str] = set()
        self._cleaned_s = float("-inf")
        self._stepping = threading.Lock()
        self._booked_s = clock.monotonic_s()

    async def run(self) -> None:
        """Book until cancelled."""
        while True:
            is_well = await self._step_safely(self.step)
            await self._clock.sleep(_EVERY_S if is_well else _AFTER_FAILURE_S)

    async def finish(self) -> None:
        """Book what has come since the last step; the workers have ended by now."""
        await self._step_safely(self.step)

    async def _step_safely(self, step: Callable[[], None]) -> bool:
        try:
            await in_thread(step)
        except (OutpaceError, OSError) as error:
            _LOG.warning("booking_delayed", reason=str(error))
            return False
        except Exception:  # noqa: BLE001 (a loop's tick)
            _LOG.exception("booking_crashed")
            return False
        return True

    def step(self) -> None:
        """Read everything new; close the books of workers that have died. Raises LedgerUnavailable."""
        # The last step may still run in its thread when the final one begins.
        with self._stepping:
            self._step()

    def _step(self) -> None:
        living = self._see()
        self._ledger.ingest_folder(self._folder)
        if not self._counters.is_loaded:
            load_spending(self._ledger, self._counters, self._folder)
        dead = {boot_id for boot_id, is_alive in living.items() if not is_alive}
        if dead:
            settle_the_dead(self._ledger, self._counters, self._folder)
            self._settled |= dead
        self._booked_s = self._clock.monotonic_s()
        self._clean_when_due()

    def behind_s(self) -> float:
        """Seconds since the ledger was up to date."""
        return self._clock.monotonic_s() - self._booked_s

    def _see(self) -> dict[str, bool]:
        """Take in what is new for the metrics; which workers there are, and whether they live."""
        boot_ids = {file.boot_id for file in journal_files(self._folder)} | set(self._counters.owners())
        fresh = sorted(boot_ids - self._settled)
        living = {boot_id: is_writer_alive(self._folder, boot_id) for boot_id in fresh}
        self._tail.read()
        self._metrics.show_load(self._tail.loads(living))
        return living

    def _clean_when_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._cleaned_s < _CLEAN_EVERY_S:
            return
        self._cleaned_s = now_s
        removed = self._ledger.remove_retired(self._folder, _RETENTION_S)
        if removed:
            _LOG.info("journals_removed", num_files=len(removed))
