"""One of several processes that use one key: `python -m tests.metering.crowd FILE BOOT DO`."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from outpace.metering import Column, Counters

SLOT = 11
PRICE_PUSD = 1_000_003
BUDGET_PUSD = 5 * PRICE_PUSD + PRICE_PUSD // 2
RPM = 30
NOW_S = 1_000.0


def main(path: Path, boot_id: str, act: str) -> None:
    """Claim a column, say so, wait for the word, act, and print how many times it worked."""
    counters = Counters.open(path)
    column = counters.claim_column(boot_id)
    print("ready", flush=True)
    sys.stdin.readline()
    if act == "hold_lock":
        counters.locks.acquire(SLOT)
        print("held", flush=True)
        sys.stdin.readline()
        return
    if act == "churn":
        print(sum(_is_exceeded_once(counters, column) for _ in range(3_000)), flush=True)
        return
    with ThreadPoolExecutor(50) as pool:
        if act == "take":
            won = pool.map(lambda _: column.take(SLOT, RPM, None, 1, NOW_S).is_allowed, range(50))
        else:
            won = pool.map(lambda _: column.reserve(SLOT, PRICE_PUSD, BUDGET_PUSD), range(50))
        num_won = sum(won)
    if act == "settle":
        for _ in range(num_won):
            column.settle(SLOT, PRICE_PUSD, PRICE_PUSD - 3)
    print(num_won, flush=True)


def _is_exceeded_once(counters: Counters, column: Column) -> bool:
    """Hold up to three of the five, look at the sum of all processes, and let go."""
    num_held = sum(column.reserve(SLOT, PRICE_PUSD, BUDGET_PUSD) for _ in range(3))
    is_exceeded = counters.reserved(SLOT) > BUDGET_PUSD
    for _ in range(num_held):
        column.settle(SLOT, PRICE_PUSD, 0)
    return is_exceeded


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
