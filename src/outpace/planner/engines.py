"""Engine generations, read from `engines.toml`: which host loop and kernels a named version has."""

import re
import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from outpace.precision.memory import USABLE_SHARE, MemoryUse
from outpace.values.errors import InvalidInput
from outpace.values.units import GIB, MIB

UNKNOWN = "unknown"
_PORTS = {("vllm", "AMD"): "vllm-rocm", ("vllm", "Huawei"): "vllm-ascend", ("vllm", "Google"): "vllm-tpu"}
_NEWEST = (10**6,)
# A dash alone does not do: `vllm-v1` is a generation's name.
_INNER_VERSION = re.compile(r"(?: |-(?=v?\d+\.))v?(\d.*)")
_BUILD_DAY = re.compile(r"\bnightly\S*?-(20\d{6})\b")
# What is written where no version is known. `latest` and `nightly` are not of these: they name what is newer.
_NO_VERSION = ("", "-", "?", "any", "n/a", "none", "unknown")
# What names a version without a number: whatever is newest.
_NEWEST_NAMES = ("latest", "nightly", "main", "dev")
_ASKED_VERSION = re.compile(r"v?\d+(\.[0-9a-z]+)*([-+][0-9a-z.+-]*)?")
_LONGEST_VERSION = 60


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A range of versions of an engine; `max_sequences` 0 means that only memory limits.

    An engine may start with other defaults on small devices and on those it names: fewer sequences and only a
    share of the prompt tokens per step.
    """

    name: str
    spellings: tuple[str, ...]
    before: str
    max_sequences: int
    small_below_gib: float = 0.0
    small_devices: tuple[str, ...] = ()
    small_max_sequences: int = 0
    small_chunk_share: float = 1.0
    # Reads prompts in steps of their own while others wait for their next token, unless told otherwise.
    reads_prompts_alone: bool = False
    # A flag with which a version works as the next generation does by default.
    ahead_by: str = ""
    # Compiles kernels when a shape is first asked for, not when it starts.
    compiles_late: bool = False
    # Share of a device that weights, cache and a step may fill; or, from so many GiB on, MiB beside weights and cache.
    usable_share: float = 0.0
    kept_mib: tuple[tuple[float, float], ...] = ()
    # Weight formats whose products have no kernel of their own, and the FLOP/s that a device reaches with them.
    slow_formats: tuple[str, ...] = ()
    slow_flops: float = 0.0

    def is_small(self, device: str, memory_gib: float) -> bool:
        """Whether a device gets the defaults for small ones."""
        return memory_gib < self.small_below_gib or any(
            device.startswith(name) for name in self.small_devices
        )

    def cache_room_bytes(self, memory: MemoryUse) -> float:
        """What an instance's fullest device leaves for keys and values, as the engine divides its memory by itself."""
        if self.kept_mib:
            gib = memory.capacity_bytes / GIB
            kept = [mib for least, mib in self.kept_mib if gib >= least][-1]
            # Who starts an engine where its defaults leave hardly anything sets others.
            return max(memory.capacity_bytes - kept * MIB - memory.weights_bytes, memory.kv_room_bytes / 2)
        withheld = USABLE_SHARE - self.usable_share if self.usable_share else 0.0
        return memory.kv_room_bytes - withheld * memory.capacity_bytes


def generation(engine: str, version: str, vendor: str = "NVIDIA", notes: str = "") -> Generation:
    """The generation of an engine as measurements write it, such as `vLLM 0.9.0.2.dev108` with empty version.

    A flag in notes may make it the next one. vLLM's ports to other vendors' devices have their own kernels, so they
    count as engines of their own.
    """
    name, inner = _split(engine.strip().lower())
    name = _PORTS.get((name, vendor), name)
    numbers = _numbers(version) or inner or _NEWEST
    for candidate in generations():
        if candidate.ahead_by and candidate.ahead_by in notes:
            continue
        if name in candidate.spellings and (not candidate.before or numbers < _numbers(candidate.before)):
            return candidate
    return Generation(name=UNKNOWN, spellings=(), before="", max_sequences=512)


@cache
def generations() -> tuple[Generation, ...]:
    """Every known generation, oldest first per engine."""
    text = files("outpace.planner").joinpath("engines.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["generation"], tuple[Generation, ...])


def version_name(engine: str, version: str) -> str:
    """A version in one spelling, also when the engine's name holds it (`vLLM 0.10.0`); empty when none is named."""
    written = version.strip().lower()
    if written in _NO_VERSION:
        found = _INNER_VERSION.search(engine.strip().lower())
        written = found[1] if found else ""
    return re.sub(r"^v(?=\d)", "", written)


def dated_build(version: str, notes: str) -> str:
    """A nightly version by the day of its build, which the version's name or the image noted says."""
    if not version.startswith("nightly"):
        return version
    day = _BUILD_DAY.search(version) or _BUILD_DAY.search(notes)
    return f"nightly {day[1]}" if day else version


def is_older(version: str, other: str) -> bool:
    """Whether a version is before another; what has no number, such as a nightly build, is newer than all."""
    return (_numbers(version) or _NEWEST) < _numbers(other)


def asked_version(written: str) -> str:
    """A version that a plan is asked for, in one spelling; empty when it is left open.

    Raises InvalidInput for what is no version, such as an engine's name or a negative number.
    """
    named = version_name("", written)
    is_numbered = len(named) <= _LONGEST_VERSION and _ASKED_VERSION.fullmatch(named)
    if named and not is_numbered and named.split("-")[0] not in _NEWEST_NAMES:
        raise InvalidInput(
            "engine-version",
            f"{written[:_LONGEST_VERSION]!r} is not a version; write one such as 0.11.0 or 1.2.0rc5, or latest",
        )
    return named


def _split(engine: str) -> tuple[str, tuple[int, ...]]:
    found = re.fullmatch(r"(.*?)[ -]v?(\d+(?:\.\d+)*.*)", engine)
    if not found:
        return engine, ()
    return found[1], _numbers(found[2])


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version; none for `nightly` and the like, which are taken as the newest."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version.strip().lower())
    return tuple(int(part) for part in found[1].split(".")[:3]) if found else ()
