"""Databases to test on: SQLite always, and a PostgreSQL server of our own where it is installed."""

import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from outpace.metering import tables

_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
# Long enough to be seen, short enough to wait for.
BUSY_S = 0.2


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    """Folder of the Unix socket of a PostgreSQL server that lives for this session."""
    reason = _no_postgres()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = "postgres" if os.getuid() == 0 else None
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    control, files = _BIN[-1].with_name("pg_ctl"), folder / "files"

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder, timeout=60)

    run(_BIN[-1], "-D", files, "-U", "test", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories={folder}"
    run(control, "-D", files, "-o", options, "-l", folder / "log", "-w", "start")
    yield folder
    run(control, "-D", files, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def _no_postgres() -> str | None:
    if not _BIN:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'outpace[postgres]')"
    if os.getuid() == 0 and not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
        return "PostgreSQL does not run as root, and there is no user `postgres`"
    return None


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh SQLite file, opened as control opens it."""
    engine = make_sqlite(tmp_path / "ledger.db")
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


def make_sqlite(path: Path) -> sa.Engine:
    """SQLite in WAL mode; transactions that write take the lock when they begin."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_S})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        is_read = connection.get_execution_options().get(tables.READS_ONLY, False)
        connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")

    return engine


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An empty ledger on each database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_engine")
        return
    folder = request.getfixturevalue("postgres_folder")
    engine = make_postgres(folder)
    tables.metadata.drop_all(engine)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


def make_postgres(folder: Path, options: str = "") -> sa.Engine:
    """An engine with a short wait for locks and one pooled connection."""
    return sa.create_engine(
        f"postgresql+psycopg://test@/postgres?host={folder}",
        connect_args={"options": f"-c lock_timeout={BUSY_S * 1000:.0f} {options}"},
        pool_size=1,
    )
