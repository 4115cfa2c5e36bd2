"""Workers, clients, control and deaths in any order: the budget holds and every settled request counts once."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.metering.conftest import make_sqlite
from tests.metering.requests import PRICE, marked, reserved, settled

from outpace.metering import (
    Counters,
    JournalWriter,
    Ledger,
    Meter,
    Reports,
    load_spending,
    settle_the_dead,
    tables,
)
from outpace.values import records
from outpace.values.clock import ManualClock
from outpace.values.errors import BudgetSpent

_SLOT = 3
_BUDGET_PUSD = 2_000_000
_OUTPUT_TOKENS = 100
_WORST_PUSD = PRICE.cost_pusd(100, 0, _OUTPUT_TOKENS)
_workers = st.integers(0, 2)


class Installation(RuleBasedStateMachine):
    """Three workers that die and come back, one control, one key."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.engine = make_sqlite(self.folder / "ledger.db")
        tables.metadata.create_all(self.engine)
        self.clock = ManualClock()
        self.ledger = Ledger(self.engine, self.clock)
        self.counters = Counters.open(self.folder / "counters")
        load_spending(self.ledger, self.counters, self.folder)
        self.lives: list[tuple[JournalWriter, Meter] | None] = [None] * 3
        self.num_lives = self.num_requests = 0
        # What each request must cost in the end, by id.
        self.expected_pusd: dict[str, int] = {}
        self.running: dict[int, dict[str, int]] = {0: {}, 1: {}, 2: {}}

    def teardown(self) -> None:
        for worker in range(3):
            self.die(worker, b"")
        self.recover()
        balance = Reports(self.engine).balance()
        assert balance.is_balanced
        assert (balance.num_open, balance.open_pusd) == (0, 0)
        assert balance.settled_pusd == sum(self.expected_pusd.values()) == self.counters.spent(_SLOT)
        assert self.counters.reserved(_SLOT) == 0
        assert len(Reports(self.engine).receipts(10_000)) == len(self.expected_pusd)
        self.counters.close()
        self.engine.dispose()
        shutil.rmtree(self.folder)

    def _meter(self, worker: int) -> Meter:
        life = self.lives[worker]
        if life is None:
            self.num_lives += 1
            journal = JournalWriter(self.folder, f"boot-{self.num_lives}", sync_every_s=None)
            column = self.counters.claim_column(journal.boot_id)
            life = self.lives[worker] = (journal, Meter(journal, column, self.clock))
        return life[1]

    @rule(worker=_workers, most=st.integers(0, 3))
    def begin(self, worker: int, most: int) -> None:
        meter = self._meter(worker)
        least_pusd = _WORST_PUSD
        try:
            held_pusd = meter.hold(_SLOT, least_pusd, least_pusd * max(most, 1), _BUDGET_PUSD)
        except BudgetSpent:
            return
        self.num_requests += 1
        request_id = f"r{self.num_requests}"
        meter.open(reserved(request_id, held_pusd))
        self.expected_pusd[request_id] = 0
        self.running[worker][request_id] = 0

    @precondition(lambda self: any(self.running.values()))
    @rule(choice=st.integers(0, 10**6))
    def progress(self, choice: int) -> None:
        worker, request_id = self._choose(choice)
        tokens = min(self.running[worker][request_id] + 1 + choice % 40, _OUTPUT_TOKENS)
        self.running[worker][request_id] = tokens
        self._meter(worker).mark(marked(request_id, tokens))
        self.expected_pusd[request_id] = PRICE.cost_pusd(100, 40, tokens)

    @precondition(lambda self: any(self.running.values()))
    @rule(choice=st.integers(0, 10**6))
    def end(self, choice: int) -> None:
        worker, request_id = self._choose(choice)
        tokens = self.running[worker].pop(request_id)
        record = settled(request_id, tokens, at_s=self.clock.wall_s())
        assert self._meter(worker).close(record)
        assert not self._meter(worker).close(record)
        self.expected_pusd[request_id] = record.cost_pusd or 0

    @precondition(lambda self: any(self.running.values()))
    @rule(choice=st.integers(0, 10**6))
    def die_between_journal_and_counters(self, choice: int) -> None:
        worker, request_id = self._choose(choice)
        record = settled(request_id, _OUTPUT_TOKENS, at_s=self.clock.wall_s())
        self.expected_pusd[request_id] = record.cost_pusd or 0
        self.die(worker, records.encode(record))

    @rule(worker=_workers, torn=st.sampled_from([b"", b'["s","r1",1.0,200', b"\0\0\0", b"["]))
    def die(self, worker: int, torn: bytes) -> None:
        life = self.lives[worker]
        if life is None:
            return
        os.write(life[0]._fd, torn)
        # Its descriptors are closed, as the kernel does; nothing is settled or released.
        os.close(life[0]._fd)
        self.lives[worker] = None
        self.running[worker].clear()

    @rule(jump_s=st.sampled_from([-3600.0, 0.0, 3600.0, 40 * 86_400.0]))
    def clock_jumps(self, jump_s: float) -> None:
        self.clock.jump_wall(jump_s)

    @rule()
    def book(self) -> None:
        self.ledger.ingest_folder(self.folder)

    @rule()
    def recover(self) -> None:
        settle_the_dead(self.ledger, self.counters, self.folder)

    @rule()
    def control_dies_before_it_tells_the_counters(self) -> None:
        for boot_id in self.counters.owners():
            if all(life is None or life[0].boot_id != boot_id for life in self.lives):
                self.ledger.recover(self.folder, boot_id)
        self.ledger = Ledger(self.engine, self.clock)

    @invariant()
    def budget_holds(self) -> None:
        spent_pusd = self.counters.spent(_SLOT)
        assert spent_pusd >= 0
        assert sum(self.expected_pusd.values()) <= _BUDGET_PUSD
        if len(self.counters.owners()) == sum(life is not None for life in self.lives):
            assert spent_pusd + self.counters.reserved(_SLOT) <= _BUDGET_PUSD

    def _choose(self, choice: int) -> tuple[int, str]:
        everything = [(worker, name) for worker, names in self.running.items() for name in names]
        return everything[choice % len(everything)]


TestInstallation = Installation.TestCase
TestInstallation.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
