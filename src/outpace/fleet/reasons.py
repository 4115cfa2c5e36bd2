"""Why a process ended, in words for the person who reads a status line. Pure."""

import re
import signal

import msgspec

from outpace.engines.child import LISTENING

_LONGEST = 300
# What engines and the system write, and what it means here. The first match counts.
_MEANINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"address already in use", re.I), "its port or socket is taken by another process"),
    (re.compile(r"cuda.*out of memory|out of memory.*cuda", re.I), "the GPU's memory is not enough"),
    (re.compile(r"std::bad_alloc|cannot allocate memory|MemoryError", re.I), "the memory is not enough"),
    (re.compile(r"no space left on device", re.I), "the disk is full"),
    (re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'"), "the engine is not installed"),
    (re.compile(r"too many open files", re.I), "the limit of open files is reached (`ulimit -n`)"),
)


def last_words(line: str) -> str:
    """The message of a last log line: of a JSON event its reason, of a traceback its last line."""
    try:
        event = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line[:_LONGEST]
    if not isinstance(event, dict):
        return line[:_LONGEST]
    if event.get("event") == LISTENING:
        # It said nothing after that it was well.
        return ""
    for name in ("reason", "error", "message", "event"):
        if isinstance(event.get(name), str):
            return str(event[name])[:_LONGEST]
    return line[:_LONGEST]


def why_ended(exit_code: int, last_line: str) -> str:
    """One line: how it ended and, where it said so, why."""
    words = last_words(last_line)
    meaning = next((told for pattern, told in _MEANINGS if pattern.search(words)), None)
    said = f"{meaning} ({words})" if meaning else words
    ending = _ending(exit_code)
    return f"{ending}: {said}" if said else ending


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if name == "SIGKILL":
        return "was killed (SIGKILL; the kernel does this when memory runs out)"
    return f"crashed ({name})"
