"""The Ray pool: each replica is a detached actor on some machine of a Ray cluster, with its engine's process.

`python -m outpace.fleet.ray_pool run HOME HOST:PORT token`: the only user of `ray` while the platform runs, in a
process of its own, because Ray may end its driver. Replicas outlive it for their lease and are found again by name
(decision 0042).
"""

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from outpace import __version__
from outpace.fleet import wire
from outpace.fleet.cluster import (
    LEASE_S,
    Facts,
    HostOrder,
    avoided_for,
    is_hopeless,
    why_lying,
    why_no_room,
    why_not_there,
)
from outpace.fleet.logs import BoundedLog
from outpace.fleet.pool import Child, Fetching, PoolMachine, require_startable
from outpace.fleet.pool_door import PoolDoor
from outpace.fleet.ray_calls import (
    connect,
    hosts_for,
    machines_now,
    machines_of,
    own_address,
    rays_errors,
    remove,
    remove_groups,
    reserve_memory,
    reserved,
)
from outpace.fleet.record import mark_of
from outpace.fleet.supervisor import EXIT_CONFIG
from outpace.fleet.supplies import Supplies, within
from outpace.values.clock import Clock, SystemClock
from outpace.values.deployment import Launch, Needs
from outpace.values.errors import Conflict, EngineFailed, InvalidInput, OutpaceError
from outpace.values.home import Home

_LOG = structlog.get_logger()
_HOST_S = 45.0
_LOOK_S = 2.0
_FIND_S = 10.0
# A machine that is out of reach for this long has lost its replicas.
_LOST_AFTER_S = 6.0
_AGAIN_S = 0.5
_KILLED_MARGIN_S = 4.0
_ENDED_KEPT = 100


