"""CPU time of processes by the kernel's own accounting (/proc/PID/task/*/schedstat, nanoseconds)."""

from pathlib import Path


def cpu_s(pids: list[int]) -> float:
    """Seconds on a CPU, all threads of all `pids`."""
    return sum(_process_ns(pid) for pid in pids) / 1e9


def rss_bytes(pids: list[int]) -> int:
    """Resident bytes of `pids` together, shared pages counted in each."""
    return sum(_status_kib(pid, "VmRSS") for pid in pids) * 1024


def children(pid: int) -> list[int]:
    """`pid` and all processes below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        words = below.read_text().split()
    except FileNotFoundError:
        return [pid]
    return [pid, *(deeper for word in words for deeper in children(int(word)))]


def _process_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    return total


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0
