"""Opening the store: a database and a folder of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from worker.settings import Settings, get_settings
from worker.store.blobs import Blobs

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
T = TypeVar("T")


class Store:
    """The database and the blobs. Safe to share between threads; a forked child calls `forked()` first."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.blobs = Blobs(settings.blobs)
        self._reader = engine.execution_options(cmr_begin="BEGIN")

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A session that writes: committed on leaving, rolled back on an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads; it never waits for a writer."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    def forked(self) -> None:
        """Forget connections that belong to the parent process, without closing them there."""
        self.engine.dispose(close=False)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def patiently(self, action: Callable[[], T], *, seconds: float | None = None, pause: float = 0.5) -> T:
        """Result of `action`, repeated through a database outage of at most `seconds` (default: settings).

        The action must be safe to repeat. Raises the database's own error when time is up.
        """
        deadline = time.monotonic() + (self.settings.outage_seconds if seconds is None else seconds)
        while True:
            try:
                return action()
            except (OperationalError, InterfaceError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)


def open_store(settings: Settings | None = None) -> Store:
    """The store that the settings name. Makes the folders; `migrate` makes the tables."""
    settings = settings or get_settings()
    settings.blobs.mkdir(parents=True, exist_ok=True)
    return Store(settings, _engine(settings.database))


def migrate(settings: Settings | None = None, revision: str = "head") -> None:
    """Bring the database's tables to `revision` ("head", "base" or an id); keeps the data."""
    from alembic import command
    from alembic.config import Config

    settings = settings or get_settings()
    settings.root.mkdir(parents=True, exist_ok=True)
    # foreign keys stay off: SQLite changes a table by dropping it, which would delete the rows that refer to it
    engine = _engine(settings.database, foreign_keys=False)
    config = Config(str(MIGRATIONS / "alembic.ini"))
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
    finally:
        engine.dispose()


def lock(session: Session, name: str) -> None:
    """Hold `name` until the transaction ends. SQLite needs nothing: it has one writer at a time."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"cmr.{name}"})


def _engine(url: str, *, foreign_keys: bool = True) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30})
    event.listen(engine, "connect", lambda raw, _: _pragmas(raw, foreign_keys))
    event.listen(engine, "begin", _begin)
    return engine


def _pragmas(raw: Any, foreign_keys: bool) -> None:
    raw.isolation_level = None  # the driver must not begin transactions by itself
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", f"foreign_keys={foreign_keys:d}"):
        raw.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once: a lock taken after a read loses updates of others
    connection.exec_driver_sql(connection.get_execution_options().get("cmr_begin", "BEGIN IMMEDIATE"))
