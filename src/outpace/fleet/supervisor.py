"""The supervisor: starts every process of the platform, ends them all, and decides nothing about models.

It imports only the standard library and msgspec, runs in one thread, and owns all children of its process
(decision 0001): whatever else runs in the same process must start none.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from outpace.fleet import wire
from outpace.fleet.children import (
    Process,
    adopt_orphans,
    collect,
    next_ended,
    yield_memory_first,
)
from outpace.fleet.handover import arguments, hand_over
from outpace.fleet.pool import Child, require_startable
from outpace.fleet.ports import require_free
from outpace.fleet.processes import MARK, end_all, leftovers, orphans
from outpace.fleet.reasons import last_words
from outpace.fleet.record import claim, mark_of, reap_predecessor, write_record
from outpace.fleet.restarts import NO_FAILURES, Failures, RestartPolicy, after_failure, is_open, next_start_s
from outpace.values.clock import Clock, SystemClock
from outpace.values.errors import Conflict, EngineFailed, InvalidInput, OutpaceError
from outpace.values.home import Home

# A program that exits with it (EX_CONFIG of sysexits.h) asks not to be started again: its settings are wrong.
EXIT_CONFIG = 78
# Nothing works without them, so an open breaker is tried again soon.
PROGRAM_RESTARTS = RestartPolicy(longest_wait_s=2.0, healthy_after_s=10.0, retry_open_s=5.0)
_ENDED_KEPT = 100


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the platform itself that must always run."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    # When the platform stops, lower ranks end before higher ones are asked; replicas end last.
    stop_rank: int = 0
    grace_s: float = 30.0


class Port(msgspec.Struct, frozen=True):
    """An address that programs will listen at, and the setting it comes from."""

    host: str
    port: int
    setting: str


class ProgramRefused(OutpaceError):
    """A program says that it cannot run with these settings."""

    code = "settings_refused"


class _Life:
    """A child and what is known about its lives."""

    def __init__(self, name: str, process: Process, started_at: float, started_s: float) -> None:
        self.name = name
        self.process = process
        self.started_at = started_at
        self.started_s = started_s
        self.program: Program | None = None
        self.note = ""
        self.killer: asyncio.TimerHandle | None = None
        self.is_stopping = False


async def run_supervisor(
    home: Home,
    programs: Sequence[Program],
    *,
    base_env: Mapping[str, str],
    ports: Sequence[Port] = (),
    replica_grace_s: float = 5.0,
    clock: Clock | None = None,
) -> None:
    """Run until SIGTERM or SIGINT and leave nothing behind.

    Raises Conflict when the home is in use, InvalidInput for a port that is taken, ProgramRefused when a
    program says that it cannot run with its settings.
    """
    home.make()
    with claim(home):
        reap_predecessor(home)
        # It names replicas that are gone; control writes another.
        home.snapshot.unlink(missing_ok=True)
        for port in ports:
            require_free(port.host, port.port, port.setting)
        supervisor = Supervisor(home, programs, base_env, replica_grace_s, clock or SystemClock())
        await supervisor.run()


class Supervisor:
    """Owner of all children; its methods run on one event loop."""

    def __init__(
        self,
        home: Home,
        programs: Sequence[Program],
        base_env: Mapping[str, str],
        replica_grace_s: float,
        clock: Clock,
    ) -> None:
        self._home = home
        self._programs = programs
        self._env = {**base_env, MARK: mark_of(home)}
        self._replica_grace_s = replica_grace_s
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._ended: dict[str, Child] = {}
        self._failures: dict[str, Failures] = {}
        self._restarts: dict[str, int] = {}
        self._watchers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._stop_signals = 0
        self._refusal: str | None = None

    async def run(self) -> None:
        """Start the programs, serve the socket, and on a signal end everything in order."""
        loop = asyncio.get_running_loop()
        adopt_orphans()
        self._write_record()
        loop.add_signal_handler(signal.SIGCHLD, self._collect_ended)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        socket_path = self._home.sockets / "supervisor.sock"
        socket_path.unlink(missing_ok=True)
        umask = os.umask(0o177)
        server = await asyncio.start_unix_server(self._serve, path=socket_path, limit=wire.LONGEST_LINE_BYTES)
        os.umask(umask)
        try:
            for program in self._programs:
                self._start_program(program)
            await self._until(lambda: self._stop_signals > 0)
            await self._end_in_order()
        finally:
            self._end_at_once()
            await self._until(lambda: not self._lives)
            end_all(leftovers(self._env[MARK], ()), deadline_s=5.0)
            server.close()
            self._close_watchers()
            socket_path.unlink(missing_ok=True)
            self._home.supervisor.unlink(missing_ok=True)
            self._home.remove_sockets()
            loop.remove_signal_handler(signal.SIGCHLD)
        if self._refusal is not None:
            raise ProgramRefused(self._refusal)

    def _ask_to_stop(self) -> None:
        self._stop_signals += 1
        self._changed.set()

    async def _until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self._changed.clear()
            await self._changed.wait()

    async def _end_in_order(self) -> None:
        for rank in sorted({program.stop_rank for program in self._programs}):
            await self._end_those(partial(_has_rank, rank))
        await self._end_those(partial(_has_rank, None))

    async def _end_those(self, is_meant: Callable[[_Life], bool]) -> None:
        for life in [life for life in self._lives.values() if is_meant(life)]:
            self._stop(life, life.program.grace_s if life.program else self._replica_grace_s)
        await self._until(
            lambda: self._stop_signals > 1 or not any(is_meant(life) for life in self._lives.values())
        )

    def _end_at_once(self) -> None:
        self._stop_signals += 1
        for life in self._lives.values():
            life.is_stopping = True
            life.process.end_group()

    # Starting and ending

    def _start_program(self, program: Program) -> None:
        if self._stop_signals:
            return
        try:
            life = self._start(program.name, program.argv, program.env)
        except OSError as error:
            self._program_failed(program, 0.0)
            self._refuse(program, f"{program.argv[0]}: {error.strerror}")
            return
        life.program = program

    def _start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], *, stands_by: bool = False
    ) -> _Life:
        process = Process(argv, {**self._env, **env}, self._log_of(name), stands_by=stands_by)
        life = _Life(name, process, self._clock.wall_s(), self._clock.monotonic_s())
        self._lives[name] = life
        self._ended.pop(name, None)
        asyncio.get_running_loop().add_reader(process.output_fd, self._pump, life)
        self._write_record()
        return life

    def _log_of(self, name: str) -> Path:
        return self._home.logs / f"{name}.log"

    def _pump(self, life: _Life) -> None:
        if not life.process.pump():
            asyncio.get_running_loop().remove_reader(life.process.output_fd)

    def _stop(self, life: _Life, grace_s: float) -> None:
        life.is_stopping = True
        life.process.ask_to_end()
        if life.killer is not None:
            life.killer.cancel()
        life.killer = asyncio.get_running_loop().call_later(grace_s, life.process.end_group)

    def _collect_ended(self) -> None:
        by_pid = {life.process.pid: life for life in self._lives.values()}
        while (pid := next_ended()) is not None:
            life = by_pid.get(pid)
            if life is not None:
                # Its number is still held, so the group cannot be a stranger's.
                life.process.end_group()
            exit_code = collect(pid)
            if life is not None:
                self._ended_life(life, exit_code)
        # What a dead replica started elsewhere has become our child: it must not outlive the replica.
        end_all(orphans(self._env[MARK], {life.process.pid for life in self._lives.values()}), deadline_s=0.0)
        self._write_record()
        self._changed.set()

    def _ended_life(self, life: _Life, exit_code: int) -> None:
        asyncio.get_running_loop().remove_reader(life.process.output_fd)
        life.process.ended(exit_code)
        if life.killer is not None:
            life.killer.cancel()
        del self._lives[life.name]
        ended = self._child_of(life, exit_code)
        self._tell_watchers(ended)
        if life.program is None:
            self._ended[life.name] = ended
            while len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        elif not life.is_stopping:
            self._program_ended(life.program, exit_code, ended.last_line, self._lived_s(life))

    def _lived_s(self, life: _Life) -> float:
        return self._clock.monotonic_s() - life.started_s

    def _program_ended(self, program: Program, exit_code: int, last_line: str, lived_s: float) -> None:
        is_first = self._restarts.get(program.name, 0) == 0 and lived_s < PROGRAM_RESTARTS.healthy_after_s
        if exit_code == EXIT_CONFIG and is_first:
            self._refuse(program, last_words(last_line))
            return
        self._program_failed(program, lived_s)

    def _program_failed(self, program: Program, lived_s: float) -> None:
        now_s = self._clock.monotonic_s()
        before = self._failures.get(program.name, NO_FAILURES)
        failures = after_failure(before, PROGRAM_RESTARTS, lived_s, now_s)
        self._failures[program.name] = failures
        self._restarts[program.name] = self._restarts.get(program.name, 0) + 1
        at_s = next_start_s(failures, PROGRAM_RESTARTS)
        assert at_s is not None, "programs are always tried again"
        asyncio.get_running_loop().call_later(max(0.0, at_s - now_s), self._start_program, program)

    def _refuse(self, program: Program, reason: str) -> None:
        self._refusal = f"{program.name}: {reason}"
        self._ask_to_stop()

    def _child_of(self, life: _Life, exit_code: int | None = None) -> Child:
        return Child(
            name=life.name,
            pid=life.process.pid,
            started_at=life.started_at,
            exit_code=exit_code,
            last_line=life.process.log.last_line,
            restarts=self._restarts.get(life.name, 0),
            is_replica=life.program is None,
            note=life.note,
            told=life.process.log.told,
        )

    def _write_record(self) -> None:
        # A full disk must not end the platform; leftovers are found by their mark as well.
        with contextlib.suppress(OSError):
            write_record(self._home, [life.process.identity for life in self._lives.values()])

    # The socket

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while raw := await reader.readline():
                answer = await self._answer(raw, writer)
                writer.write(wire.line(answer))
                await writer.drain()
        except (ConnectionError, ValueError):
            # ValueError: a line beyond the limit. The connection is of no more use.
            pass
        finally:
            self._watchers.discard(writer)
            writer.close()

    async def _answer(self, raw: bytes, writer: asyncio.StreamWriter) -> wire.Answer:
        try:
            return await self._obey(wire.order(raw), writer)
        except OutpaceError as error:
            return wire.Answer(error=str(error), code=error.code)
        except msgspec.DecodeError as error:
            return wire.Answer(error=str(error), code=InvalidInput.code)

    async def _obey(self, order: wire.Order, writer: asyncio.StreamWriter) -> wire.Answer:
        match order:
            case wire.Spawn():
                return wire.Answer(children=[self._spawn(order)])
            case wire.HandOver():
                return wire.Answer(children=[await self._hand_over(order)])
            case wire.Stop():
                self._stop_replica(order)
                return wire.Answer()
            case wire.Watch():
                self._watchers.add(writer)
                return wire.Answer()
            case wire.Machines():
                return wire.Answer()
            case wire.List():
                living = [self._child_of(life) for life in self._lives.values()]
                return wire.Answer(children=[*living, *self._waiting(), *self._ended.values()])

    def _waiting(self) -> list[Child]:
        """Programs between two lives, so that nobody thinks they do not exist."""
        return [
            Child(
                name=program.name,
                pid=0,
                started_at=0.0,
                exit_code=1,
                last_line="not running: waits before the next start"
                + (" (failed too often in a row)" if self._is_broken(program) else ""),
                restarts=self._restarts.get(program.name, 0),
                is_replica=False,
            )
            for program in self._programs
            if program.name not in self._lives
        ]

    def _is_broken(self, program: Program) -> bool:
        return is_open(self._failures.get(program.name, NO_FAILURES), PROGRAM_RESTARTS)

    def _require_free(self, order: wire.Spawn | wire.HandOver) -> None:
        require_startable(order.name, order.launch)
        if self._stop_signals:
            raise Conflict("the platform is stopping")
        if order.name in self._lives or any(order.name == program.name for program in self._programs):
            raise Conflict(f"{order.name} runs already")

    def _spawn(self, order: wire.Spawn) -> Child:
        self._require_free(order)
        try:
            life = self._start(order.name, order.launch.argv, order.launch.env, stands_by=order.stands_by)
        except OSError as error:
            raise EngineFailed(f"{order.launch.argv[0]}: {os.strerror(error.errno or 0)}") from error
        life.note = order.note
        yield_memory_first(life.process.pid)
        return self._child_of(life)

    async def _hand_over(self, order: wire.HandOver) -> Child:
        self._require_free(order)
        life = self._lives.get(order.standby)
        channel = life.process.take_channel() if life is not None else None
        if life is None or channel is None:
            raise EngineFailed(f"{order.standby} does not stand by")
        with channel:
            try:
                told = arguments(life.process.argv, order.launch.argv)
                # Before it can write: an engine that starts at once speaks before we hear that it has taken over.
                life.process.log.move(self._log_of(order.name))
                await hand_over(channel, told, order.launch.env)
                self._require_free(order)
                self._require_life(order.standby, life)
            except OutpaceError:
                # It may have taken half of it, so it is of no more use. A pid that was collected is not ours.
                if self._lives.get(order.standby) is life:
                    life.process.end_group()
                raise
        self._rename(life, order)
        return self._child_of(life)

    def _require_life(self, name: str, life: _Life) -> None:
        if self._lives.get(name) is not life or life.is_stopping:
            raise EngineFailed(f"{name} ended as it took over")

    def _rename(self, life: _Life, order: wire.HandOver) -> None:
        del self._lives[life.name]
        life.name, life.note = order.name, order.note
        life.started_at, life.started_s = self._clock.wall_s(), self._clock.monotonic_s()
        self._lives[life.name] = life
        self._ended.pop(life.name, None)

    def _stop_replica(self, order: wire.Stop) -> None:
        life = self._lives.get(order.name)
        if life is not None and life.program is None:
            self._stop(life, order.grace_s)

    def _tell_watchers(self, ended: Child) -> None:
        for writer in list(self._watchers):
            # A watcher that does not read must not fill our memory; it lists when it comes back.
            if writer.transport.get_write_buffer_size() > wire.LONGEST_LINE_BYTES:
                writer.close()
            else:
                writer.write(wire.line(wire.Answer(children=[ended])))

    def _close_watchers(self) -> None:
        for writer in self._watchers:
            writer.close()


def _has_rank(rank: int | None, life: _Life) -> bool:
    return (life.program.stop_rank if life.program else None) == rank
