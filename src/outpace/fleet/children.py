"""One child process: started in a group of its own that dies with us, its output in a bounded log."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from outpace.fleet.logs import BoundedLog
from outpace.fleet.processes import Identity, identity_of, machine_boot
from outpace.values.units import KIB

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PIPE_READ_BYTES = 64 * KIB
# Under memory pressure the kernel ends an engine before the platform.
_REPLICA_OOM_SCORE = 500
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Process:
    """A running child. The owner calls `ended` when the kernel reports its end."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log_path: Path, *, stands_by: bool = False
    ) -> None:
        self.log = BoundedLog(log_path)
        self.argv = tuple(argv)
        # The standard input of a process that stands by; None for others.
        self._channel: socket.socket | None = None
        inward: socket.socket | None = None
        if stands_by:
            self._channel, inward = socket.socketpair()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            self._popen = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL if inward is None else inward.fileno(),
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                preexec_fn=_dying_with(os.getpid()),
            )
        except BaseException:
            os.close(reading)
            self._close_channel()
            raise
        finally:
            os.close(writing)
            if inward is not None:
                inward.close()
        self.output_fd = reading
        self.pid = self._popen.pid
        self.identity = identity_of(self.pid) or Identity(self.pid, 0, machine_boot())

    def pump(self) -> bool:
        """Move what the child wrote to its log without waiting; False at the end of its output."""
        try:
            piece = os.read(self.output_fd, _PIPE_READ_BYTES)
        except BlockingIOError:
            return True
        self.log.write(piece)
        return bool(piece)

    def take_channel(self) -> socket.socket | None:
        """The standard input of a process that stands by, once, for the caller to close; None for all others."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.setblocking(False)
        return channel

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def ask_to_end(self) -> None:
        """SIGTERM to the child itself; it ends its own children."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def end_group(self) -> None:
        """SIGKILL to the child and all that it started in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, exit_code: int) -> None:
        """Read the rest of its output and free what we hold of it."""
        # subprocess must not wait for a pid that was waited for here and may be someone else's by now.
        self._popen.returncode = exit_code
        os.set_blocking(self.output_fd, False)
        for _ in range(64):
            if self._is_drained():
                break
        os.close(self.output_fd)
        self._close_channel()
        self.log.close()

    def _is_drained(self) -> bool:
        try:
            piece = os.read(self.output_fd, _PIPE_READ_BYTES)
        except BlockingIOError:
            return True
        self.log.write(piece)
        return not piece


def yield_memory_first(pid: int) -> None:
    """Offer this child to the kernel before others when memory runs out."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_REPLICA_OOM_SCORE))


def adopt_orphans() -> None:
    """Grandchildren whose parent died become our children, so that none stays a zombie."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def next_ended() -> int | None:
    """Pid of a child that has ended but still holds its number; None when there is none."""
    try:
        seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return seen.si_pid if seen else None


def collect(pid: int) -> int:
    """Free the number of an ended child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _dying_with(parent_pid: int) -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def between_fork_and_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the line above took effect.
        if os.getppid() != parent_pid:
            os._exit(1)

    return between_fork_and_exec
