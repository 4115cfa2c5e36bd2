"""Opening the database: SQLite in the home or PostgreSQL by URL, and the schema that it must have."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from outpace.control import schema
from outpace.metering import tables
from outpace.values.errors import Conflict, InvalidInput, Overloaded

# Every revision in order; the last is the schema of this version.
REVISIONS = ("0001", "0002", "0003")
# How long a statement waits for another process's lock before it fails.
LOCK_WAIT_S = 3.0
_SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
_VERSIONS = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)


class DatabaseBusy(Overloaded):
    """The database is locked or out of reach; nothing was changed."""

    def __init__(self) -> None:
        super().__init__(
            "The database is locked or out of reach; nothing was changed. Try again.", retry_after_s=2.0
        )


def metadatas() -> list[sa.MetaData]:
    """Every table of the platform: control's own and the ledger's."""
    return [schema.metadata, tables.metadata]


def open_database(url: str | None, sqlite_path: Path) -> sa.Engine:
    """An engine whose schema is this version's.

    Raises Conflict for a newer schema, DatabaseBusy, and InvalidInput for what is no database.
    """
    engine = _engine(url, sqlite_path)
    try:
        with translated():
            bring_up_to_date(engine)
    except DBAPIError as error:
        where = engine.url.database if engine.dialect.name == "sqlite" else "the database"
        raise InvalidInput("database", f"{where} is no database or is damaged: {error.orig}") from error
    return engine


@contextmanager
def translated() -> Iterator[None]:
    """Raises DatabaseBusy where the driver says that the database is locked or away."""
    try:
        yield
    except (OperationalError, sa.exc.TimeoutError) as error:
        raise DatabaseBusy from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseBusy from error
        raise


def bring_up_to_date(engine: sa.Engine) -> None:
    """Create or migrate the schema in one transaction. Raises Conflict when it is a newer one."""
    with engine.begin() as connection:
        found = _version(connection)
        if found == REVISIONS[-1]:
            return
        if found is None:
            _create(connection)
            return
        if found not in REVISIONS:
            raise Conflict(
                f"the database has schema {found}, this version of Outpace knows {REVISIONS[-1]} at most: "
                "start the newer version, or give this one another OUTPACE_HOME or --database"
            )
        migrate(connection)


def migrate(connection: sa.Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision` that this database has not had yet, inside the caller's transaction."""
    # Most starts need no migration, and this import costs half a second.
    from alembic import command
    from alembic.config import Config

    with as_file(files("outpace.control").joinpath("migrations")) as folder:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(folder))
        config.set_main_option("path_separator", "os")
        command.upgrade(config, revision)


def _create(connection: sa.Connection) -> None:
    """A fresh database gets the last schema at once; a test holds it equal to what the migrations make."""
    for metadata in metadatas():
        metadata.create_all(connection)
    _VERSIONS.create(connection)
    connection.execute(_VERSIONS.insert().values(version_num=REVISIONS[-1]))


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSIONS.name):
        return None
    return connection.execute(sa.select(_VERSIONS.c.version_num)).scalar()


def _engine(url: str | None, sqlite_path: Path) -> sa.Engine:
    if url is None or url == "sqlite":
        return _sqlite(sqlite_path)
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise InvalidInput(
                "database", "a PostgreSQL URL such as postgresql://user@host/outpace, or nothing"
            )
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=4,
            max_overflow=4,
            pool_timeout=LOCK_WAIT_S,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": int(LOCK_WAIT_S),
                "options": f"-c lock_timeout={LOCK_WAIT_S:.0f}s -c statement_timeout=30s",
            },
        )
    except (sa.exc.ArgumentError, NoSuchModuleError) as error:
        # The URL is not repeated: it may hold a password.
        raise InvalidInput("database", "is no database URL; postgresql://user@host/outpace is one") from error
    except ModuleNotFoundError as error:
        raise InvalidInput("database", "PostgreSQL needs a driver: pip install 'psycopg[binary]'") from error


def _sqlite(path: Path) -> sa.Engine:
    path.touch(mode=0o600)
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": LOCK_WAIT_S}, pool_size=4
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection), "only SQLite connections come here"
    # The driver's own transaction handling would begin too late and commit around DDL.
    connection.isolation_level = None
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would fail at once when another writes in between.
    is_read = connection.get_execution_options().get(tables.READS_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
