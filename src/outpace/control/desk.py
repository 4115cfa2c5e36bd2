"""What the admin door offers, without HTTP: each method takes plain values and answers with plain values."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
import structlog

from outpace.control.assembly import settings_of
from outpace.control.companions import owner_of
from outpace.control.keys import Key, key_document, new_secret, parse_grant, require_grantable
from outpace.control.parts import ControlParts, ControlSettings
from outpace.control.placing import ANYWHERE, require_known, require_placeable
from outpace.control.reconcile import Reconciler
from outpace.control.specs import check_count, parse_spec, require_price
from outpace.control.store import Store, Wanted
from outpace.control.telling import (
    deployment_document,
    machine_document,
    receipt_document,
    stopping_document,
    usage_document,
)
from outpace.control.threads import in_thread
from outpace.fleet.logs import last_lines
from outpace.metering import Counters
from outpace.metering.reports import Reports
from outpace.values.deployment import DeploymentSpec, LaunchOrder
from outpace.values.errors import Conflict, InvalidInput, ModelNotFound, NotFound, OutpaceError

_LOG = structlog.get_logger()
_T = TypeVar("_T")
_MOST_RECEIPTS = 1000
_MOST_LINES = 10_000
# Shorter than what clients wait: requests may run much longer than a client of the admin door wants to.
_STOP_WAIT_S = 20.0
_LOOK_EVERY_S = 0.05


class Desk:
    """The admin door's work. Changes are made one after the other, in the database first."""

    def __init__(
        self,
        parts: ControlParts,
        settings: ControlSettings,
        store: Store,
        reconciler: Reconciler,
        counters: Counters,
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._store = store
        self._reports = Reports(store.engine)
        self._reconciler = reconciler
        self._counters = counters
        self._changing = asyncio.Lock()
        self._started_at = parts.clock.wall_s()

    def key_with(self, fingerprint: str) -> Key | None:
        """The valid key with this fingerprint."""
        now = self._parts.clock.wall_s()
        keys = (key for key in self._reconciler.keys if key.sha256 == fingerprint)
        return next((key for key in keys if key.is_valid(now)), None)

    # Deployments

    async def status(self) -> dict[str, Any]:
        """What runs and what is wanted."""
        children = (await self._parts.programs()).children
        return {
            "version": self._settings.version,
            "started_at": self._started_at,
            "workers": [
                {"name": c.name, "pid": c.pid, "started_at": c.started_at, "restarts": c.restarts}
                for c in sorted(children, key=lambda child: child.name)
            ],
            "machines": await self._machines(),
            "deployments": [
                *(self._deployment(name) for name in self._reconciler.served),
                *(stopping_document(name, self._reconciler) for name in self._stopping()),
            ],
        }

    async def _machines(self) -> list[dict[str, Any]]:
        try:
            return [machine_document(machine) for machine in await self._parts.pool.machines()]
        except OutpaceError as error:
            # The status must be shown above all when something is out of reach.
            _LOG.warning("machines_unknown", reason=str(error))
            return []

    async def models(self) -> list[dict[str, Any]]:
        """The catalogue."""
        return await in_thread(self._parts.models)

    async def deploy(self, document: object) -> dict[str, Any]:
        """Want a deployment. Asking again for the same one tries again what was given up.

        Raises Conflict when the name is taken by another spec.
        """
        spec = await self._checked(document)
        return await self._change(self._deploy(spec))

    async def replace(self, name: str, document: object) -> dict[str, Any]:
        """Want a deployment with another spec. Raises ModelNotFound."""
        spec = await self._checked({"name": name, **document} if isinstance(document, dict) else document)
        if spec.name != name:
            raise InvalidInput("name", f"is {spec.name!r} in the body and {name[:100]!r} in the path")
        return await self._change(self._replace(spec))

    async def scale(self, name: str, document: object) -> dict[str, Any]:
        """Want another number of replicas; the same number again closes an open breaker.

        A number holds until the next one; `auto` gives the count back to the load, 0 lets it sleep until then.
        """
        replicas = _only_field(document, "replicas")
        wanted = self._wanted(name)
        if wanted.spec.external is not None:
            raise InvalidInput("replicas", "an external deployment has no replicas of ours")
        pinned = check_count(replicas, wanted.spec.replicas)
        return await self._change(self._scale(msgspec.structs.replace(wanted, pinned=pinned or None), pinned))

    async def stop(self, name: str) -> dict[str, Any]:
        """Do not want a deployment any more; waits for its requests, but not for ever."""
        self._wanted(name)
        await self._change(self._forget(name))
        deadline_s = self._parts.clock.monotonic_s() + _STOP_WAIT_S
        while name in self._stopping() and self._parts.clock.monotonic_s() < deadline_s:
            await self._parts.clock.sleep(_LOOK_EVERY_S)
        return {"name": name, "state": "stopping" if name in self._stopping() else "stopped"}

    def _deployment(self, name: str) -> dict[str, Any]:
        return deployment_document(self._reconciler.served[name], self._reconciler)

    def _stopping(self) -> list[str]:
        lives = self._reconciler.replicas.lives.values()
        return sorted({owner_of(life.deployment) for life in lives} - set(self._reconciler.served))

    def _wanted(self, name: str) -> Wanted:
        served = self._reconciler.served.get(name)
        if served is None:
            known = ", ".join(self._reconciler.served) or "none"
            raise ModelNotFound(f"no deployment {name[:100]!r}; there is {known}")
        return served.wanted

    async def _checked(self, document: object) -> DeploymentSpec:
        """The spec, if model and engine will take it."""
        spec = await in_thread(parse_spec, document, self._parts.list_price)
        require_price(spec, self._settings.billing)
        if spec.external is None:
            require_placeable(spec, has_machines=self._parts.has_machines)
            await in_thread(self._check_launch, spec)
        if spec.placement != ANYWHERE:
            require_known(spec.placement, await self._parts.pool.machines())
        return spec

    def _check_launch(self, spec: DeploymentSpec) -> None:
        """Whatever would be refused at every start is refused now. Raises InvalidInput, ModelNotFound, …"""
        resolved = self._parts.resolve(spec)
        trial = LaunchOrder(
            replica_id=f"{spec.name}@1",
            deployment=spec.name,
            model=resolved.model,
            artifact_path=resolved.artifact_path or "weights-to-be-pulled",
            tasks=resolved.tasks,
            context_tokens=resolved.context_tokens or 0,
            parallel=resolved.parallel,
            threads=resolved.threads,
            socket_dir=str(self._parts.home.sockets),
            token="",
            engine_settings=settings_of(spec, resolved),
        )
        engine = self._parts.engine(resolved.engine)
        engine.launch(trial)
        if spec.replicas.stands_by.imported and not engine.capabilities.standby_module:
            raise InvalidInput(
                "replicas.standby.imported",
                f"{engine.name} cannot be imported ahead of its start; keep `loaded` ones, or none",
            )

    async def _deploy(self, spec: DeploymentSpec) -> dict[str, Any]:
        served = self._reconciler.served.get(spec.name)
        if served is None:
            now = self._parts.clock.wall_s()
            return await self._want(Wanted(spec=spec, created_at=now))
        if served.wanted.spec != spec:
            raise Conflict(f"{spec.name} exists with another spec; PUT replaces it, or choose another name")
        return await self._want(served.wanted)

    async def _replace(self, spec: DeploymentSpec) -> dict[str, Any]:
        before = self._wanted(spec.name)
        pinned = before.pinned if spec.replicas == before.spec.replicas else None
        return await self._want(Wanted(spec=spec, pinned=pinned, created_at=before.created_at))

    async def _scale(self, wanted: Wanted, count: int | None) -> dict[str, Any]:
        document = await self._want(wanted)
        if count != 0:
            return document
        self._reconciler.sleep(wanted.spec.name)
        return self._deployment(wanted.spec.name)

    async def _want(self, wanted: Wanted) -> dict[str, Any]:
        await in_thread(self._store.put_deployment, wanted)
        self._reconciler.want(wanted)
        name = wanted.spec.name
        _LOG.info("deployment_wanted", deployment=name, pinned=wanted.pinned, model=wanted.spec.model)
        return self._deployment(name)

    async def _forget(self, name: str) -> None:
        await in_thread(self._store.delete_deployment, name)
        self._reconciler.unwant(name)
        _LOG.info("deployment_unwanted", deployment=name)

    # Keys

    async def create_key(self, document: object, creator: Key) -> dict[str, Any]:
        """A new key, shown this once. Raises ModelNotAllowed for more than its creator may."""
        grant = parse_grant(document, self._parts.clock.wall_s())
        require_grantable(grant, creator)
        secret = new_secret()

        async def add() -> Key:
            key = await in_thread(self._store.add_key, secret, grant, self._parts.clock.wall_s())
            self._reconciler.set_keys([*self._reconciler.keys, key])
            return key

        key = await self._change(add())
        _LOG.info("key_created", key_id=key.id, created_by=creator.id)
        return {**key_document(key, 0, 0), "key": secret}

    def keys(self) -> list[dict[str, Any]]:
        """Every key that ever was, without the keys themselves."""
        counters = self._counters
        return [
            key_document(key, counters.spent(key.slot), counters.reserved(key.slot))
            for key in self._reconciler.keys
        ]

    async def revoke_key(self, key_id: str) -> dict[str, Any]:
        """Revoke a key for ever."""

        async def revoke() -> Key:
            revoked = await in_thread(self._store.revoke_key, key_id, self._parts.clock.wall_s())
            keys = [revoked if key.id == revoked.id else key for key in self._reconciler.keys]
            self._reconciler.set_keys(keys)
            return revoked

        key = await self._change(revoke())
        _LOG.info("key_revoked", key_id=key.id)
        return {"id": key.id, "revoked_at": key.revoked_at}

    # Usage

    async def usage(
        self, key_id: str | None, model: str | None, since_s: float | None
    ) -> list[dict[str, Any]]:
        """Usage by key and model, in tokens and money."""
        lines = await in_thread(self._reports.usage, key_id=key_id, model=model, since_s=since_s)
        names = {key.id: key.name for key in self._reconciler.keys}
        return [usage_document(line, names.get(line.key_id)) for line in lines]

    async def receipt(self, request_id: str) -> dict[str, Any]:
        """One request's receipt. Raises NotFound."""
        receipt = await in_thread(self._reports.receipt, request_id)
        if receipt is None:
            raise NotFound(f"no receipt {request_id[:100]!r}: no such request, or it has not ended yet")
        return receipt_document(receipt)

    async def receipts(self, limit: int) -> list[dict[str, Any]]:
        """The newest receipts first."""
        if not 1 <= limit <= _MOST_RECEIPTS:
            raise InvalidInput("limit", f"between 1 and {_MOST_RECEIPTS}")
        return [receipt_document(receipt) for receipt in await in_thread(self._reports.receipts, limit)]

    async def logs(self, name: str, num_lines: int) -> dict[str, Any]:
        """The end of one process's log. Raises NotFound."""
        if not 1 <= num_lines <= _MOST_LINES:
            raise InvalidInput("lines", f"between 1 and {_MOST_LINES}")
        known = sorted(path.name.removesuffix(".log") for path in self._parts.home.logs.glob("*.log"))
        if name not in known:
            raise NotFound(f"no log of {name[:100]!r}; there are {', '.join(known) or 'none'}")
        return {"name": name, "lines": await in_thread(last_lines, self._parts.home.logs, name, num_lines)}

    async def _change(self, work: Awaitable[_T]) -> _T:
        """One change at a time, and to its end also when the client leaves in the middle."""

        async def alone() -> _T:
            async with self._changing:
                return await work

        return await asyncio.shield(asyncio.ensure_future(alone()))


def _only_field(document: object, name: str) -> object:
    if not isinstance(document, dict):
        raise InvalidInput(None, f'a JSON object such as {{"{name}": 2}}')
    for key in document:
        if key != name:
            raise InvalidInput(str(key)[:100], f"is not known; only {name} can be changed here")
    if name not in document:
        raise InvalidInput(name, "is missing")
    return document[name]
