"""What a device costs per hour: the user's price file first, else published points, each with its age."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import median_low

from outpace.hardware.devices import device
from outpace.values.errors import InvalidInput
from outpace.values.money import format_usd, parse_usd

_TRUST = {"high": 0, "medium": 0, "low": 1}


@dataclass(frozen=True)
class HourlyPrice:
    """Pico-dollars per device and hour, who quotes it, and from when the quote is."""

    pusd: int
    provider: str
    as_of: str
    basis: str

    def __str__(self) -> str:
        return f"${format_usd(self.pusd)}/GPU-h ({self.basis}, {self.provider}, {self.as_of or 'undated'})"


def price_table(own_file: Path | None = None, is_spot: bool = False) -> dict[str, HourlyPrice]:
    """Price by device name; a device without any quote is absent. Raises InvalidInput for a bad own file."""
    table = dict(_published(is_spot))
    if own_file:
        table.update(_own(own_file))
    return table


@cache
def _published(is_spot: bool) -> dict[str, HourlyPrice]:
    """The median of the quotes that are trusted most; prices differ threefold between providers."""
    text = files("outpace.planner").joinpath("prices.csv").read_text(encoding="utf-8")
    quotes: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if (row["tier"] == "spot") == is_spot:
            quotes.setdefault(row["gpu"], []).append(row)
    return {name: _median(rows) for name, rows in quotes.items()}


def _median(rows: list[dict[str, str]]) -> HourlyPrice:
    best = min(_TRUST[row["confidence"]] for row in rows)
    trusted = [row for row in rows if _TRUST[row["confidence"]] == best]
    priced = {parse_usd(row["usd_per_gpu_hour"], "usd_per_gpu_hour"): row for row in trusted}
    middle = median_low(priced)
    row = priced[middle]
    quotes = f"median of {len(trusted)} quotes" if len(trusted) > 1 else "one quote"
    trust = "" if best == 0 else ", low confidence"
    return HourlyPrice(middle, row["provider"], row["as_of"], f"list price, {quotes}{trust}")


def _own(path: Path) -> dict[str, HourlyPrice]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidInput("prices", f"{path} cannot be read: {problem}") from problem
    return dict(_own_rows(rows, path))


def _own_rows(rows: list[dict[str, str]], path: Path) -> Iterable[tuple[str, HourlyPrice]]:
    for number, row in enumerate(rows, start=2):
        if not row.get("gpu") or not row.get("usd_per_gpu_hour"):
            raise InvalidInput("prices", f"{path} line {number} needs the columns gpu and usd_per_gpu_hour")
        pusd = parse_usd(row["usd_per_gpu_hour"], f"prices line {number}")
        provider = row.get("provider") or path.name
        yield device(row["gpu"]).name, HourlyPrice(pusd, provider, row.get("as_of") or "", "your price file")