async def run_ray_pool(
    home: Home, address: str, *, is_open: bool, lease_s: float = LEASE_S, grace_s: float = 5.0
) -> None:
    """Be the Ray pool of a home until SIGTERM; then end every replica on every machine.

    Raises InvalidInput when this machine cannot be a part of the cluster.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    pool = RayPool(home, SystemClock(), lease_s)
    await asyncio.to_thread(connect, address, is_open=is_open)
    # Ray installs handlers of its own while it connects.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await pool.find_again()
    door = await PoolDoor(pool).open(home.ray_socket)
    renewing = asyncio.create_task(pool.renew_for_ever())
    try:
        await stopping.wait()
    finally:
        renewing.cancel()
        door.close()
        await pool.end_all(grace_s)


async def sweep(home: Home, address: str, *, is_open: bool) -> None:
    """End what an earlier Ray pool of this home left. Raises InvalidInput when the cluster cannot be joined."""
    pool = RayPool(home, SystemClock(), LEASE_S)
    await asyncio.to_thread(connect, address, is_open=is_open)
    await pool.find_again()
    await pool.end_all(grace_s=1.0)


class _Life:
    """A replica, its actors, one for each machine, and the placement group that they live in."""

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        # Names its actors and its placement group; a life has its own.
        self.key = key
        self.hosts: list[Any] = []
        self.child: Child | None = None
        self.watching: asyncio.Task[None] | None = None
        self.killer: asyncio.Task[None] | None = None
        self.machines: list[str] = []
        # How far the weights are, by machine; empty when nothing has to come.
        self.fetching: dict[int, Fetching] = {}
        self.fetch_s = 0.0


class RayPool:
    """A `Pool` on a Ray cluster that this process is connected to. Lives on one event loop."""

    def __init__(self, home: Home, clock: Clock, lease_s: float) -> None:
        self._home = home
        self._clock = clock
        self._lease_s = lease_s
        self._prefix = f"outpace-{mark_of(home)[:16]}/"
        self._lives: dict[str, _Life] = {}
        self._ended: dict[str, Child] = {}
        self._listeners: set[asyncio.Queue[Child]] = set()
        # By the cluster's id of a machine: what is wrong with it.
        self._problems: dict[str, str] = {}
        self._supplies = Supplies(home.sockets, own_address)

    # The protocol

    async def start(self, name: str, launch: Launch, note: str = "") -> Child:
        """Reserve, start a host on each machine, start the engine. Raises Conflict, InvalidInput, EngineFailed."""
        return await self._begin(name, launch, note, stands_by=False)

    async def stand_by(self, name: str, launch: Launch, note: str = "") -> Child:
        """Start a process that waits for another's launch; it holds what a replica reserves. Raises as `start`."""
        return await self._begin(name, launch, note, stands_by=True)

    async def hand_over(self, standby: str, name: str, launch: Launch, note: str = "") -> Child:
        """Let a process that stands by become the replica `name`, on the machine where it is.

        Raises EngineFailed when it cannot: it is ended by then. Raises Conflict when a `name` runs.
        """
        require_startable(name, launch)
        await self._let_end(name)
        if name in self._lives:
            raise Conflict(f"{name} runs already")
        life = self._lives.get(standby)
        if life is None or life.child is None:
            raise EngineFailed(f"{standby} does not stand by")
        try:
            with rays_errors():
                await self._require_room_at(life, launch.needs)
                await self._supply(life, launch)
                order = msgspec.json.encode(self._order(name, launch, note))
                life.child = self._with_cost(life, await _answered(life.hosts[0].hand_over.remote(order)))
        except EngineFailed:
            await self.stop(standby, 0.0)
            raise
        del self._lives[standby]
        life.name = name
        self._lives[name] = life
        self._ended.pop(name, None)
        return life.child

    async def _begin(self, name: str, launch: Launch, note: str, *, stands_by: bool) -> Child:
        require_startable(name, launch)
        await self._let_end(name)
        if name in self._lives:
            raise Conflict(f"{name} runs already")
        life = _Life(name, f"{self._prefix}{name}/{secrets.token_hex(4)}")
        self._lives[name] = life
        try:
            with rays_errors():
                await self._host(life, launch.needs)
                await self._supply(life, launch)
                child = await self._start_engine(life, launch, note, stands_by=stands_by)
                life.child = self._with_cost(life, child)
        except BaseException:
            del self._lives[name]
            await self._abandon(life)
            raise
        self._ended.pop(name, None)
        life.watching = asyncio.create_task(self._watch(life))
        return life.child

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask a replica to end; after `grace_s` it is killed, and where its machine is out of reach given up."""
        life = self._lives.get(name)
        if life is None or life.child is None:
            return
        for host in life.hosts:
            host.stop.remote(grace_s)
        if life.killer is not None:
            life.killer.cancel()
        life.killer = asyncio.create_task(self._kill_later(life, grace_s + _KILLED_MARGIN_S))

    async def replicas(self) -> list[Child]:
        """The replicas that run, and those that ended lately."""
        await asyncio.gather(*(self._look(life) for life in self._lives.values()))
        living = [life.child for life in self._lives.values() if life.child is not None]
        return [*living, *self._ended.values()]

    async def machines(self) -> list[PoolMachine]:
        """The machines of the cluster, those that left it too."""
        with rays_errors():
            return await asyncio.to_thread(machines_now, dict(self._problems))

    def fetching(self, name: str) -> Fetching | None:
        """How far the weights of a start under way have come, over all its machines."""
        life = self._lives.get(name)
        if life is None or not life.fetching:
            return None
        seen = life.fetching.values()
        return Fetching(sum(each.done_bytes for each in seen), sum(each.total_bytes for each in seen))

    async def ends(self) -> AsyncIterator[Child]:
        """Every end from now on."""
        queue: asyncio.Queue[Child] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    # Over the pool's own lives

    async def find_again(self) -> None:
        """Take over the replicas that an earlier process of this home left in the cluster."""
        import ray

        with rays_errors():
            names = await asyncio.to_thread(ray.util.list_named_actors)
            for key in sorted({name.rpartition("/")[0] for name in names if name.startswith(self._prefix)}):
                await self._find_one(key, [name for name in names if name.rpartition("/")[0] == key])
            await asyncio.to_thread(remove_groups, self._prefix, {life.key for life in self._lives.values()})

    async def renew_for_ever(self) -> None:
        """Keep the leases alive, whoever asks or does not."""
        while True:
            await self._clock.sleep(self._lease_s / 4)
            await asyncio.gather(*(self._look(life) for life in self._lives.values()))

    async def end_all(self, grace_s: float) -> None:
        """End every replica on every machine."""
        await asyncio.gather(*(self.stop(name, grace_s) for name in list(self._lives)))
        watching = [life.watching for life in self._lives.values() if life.watching is not None]
        if watching:
            await asyncio.wait(watching, timeout=grace_s + _KILLED_MARGIN_S)
        for life in list(self._lives.values()):
            await self._abandon(life)
        await self._supplies.close()
        with contextlib.suppress(OutpaceError), rays_errors():
            await asyncio.to_thread(remove_groups, self._prefix, set())

    # Starting

    async def _host(self, life: _Life, needs: Needs) -> None:
        """A host on each machine; machines that do not have what they say are left out from then on."""
        while True:
            await self._reserve(life, needs)
            liar = await self._first_liar(life)
            if liar is None:
                return
            _LOG.warning("machine_refused", machine=liar, reason=self._problems[liar])
            await self._abandon(life)

    async def _reserve(self, life: _Life, needs: Needs) -> None:
        machines = await self.machines()
        if is_hopeless(needs, machines):
            raise EngineFailed(why_no_room(needs, machines))
        avoided = avoided_for(needs, machines, self._siblings(life.name))
        reserving = asyncio.to_thread(reserved, life.key, needs, avoided)
        life.machines = await reserving
        if not life.machines:
            raise EngineFailed(why_no_room(needs, machines))
        life.hosts = await asyncio.to_thread(hosts_for, life.key, needs, self._lease_s)

    async def _require_room_at(self, life: _Life, needs: Needs) -> None:
        """What stands by may become this replica where it is. Raises EngineFailed."""
        machine = next((each for each in await self.machines() if each.name == life.machines[0]), None)
        problem = "its machine is gone" if machine is None else why_not_there(needs, machine)
        if problem is None and needs.memory_bytes:
            memory = asyncio.to_thread(reserve_memory, life.key, life.machines[0], needs.memory_bytes)
            problem = None if await memory else "its machine has not the memory any more"
        if problem is not None:
            raise EngineFailed(f"{life.name} cannot become this replica: {problem}")

    def _siblings(self, name: str) -> set[str]:
        """Machines that have replicas of the same deployment."""
        deployment = name.rpartition("@")[0]
        kin = [life for life in self._lives.values() if life.name.rpartition("@")[0] == deployment]
        return {machine for life in kin if life.name != name for machine in life.machines}

    async def _first_liar(self, life: _Life) -> str | None:
        known = {machine.name: machine for machine in await self.machines()}
        for host, machine in zip(life.hosts, life.machines, strict=True):
            found = msgspec.json.decode(await within(_HOST_S, host.facts.remote()), type=Facts)
            claim = known.get(machine)
            problem = why_lying(claim.resources, claim.labels, found) if claim else None
            if problem is not None:
                self._problems[machine] = problem
                return machine
        return None

    async def _supply(self, life: _Life, launch: Launch) -> None:
        """Every file of the launch on every machine of the replica. Raises EngineFailed when one cannot come."""
        began_s = self._clock.monotonic_s()
        if await self._supplies.bring(life.hosts, launch.files, life.fetching):
            life.fetch_s = self._clock.monotonic_s() - began_s

    def _with_cost(self, life: _Life, child: Child) -> Child:
        took_s = {"fetch": life.fetch_s} if life.fetch_s else {}
        life.fetch_s = 0.0
        return msgspec.structs.replace(child, took_s=took_s)

    async def _start_engine(self, life: _Life, launch: Launch, note: str, *, stands_by: bool) -> Child:
        first: Child | None = None
        for rank, host in enumerate(life.hosts):
            order = msgspec.structs.replace(
                self._order(life.name, launch, note),
                rank=rank,
                first_address=first.machine if first else "",
                stands_by=stands_by,
            )
            child = await _answered(host.start.remote(msgspec.json.encode(order)))
            first = first or child
        assert first is not None, "a replica is on one machine at least"
        return first

    def _order(self, name: str, launch: Launch, note: str) -> HostOrder:
        return HostOrder(
            name=name,
            launch=launch,
            note=note,
            version=__version__,
            python=sys.executable,
            socket_dir=str(self._home.sockets),
            artifacts_dir=str(self._home.artifacts),
        )

    async def _let_end(self, name: str) -> None:
        """A life that is known to have ended is over before another one begins."""
        life = self._lives.get(name)
        if life is not None and life.watching is not None and life.child and life.child.exit_code is not None:
            await asyncio.wait({life.watching}, timeout=_KILLED_MARGIN_S)

    # Watching

    async def _look(self, life: _Life) -> None:
        """What it is now; the figure of before when its machine does not say in time."""
        for host in life.hosts[1:]:
            host.look.remote()
        if life.child is None:
            return
        with contextlib.suppress(Exception):
            answer = wire.answer(await within(_LOOK_S, life.hosts[0].look.remote()))
            self._keep_log(life.name, answer.log)
            if answer.children and life.child.exit_code is None:
                life.child = answer.children[0]

    async def _watch(self, life: _Life) -> None:
        """Until any of its hosts says that it has ended, or is no more."""
        tasks = [asyncio.create_task(self._end_of(life, host)) for host in life.hosts]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await self._finish(life, next(iter(done)).result())

    async def _end_of(self, life: _Life, host: Any) -> Child:
        from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

        assert life.child is not None
        lost_s: float | None = None
        while True:
            try:
                answer = wire.answer(await host.ended.remote())
                self._keep_log(life.name, answer.log)
                return answer.children[0]
            except ActorDiedError:
                reason = f"the machine {life.child.machine} is gone, or its host was killed"
                break
            except (ActorUnavailableError, RayError):
                lost_s = lost_s or self._clock.monotonic_s()
                reason = f"the machine {life.child.machine} is out of reach"
            if self._clock.monotonic_s() - lost_s > _LOST_AFTER_S:
                break
            await self._clock.sleep(_AGAIN_S)
        return msgspec.structs.replace(life.child, exit_code=-signal.SIGKILL, last_line=reason)

    async def _finish(self, life: _Life, end: Child) -> None:
        if self._lives.get(life.name) is not life:
            return
        del self._lives[life.name]
        if life.killer is not None and life.killer is not asyncio.current_task():
            life.killer.cancel()
        self._ended[life.name] = end
        while len(self._ended) > _ENDED_KEPT:
            del self._ended[next(iter(self._ended))]
        for queue in self._listeners:
            queue.put_nowait(end)
        await self._abandon(life)

    async def _kill_later(self, life: _Life, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        assert life.child is not None
        if life.watching is not None:
            life.watching.cancel()
        end = msgspec.structs.replace(
            life.child, exit_code=-signal.SIGKILL, last_line=f"given up: {life.child.machine} did not end it"
        )
        await self._finish(life, end)

    async def _abandon(self, life: _Life) -> None:
        """Nothing of it is left in the cluster."""
        with contextlib.suppress(Exception):
            await asyncio.to_thread(remove, life.key, life.hosts)
        life.hosts = []

    async def _find_one(self, key: str, names: Sequence[str]) -> None:
        import ray

        life = _Life(key.removeprefix(self._prefix).rpartition("/")[0], key)
        by_rank = sorted(names, key=lambda name: int(name.rpartition("/")[2]))
        with contextlib.suppress(Exception):
            life.hosts = [await asyncio.to_thread(ray.get_actor, name) for name in by_rank]
            raws = [await within(_FIND_S, host.look.remote()) for host in life.hosts]
            life.child = next(iter(wire.answer(raws[0]).children), None)
            # What stood by has another name by now than its actor.
            life.name = life.child.name if life.child else life.name
        if life.child is None or life.name in self._lives:
            # It was being started, or its machine went away.
            await self._abandon(life)
            return
        life.machines = await asyncio.to_thread(machines_of, key)
        self._lives[life.name] = life
        life.watching = asyncio.create_task(self._watch(life))
        _LOG.info("replica_found", replica=life.name, machine=life.child.machine)

    def _keep_log(self, name: str, written: str) -> None:
        if written:
            log = BoundedLog(self._home.logs / f"{name}.log")
            log.write(written.encode())
            log.close()


async def _answered(awaited: Awaitable[bytes]) -> Child:
    """The child of a host's answer. Raises EngineFailed with its error."""
    answer = wire.answer(await within(_HOST_S, awaited))
    if answer.error is not None:
        raise EngineFailed(answer.error)
    return answer.children[0]


def main(argv: list[str]) -> None:
    """`run` or `sweep`, the home's folder, the head's address, and `token` or `none`."""
    what, root, address, auth = argv
    act = {"run": run_ray_pool, "sweep": sweep}[what]
    try:
        asyncio.run(act(Home(Path(root)), address, is_open=auth == "none"))
    except InvalidInput as error:
        _LOG.error("ray_refused", reason=str(error))
        raise SystemExit(EXIT_CONFIG) from error


if __name__ == "__main__":
    main(sys.argv[1:])
