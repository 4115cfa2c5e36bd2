"""The store and its schema, on SQLite."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from outpace.control import database
from outpace.control.database import REVISIONS, DatabaseBusy, open_database
from outpace.control.keys import Grant, fingerprint, new_secret
from outpace.control.store import Store, Wanted
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import Conflict, InvalidInput, NotFound
from outpace.values.money import FREE

NOW = 5.0
GRANT = Grant(name="k")
ADMIN = Grant(name="a", scopes=("inference", "admin"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outpace.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    engine = open_database(None, path)
    yield Store(engine)
    engine.dispose()


def _wanted(name: str, **fields: object) -> Wanted:
    return Wanted(spec=DeploymentSpec(name=name, model="m", **fields), pinned=2, created_at=NOW)  # type: ignore[arg-type]


def test_deployments_come_back_as_they_were(store: Store) -> None:
    first, second = _wanted("a", price=FREE), _wanted("b", engine_settings={"parallel": 4})
    for wanted in (first, second, first):
        store.put_deployment(wanted)
    assert store.deployments() == {"a": first, "b": second}
    store.delete_deployment("a")
    store.delete_deployment("a")
    assert list(store.deployments()) == ["b"]


def test_slots_are_given_once_also_after_revocation(store: Store) -> None:
    admin = store.add_key(new_secret(), ADMIN, NOW)
    first = store.add_key(new_secret(), GRANT, NOW)
    store.revoke_key(first.id, NOW)
    second = store.add_key(new_secret(), GRANT, NOW)
    assert [admin.slot, first.slot, second.slot] == [0, 1, 2]
    assert [key.id for key in store.keys()]  # noqa: SIM118 (no dict) == [admin.id, first.id, second.id]


def test_slots_end_where_the_counters_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.control.store.MOST_KEYS", 1)
    store.add_key(new_secret(), GRANT, NOW)
    with pytest.raises(Conflict, match="keys of this installation are given"):
        store.add_key(new_secret(), GRANT, NOW)


def test_the_owner_has_one_key_of_a_kind_and_a_revoked_one_stays_revoked(store: Store) -> None:
    admin, first, second = new_secret(), new_secret(), new_secret()
    store.ensure_owner_key(admin, ADMIN, NOW)
    namesake = store.add_key(new_secret(), GRANT, NOW)
    made = store.ensure_owner_key(first, GRANT, NOW)
    assert store.ensure_owner_key(first, ADMIN, NOW + 1) == made
    # Somebody replaced credentials.json: what was in it before opens nothing any more.
    store.ensure_owner_key(second, GRANT, NOW + 2)
    revoked = {key.id: key.revoked_at for key in store.keys()}  # noqa: SIM118 (no dict)
    assert (revoked[made.id], revoked[namesake.id]) == (NOW + 2, None)
    assert store.ensure_owner_key(first, GRANT, NOW + 3).revoked_at == NOW + 2


def test_revoking_is_for_ever_and_spares_the_last_admin_key(store: Store) -> None:
    admin, key = store.add_key(new_secret(), ADMIN, NOW), store.add_key(new_secret(), GRANT, NOW)
    assert store.revoke_key(key.id, NOW).revoked_at == NOW
    assert store.revoke_key(key.id, NOW + 9).revoked_at == NOW
    with pytest.raises(Conflict, match="last admin key"):
        store.revoke_key(admin.id, NOW)
    with pytest.raises(NotFound):
        store.revoke_key("key_x' OR 1=1 --", NOW)


def test_the_file_holds_no_key_and_is_private(store: Store, path: Path) -> None:
    secret = new_secret()
    store.add_key(secret, GRANT, NOW)
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert fingerprint(secret).encode() in held
    assert secret.encode() not in held
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_locked_database_is_said_to_be_busy_and_can_still_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.1)
    store = Store(open_database(None, path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseBusy, match="nothing was changed"):
            store.add_key(new_secret(), GRANT, NOW)
        assert store.keys() == []
        other.execute("ROLLBACK")
    store.add_key(new_secret(), GRANT, NOW)
    store.engine.dispose()


def test_a_newer_schema_is_refused_and_not_touched(path: Path) -> None:
    open_database(None, path).dispose()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match="schema 9999, this version of Outpace knows 0003 at most"):
        open_database(None, path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(InvalidInput, match="is no database"):
        open_database(None, path)


@pytest.mark.parametrize("url", ["mysql://h/x", "pg:secret", "nonsense://", "sqlite:////etc/passwd"])
def test_urls_that_are_not_postgresql_are_refused_without_being_repeated(url: str, path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^database: ") as refused:
        open_database(url, path)
    assert url not in str(refused.value)


def test_migrations_and_a_fresh_database_agree(path: Path) -> None:
    fresh = open_database(None, path)
    migrated = database._sqlite(path.with_name("migrated.db"))
    with migrated.begin() as connection:
        database.migrate(connection)
        for metadata in database.metadatas():
            context = MigrationContext.configure(
                connection,
                opts={"compare_type": True, "include_name": partial(_is_among, set(metadata.tables))},
            )
            assert compare_metadata(context, metadata) == []
    assert _shape(fresh) == _shape(migrated)
    fresh.dispose()
    migrated.dispose()


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    folder = Path(database.__file__).parent / "migrations"
    script = ScriptDirectory(str(folder))
    assert tuple(revision.revision for revision in script.walk_revisions())[::-1] == REVISIONS


def test_counts_that_a_person_set_stay_and_others_follow_the_load(path: Path) -> None:
    engine = database._sqlite(path)
    with engine.begin() as connection:
        database.migrate(connection, "0002")
        for name, desired in (("scaled", 3), ("as-deployed", 1)):
            connection.execute(
                sa.text("INSERT INTO deployments VALUES (:name, :spec, :desired, 1.0)"),
                {
                    "name": name,
                    "spec": msgspec.json.encode(DeploymentSpec(name=name)).decode(),
                    "desired": desired,
                },
            )
        database.migrate(connection)
    assert {name: wanted.pinned for name, wanted in Store(engine).deployments().items()} == {
        "scaled": 3,
        "as-deployed": None,
    }
    engine.dispose()


def test_a_crash_in_the_middle_of_creation_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(database._VERSIONS, "create", break_off)
        with pytest.raises(KeyboardInterrupt):
            open_database(None, path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    open_database(None, path).dispose()


def _is_among(tables: set[str], name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or name in tables


def _shape(engine: sa.Engine) -> dict[str, list[tuple[str, str, bool, str]]]:
    inspector = sa.inspect(engine)
    return {
        table: [
            (c["name"], str(c["type"]), bool(c["nullable"]), str(c.get("primary_key")))
            for c in inspector.get_columns(table)
        ]
        for table in inspector.get_table_names()
    }
