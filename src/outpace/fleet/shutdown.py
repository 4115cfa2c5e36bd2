"""`outpace down`: end the supervisor of a home and whatever it may have left."""

import contextlib

import msgspec

from outpace.fleet.processes import Identity, ask_to_end, end_all, wait_for_end
from outpace.fleet.record import claim, reap_predecessor, running_supervisor
from outpace.values.home import Home

_KILL_DEADLINE_S = 10.0


class Ended(msgspec.Struct, frozen=True):
    """What a shutdown found and did."""

    # None: nothing was running.
    supervisor_pid: int | None
    # The supervisor did not end within the grace time and was killed.
    was_killed: bool
    num_leftovers: int


def shut_down(home: Home, grace_s: float) -> Ended:
    """Ask the supervisor to end, kill it after `grace_s`, reap the rest. Blocks. Raises Conflict."""
    if not home.run.is_dir():
        return Ended(supervisor_pid=None, was_killed=False, num_leftovers=0)
    supervisor = running_supervisor(home)
    was_killed = supervisor is not None and _end(supervisor, grace_s)
    with claim(home):
        num_leftovers = reap_predecessor(home)
        with contextlib.suppress(FileNotFoundError):
            (home.sockets / "supervisor.sock").unlink()
    return Ended(
        supervisor_pid=supervisor.pid if supervisor else None,
        was_killed=was_killed,
        num_leftovers=num_leftovers,
    )


def _end(supervisor: Identity, grace_s: float) -> bool:
    ask_to_end(supervisor)
    if wait_for_end(supervisor, grace_s):
        return False
    end_all([supervisor], _KILL_DEADLINE_S)
    return True
