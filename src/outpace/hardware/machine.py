"""What this machine has: processor features, cores, memory, and NVIDIA devices when their library is present."""

import importlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from outpace.values.units import GIB

# Features that decide which kernels an engine picks, widest first; `asimd` is NEON on 64-bit Arm.
_FEATURES = (
    "amx_tile",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "avx2",
    "fma",
    "f16c",
    "i8mm",
    "sve",
    "asimddp",
    "asimd",
)


@dataclass(frozen=True)
class Accelerator:
    """A device that a driver reports: its name as the driver writes it, and its memory."""

    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """The machine that this process runs on."""

    processor: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    available_bytes: int
    accelerators: tuple[Accelerator, ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        widest = self.features[0] if self.features else "no known vector unit"
        gpus = (
            ", ".join(f"{a.name} {a.memory_bytes / GIB:.0f} GiB" for a in self.accelerators)
            or "no NVIDIA device"
        )
        return (
            f"{self.processor}, {self.cores} cores, {widest}, {self.memory_bytes / GIB:.1f} GiB "
            f"({self.available_bytes / GIB:.1f} GiB available), {gpus}"
        )


def detect() -> Machine:
    """Look at this machine; takes milliseconds, and reads only what the system offers to everyone."""
    facts = _processor_facts(Path("/proc/cpuinfo"))
    total, available = _memory(Path("/proc/meminfo"))
    return Machine(
        processor=facts.get("model name") or platform.processor() or platform.machine(),
        features=_features(facts),
        cores=usable_cores(),
        memory_bytes=total,
        available_bytes=available,
        accelerators=_accelerators(),
    )


def machine_name(machine: Machine) -> str:
    """The kind of machine that a verdict holds for: its processor and the vector units that kernels are picked by."""
    return f"{machine.processor}, {' '.join(machine.features) or 'no vector units'}"


def usable_cores() -> int:
    """Cores that this process may use, container limits included."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota_cores(Path("/sys/fs/cgroup/cpu.max"), allowed)))


def _quota_cores(path: Path, allowed: int) -> int:
    try:
        quota, period = path.read_text(encoding="ascii").split()
        return allowed if quota == "max" else max(1, int(int(quota) / int(period)))
    except (OSError, ValueError):
        return allowed


def _processor_facts(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _features(facts: dict[str, str]) -> tuple[str, ...]:
    present = set((facts.get("flags") or facts.get("features") or "").split())
    return tuple(feature for feature in _FEATURES if feature in present)


def _memory(path: Path) -> tuple[int, int]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return _pages(), _pages()
    kib = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.split()
    }
    return kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024


def _pages() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _accelerators() -> tuple[Accelerator, ...]:
    """Devices that NVML names; none when the library or a driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            _accelerator(nvml.nvmlDeviceGetName(h), nvml.nvmlDeviceGetMemoryInfo(h)) for h in handles
        )
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _accelerator(name: str | bytes, memory: object) -> Accelerator:
    written = name.decode() if isinstance(name, bytes) else name
    return Accelerator(written, int(getattr(memory, "total", 0)), int(getattr(memory, "free", 0)))
