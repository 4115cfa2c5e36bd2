"""Runs that were published twice: one is kept, or none where the same figures stand for different things.

Tables are merged from other tables, so one run comes again under another spelling of its version or layout, or rounded
to a hundredth. Two runs do not agree in every digit: rows whose figures (time to the first token, time between tokens,
…) have seven digits together and are equal for equal lengths are one run.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from outpace.planner.setups import Setup

AGAIN = "the same run published again"
CONTRADICTED = "equal to the last digit on another device or of another model; one of the two is wrong"
# Of a million pairs of runs with the same lengths one agrees by chance in six digits; in seven hardly any.
_TELLING_DIGITS = 7
_LEAST_FIGURES = 2
# Decimals that tables which copy others keep. What ends in a five was rounded before, so it went up or down.
_KEPT_DECIMALS = 2
_MOST_APART = 0.5 * 10**-_KEPT_DECIMALS + 1e-6


@dataclass(frozen=True)
class Run:
    """What one row of a table says: its setups (one per metric), their values, and where it was published."""

    setups: tuple[Setup, ...]
    values: tuple[float, ...]
    source: str

    @property
    def figures(self) -> tuple[object, ...]:
        """The metrics with their values, and the lengths that they belong to."""
        measured = zip((setup.metric.name for setup in self.setups), self._kept, strict=True)
        return *measured, self.setups[0].isl, self.setups[0].osl

    @property
    def asked(self) -> tuple[object, ...]:
        """The metrics and the lengths that they belong to."""
        return *(setup.metric.name for setup in self.setups), self.setups[0].isl, self.setups[0].osl

    def rounds(self, other: "Run") -> bool:
        """Whether these values are another run's, rounded up or down."""
        return all(
            abs(one - exact) <= _MOST_APART for one, exact in zip(self.values, other.values, strict=True)
        )

    @property
    def is_telling(self) -> bool:
        """Whether another run with these very figures is the same run."""
        digits = sum(_digits(value) for value in self._kept)
        return len(self.values) >= _LEAST_FIGURES and digits >= _TELLING_DIGITS

    @property
    def is_rounded(self) -> bool:
        """Whether it has no more digits than a table that copies others keeps."""
        return self._kept == tuple(self.values)

    @property
    def _kept(self) -> tuple[float, ...]:
        return tuple(round(value, _KEPT_DECIMALS) for value in self.values)


def once(runs: Sequence[Run]) -> tuple[list[Run], Counter[str]]:
    """Every run once, in order, and how many figures were left out for which reason."""
    alike = _alike([run for run in runs if run.is_telling])
    reasons = {}
    for same in itertools.chain.from_iterable(map(_told_apart, alike)):
        kept = max(same, key=_said)
        is_contradicted = len({(run.setups[0].device.name, run.setups[0].shape.name) for run in same}) > 1
        for run in same:
            if is_contradicted:
                reasons[id(run)] = CONTRADICTED
            elif run is not kept:
                reasons[id(run)] = AGAIN
    left_out: Counter[str] = Counter()
    for run in runs:
        if id(run) in reasons:
            left_out[reasons[id(run)]] += len(run.values)
    return [run for run in runs if id(run) not in reasons], left_out


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs with the same figures once rounded; a rounded one without such a sibling joins the first that it rounds."""
    alike: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    exact: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if not run.is_rounded:
            alike[run.figures].append(run)
            exact[run.asked].append(run)
    for run in runs:
        if run.is_rounded:
            known = () if run.figures in alike else exact[run.asked]
            found = next((other for other in known if run.rounds(other)), run)
            alike[found.figures].append(run)
    return list(alike.values())


def _told_apart(alike: Sequence[Run]) -> list[list[Run]]:
    """The rows of each run: of rows that are alike when rounded, those with all digits may still differ in them."""
    exact: dict[tuple[float, ...], list[Run]] = defaultdict(list)
    rounded: list[Run] = []
    for run in alike:
        (rounded if run.is_rounded else exact[run.values]).append(run)
    first, *others = exact.values() or [[]]
    return [[*first, *rounded], *others]


def _said(run: Run) -> tuple[int, bool, int, int]:
    """How much a row says: all digits, a layout that needs no second reading, the version, the notes."""
    first = run.setups[0]
    digits = sum(_digits(value) for value in run.values)
    return digits, not first.reading, len(first.case.engine_version), len(first.case.notes)


def _digits(value: float) -> int:
    return len(f"{value:.12g}".replace(".", "").strip("0"))
