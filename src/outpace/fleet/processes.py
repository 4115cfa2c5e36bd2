"""Which processes are ours, and ending them for certain: pids are only trusted with their start time."""

import contextlib
import os
import select
import signal
from collections.abc import Container, Iterable
from pathlib import Path

import msgspec

# Every child inherits it, grandchildren too; so leftovers are found even when they left their group.
MARK = "OUTPACE_SUPERVISED"
_PROC = Path("/proc")


class Identity(msgspec.Struct, frozen=True):
    """One life of a pid: the number, and when it started in clock ticks since the machine's boot."""

    pid: int
    started_ticks: int
    machine_boot: str


class _Stat(msgspec.Struct, frozen=True):
    state: str
    parent: int
    group: int
    session: int
    started_ticks: int


def identity_of(pid: int) -> Identity | None:
    """The life that `pid` names now; None when there is none (a zombie is none)."""
    stat = _stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    return Identity(pid=pid, started_ticks=stat.started_ticks, machine_boot=machine_boot())


def is_alive(identity: Identity) -> bool:
    """This very life still runs; another process with the same number does not count."""
    return identity_of(identity.pid) == identity


def machine_boot() -> str:
    """The kernel's id of this boot, so that a record from before a reboot matches nothing."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def leftovers(mark: str, groups: Iterable[Identity]) -> list[Identity]:
    """Processes that a dead supervisor left: those that carry `mark`, and the rest of its process groups."""
    leaders = {leader.pid: leader for leader in groups if leader.machine_boot == machine_boot()}
    spared = _ancestry()
    found: list[Identity] = []
    for pid in _pids():
        stat = _stat(pid)
        if pid in spared or stat is None or stat.state in "ZX":
            continue
        if _carries(pid, mark) or _is_of_group(pid, stat, leaders):
            found.append(Identity(pid=pid, started_ticks=stat.started_ticks, machine_boot=machine_boot()))
    return found


def orphans(mark: str, known: Container[int]) -> list[Identity]:
    """Marked children of this process that it did not start: their parent died and left them here."""
    own = os.getpid()
    candidates = [identity for identity in leftovers(mark, ()) if identity.pid not in known]
    return [each for each in candidates if (stat := _stat(each.pid)) is not None and stat.parent == own]


def end_all(identities: Iterable[Identity], deadline_s: float) -> list[Identity]:
    """SIGKILL each one and wait until it is gone; answers those that outlived `deadline_s`."""
    fds = {identity: fd for identity in identities if (fd := _pidfd(identity)) is not None}
    for fd in fds.values():
        _signal(fd, signal.SIGKILL)
    return [identity for identity, fd in fds.items() if not _wait_and_close(fd, deadline_s)]


def ask_to_end(identity: Identity) -> bool:
    """SIGTERM to this life only; False when it is gone."""
    fd = _pidfd(identity)
    if fd is None:
        return False
    _signal(fd, signal.SIGTERM)
    os.close(fd)
    return True


def wait_for_end(identity: Identity, deadline_s: float) -> bool:
    """Block until it has ended; False when it runs longer than `deadline_s`."""
    fd = _pidfd(identity)
    return fd is None or _wait_and_close(fd, deadline_s)


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses; fields count from the last one (proc(5)).
    fields = text.rpartition(")")[2].split()
    return _Stat(
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started_ticks=int(fields[19]),
    )


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _is_of_group(pid: int, stat: _Stat, leaders: dict[int, Identity]) -> bool:
    leader = leaders.get(stat.group)
    if leader is None or stat.session != stat.group:
        return False
    if pid == leader.pid:
        return stat.started_ticks == leader.started_ticks
    # The kernel gives a group's number to nobody else while a member lives, so a living leader must be ours.
    now = _stat(leader.pid)
    return stat.started_ticks >= leader.started_ticks and (
        now is None or now.started_ticks == leader.started_ticks
    )


def _ancestry() -> set[int]:
    spared: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in spared:
        spared.add(pid)
        stat = _stat(pid)
        pid = stat.parent if stat else 0
    return spared


def _pidfd(identity: Identity) -> int | None:
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        return None
    if is_alive(identity):
        return fd
    os.close(fd)
    return None


def _signal(fd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, number)


def _wait_and_close(fd: int, deadline_s: float) -> bool:
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(deadline_s * 1000))
    finally:
        os.close(fd)
