"""`run/supervisor.json`: who runs in this home, so that whoever comes next can reap what is left."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from outpace.fleet.processes import Identity, end_all, identity_of, is_alive, leftovers
from outpace.values.errors import Conflict
from outpace.values.home import Home

_REAP_DEADLINE_S = 10.0


class Record(msgspec.Struct, frozen=True):
    """The supervisor's life and its children's; every child leads a process group of its own."""

    supervisor: Identity
    children: list[Identity]


def mark_of(home: Home) -> str:
    """What every process of this home carries in its environment."""
    return hashlib.sha256(os.fsencode(home.root)).hexdigest()[:32]


@contextlib.contextmanager
def claim(home: Home) -> Iterator[None]:
    """Be the only supervisor of this home. Raises Conflict naming the other."""
    fd = os.open(home.run / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # The kernel frees the lock with its holder, however that one dies.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(_already(home)) from None
        yield
    finally:
        os.close(fd)


def write_record(home: Home, children: Sequence[Identity]) -> None:
    """Replace the record atomically."""
    own = identity_of(os.getpid())
    assert own is not None, "a running process has an identity"
    replace_file(home.supervisor, msgspec.json.encode(Record(supervisor=own, children=list(children))))


def read_record(home: Home) -> Record | None:
    """The record of the last supervisor; None when there is none that can be read."""
    try:
        return msgspec.json.decode(home.supervisor.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def running_supervisor(home: Home) -> Identity | None:
    """The supervisor that runs in this home now."""
    record = read_record(home)
    if record is None or not is_alive(record.supervisor):
        return None
    return record.supervisor


def reap_predecessor(home: Home) -> int:
    """End what a dead supervisor of this home left, and say how many. Only for who holds the claim."""
    record = read_record(home)
    found = leftovers(mark_of(home), record.children if record else [])
    stubborn = end_all(found, _REAP_DEADLINE_S)
    if stubborn:
        pids = ", ".join(str(identity.pid) for identity in stubborn)
        raise Conflict(f"processes of an earlier run do not end: {pids}; end them and start again")
    home.supervisor.unlink(missing_ok=True)
    return len(found)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that a reader sees the old or the new one, never a part."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=True) as file:
            file.write(content)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _already(home: Home) -> str:
    running = running_supervisor(home)
    who = f" as process {running.pid}" if running else ""
    return f"Outpace runs already in {home.root}{who}; `outpace down` ends it"
