"""What control remembers: deployments and keys. Blocking; callers bring a thread."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from outpace.control.database import translated
from outpace.control.keys import Grant, Key, fingerprint, new_id, shown
from outpace.control.schema import deployments, keys
from outpace.metering.tables import READS_ONLY
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import Conflict, NotFound

# Rows of the counters file.
MOST_KEYS = 65_536
# How ids of the keys in credentials.json begin; nobody else can choose an id.
OWNER_ID = "owner_"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as it is wanted; `pinned` is a person's count of replicas, None leaves it to the load."""

    spec: DeploymentSpec
    pinned: int | None = None
    created_at: float


class Store:
    """Deployments and keys in one database. Raises DatabaseBusy where it is locked or away."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(**{READS_ONLY: True})

    def deployments(self) -> dict[str, Wanted]:
        """Everything that is wanted, by name."""
        rows = self._read(sa.select(deployments).order_by(deployments.c.created_at))
        return {
            row.name: Wanted(
                spec=msgspec.json.decode(row.spec, type=DeploymentSpec),
                pinned=row.pinned,
                created_at=row.created_at,
            )
            for row in rows
        }

    def put_deployment(self, wanted: Wanted) -> None:
        """Remember a deployment, in place of an earlier one of its name."""
        row: dict[str, Any] = {
            "spec": msgspec.json.encode(wanted.spec).decode(),
            "pinned": wanted.pinned,
            "created_at": wanted.created_at,
        }
        with translated(), self.engine.begin() as connection:
            named = deployments.c.name == wanted.spec.name
            if not connection.execute(deployments.update().where(named).values(row)).rowcount:
                connection.execute(deployments.insert().values(name=wanted.spec.name, **row))

    def delete_deployment(self, name: str) -> None:
        """Forget a deployment; its usage stays in the ledger."""
        with translated(), self.engine.begin() as connection:
            connection.execute(deployments.delete().where(deployments.c.name == name))

    def keys(self) -> list[Key]:
        """Every key that ever was, oldest first."""
        return [_key(row) for row in self._read(sa.select(keys).order_by(keys.c.slot))]

    def add_key(self, secret: str, grant: Grant, now: float) -> Key:
        """Remember a key by its hash and give it the next slot. Raises Conflict when all slots are given."""
        with translated(), self.engine.begin() as connection:
            return _insert_key(connection, secret, grant, now, new_id())

    def ensure_owner_key(self, secret: str, grant: Grant, now: float) -> Key:
        """The owner's key with this secret, made when there is none; it takes the place of an earlier one.

        One that was revoked stays revoked.
        """
        with translated(), self.engine.begin() as connection:
            known = connection.execute(sa.select(keys).where(keys.c.sha256 == fingerprint(secret))).first()
            if known is not None:
                return _key(known)
            is_earlier = (
                keys.c.id.startswith(OWNER_ID, autoescape=True)
                & (keys.c.name == grant.name)
                & keys.c.revoked_at.is_(None)
            )
            connection.execute(keys.update().where(is_earlier).values(revoked_at=now))
            return _insert_key(connection, secret, grant, now, new_id(OWNER_ID))

    def revoke_key(self, key_id: str, now: float) -> Key:
        """Revoke for ever; twice is fine. Raises NotFound, and Conflict for the last admin key."""
        with translated(), self.engine.begin() as connection:
            rows = [_key(row) for row in connection.execute(sa.select(keys))]
            key = next((row for row in rows if row.id == key_id), None)
            if key is None:
                raise NotFound(f"no key {key_id[:40]!r}; `outpace keys list` shows all")
            if key.revoked_at is not None:
                return key
            others = [row for row in rows if row.id != key_id and "admin" in row.scopes and row.is_valid(now)]
            if "admin" in key.scopes and not others:
                raise Conflict("this is the last admin key; create another one first")
            connection.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=now))
        return msgspec.structs.replace(key, revoked_at=now)

    def _read(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with translated(), self._reading.connect() as connection:
            return connection.execute(statement).all()


def _insert_key(connection: sa.Connection, secret: str, grant: Grant, now: float, key_id: str) -> Key:
    # Keys are never deleted, so a slot is never given twice.
    last = connection.execute(sa.select(sa.func.max(keys.c.slot))).scalar()
    slot = 0 if last is None else last + 1
    if slot >= MOST_KEYS:
        raise Conflict(f"all {MOST_KEYS} keys of this installation are given; use one that exists")
    key = _new_key(secret, grant, slot, now, key_id)
    connection.execute(keys.insert().values(_row(key)))
    return key


def _new_key(secret: str, grant: Grant, slot: int, now: float, key_id: str) -> Key:
    return Key(
        id=key_id,
        name=grant.name,
        sha256=fingerprint(secret),
        prefix=shown(secret),
        slot=slot,
        scopes=grant.scopes,
        models=grant.models,
        rpm=grant.rpm,
        tpm=grant.tpm,
        budget_pusd=grant.budget_pusd,
        created_at=now,
        expires_at=grant.expires_at,
    )


def _row(key: Key) -> dict[str, Any]:
    models = None if key.models is None else json.dumps(key.models)
    return {**msgspec.structs.asdict(key), "scopes": json.dumps(key.scopes), "models": models}


def _key(row: sa.Row[Any]) -> Key:
    fields = dict(row._mapping)
    fields["scopes"] = tuple(json.loads(fields["scopes"]))
    fields["models"] = None if fields["models"] is None else tuple(json.loads(fields["models"]))
    return Key(**fields)
