"""CPU time of one request's metering: `python bench/metering.py` prints µs per call, best of five runs.

Time of the calling thread only, so that other work on the machine counts little; the journal's sync thread
is not in it.
"""

import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from outpace.metering import Counters, JournalWriter, Meter
from outpace.values.clock import SystemClock
from outpace.values.money import Price
from outpace.values.records import Progressed, Reserved, Settled
from outpace.values.usage import Usage

_NUM_CALLS = 20_000
_BUDGET_PUSD = 10**18
_PRICE = Price(input_pusd=1000, output_pusd=2000, cached_input_pusd=500)


def main() -> None:
    """Measure each step alone, then the whole."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        counters = Counters.open(home / "counters")
        counters.load_bases({})
        column = counters.claim_column("bench")
        journal = JournalWriter(home, "bench")
        meter = Meter(journal, column, SystemClock())
        now_s = SystemClock().monotonic_s()
        reserved = Reserved(
            "req_0123456789abcdef", 1.8e9, "key_1", 7, "d", "m", "chat", "echo", "r1", False, 10**6, _PRICE
        )
        settled = Settled(
            "req_0123456789abcdef", 1.8e9, 200, "completed", Usage(100, 50), 200_000, "stop", None, "r1"
        )
        progressed = Progressed("req_0123456789abcdef", 100, 0, 64)

        def admit() -> None:
            column.take(7, 10**9, 10**12, 150, now_s)
            column.reserve(7, 1000, _BUDGET_PUSD)

        def settle() -> None:
            column.settle(7, 1, 1)

        def whole() -> None:
            meter.take(7, 10**9, 10**12, 150)
            meter.hold(7, 10**6, 10**6, _BUDGET_PUSD)
            meter.open(reserved)
            meter.close(settled)
            meter.give_back_tokens(7, 100, 10**12)

        _show("take + reserve", admit)
        _show("settle", settle)
        _show("journal: one mark", lambda: meter.mark(progressed))
        _show("whole request: take, hold, open, close, give back", whole)
        journal.close()
        counters.close()


def _show(name: str, call: Callable[[], object]) -> None:
    seconds = min(timeit.repeat(call, timer=time.thread_time, number=_NUM_CALLS, repeat=5))
    print(f"{name:55s} {seconds / _NUM_CALLS * 1e6:6.2f} µs")


if __name__ == "__main__":
    main()
