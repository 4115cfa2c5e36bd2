"""One line about this machine: what a CPU engine will find."""

import os
import platform
import re
from pathlib import Path

from outpace.values.units import GIB

_FEATURES = ("amx_tile", "avx512f", "avx2", "asimd")


def machine_line() -> str:
    """`python 3.11 · 2 cores (AVX2) · 23 GiB`; what cannot be found out is left out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    feature = _widest_feature(_read("/proc/cpuinfo"))
    memory_bytes = _memory_bytes(_read("/proc/meminfo"))
    parts = [
        f"python {platform.python_version()}",
        f"{cores} core{'s' if cores != 1 else ''}" + (f" ({feature})" if feature else ""),
    ]
    if memory_bytes:
        parts.append(f"{memory_bytes / GIB:.0f} GiB")
    return " · ".join(parts)


def _widest_feature(cpuinfo: str) -> str | None:
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    widest = next((feature for feature in _FEATURES if feature in present), None)
    return (
        {"avx512f": "AVX512", "amx_tile": "AMX", "asimd": "NEON"}.get(widest, widest.upper())
        if widest
        else None
    )


def _memory_bytes(meminfo: str) -> int | None:
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(total[1]) * 1024 if total else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
