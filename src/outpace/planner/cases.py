"""A case is one question to the model as a user writes it: names, counts, lengths, load, metric."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from outpace.values.errors import InvalidInput


@dataclass(frozen=True)
class Case:
    """One row of a case file, as text; empty means not known."""

    id: str = ""
    model: str = ""
    gpu: str = ""
    n_gpus: str = ""
    tp: str = ""
    pp: str = ""
    weights_precision: str = ""
    kv_precision: str = ""
    engine: str = ""
    engine_version: str = ""
    isl: str = ""
    osl: str = ""
    batch_or_concurrency: str = ""
    request_rate_rps: str = ""
    metric: str = ""
    notes: str = ""

    def asking(self, metric: str) -> "Case":
        """The same situation with another metric."""
        return replace(self, metric=metric)


CASE_COLUMNS = tuple(field.name for field in fields(Case))
REQUIRED_COLUMNS = ("model", "gpu", "metric")


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a CSV file; other columns are ignored. Raises InvalidInput when a needed column is missing."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            _check_columns(table.fieldnames or (), path)
            for row in table:
                yield Case(**{name: (row.get(name) or "").strip() for name in CASE_COLUMNS})
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InvalidInput("cases", f"{path} cannot be read: {problem}") from problem


def _check_columns(present: Collection[str], path: Path) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in present]
    if missing:
        raise InvalidInput(
            "cases", f"{path} lacks the columns {', '.join(missing)}; see `outpace predict --help`"
        )
