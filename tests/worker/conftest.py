"""A store per test, on SQLite and, where the server is installed, on PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from cmr_core.data.market import Corpus, Market
from worker.settings import Settings
from worker.store.audit import Actor
from worker.store.corpora import add_corpus
from worker.store.session import Store, migrate, open_store

ANALYST = Actor("ann", "analyst")


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's server programs, if they are installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else Path(which).parent if (which := shutil.which("initdb")) else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL of our own, on a Unix socket in a temporary folder, with one migrated database `ready`."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("needs PostgreSQL's server programs (Debian: apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="cmr-pg-"))
    user = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("needs an account other than root to run PostgreSQL")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    words = ["-D", data, "-U", "cmr", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([programs / "initdb", *words], check=True, capture_output=True, cwd=folder, **user)
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=100"
    control = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
    url = f"postgresql+psycopg://cmr@/{{}}?host={folder}"
    try:
        _statement(url, "CREATE DATABASE ready")
        migrate(Settings(home=folder / "home", database_url=url.format("ready")))
        yield url
    finally:
        subprocess.run(
            [*control, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL, cwd=folder, **user
        )
        shutil.rmtree(folder, ignore_errors=True)


def _statement(url: str, statement: str) -> None:
    engine = create_engine(url.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite database to copy."""
    home = tmp_path_factory.mktemp("migrated")
    migrate(Settings(home=home))
    return home / "cmr.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an empty, migrated database with short leases."""
    quick = {"home": tmp_path, "lease_seconds": 2.0, "heartbeat_seconds": 0.2, "poll_seconds": 0.05}
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated"), tmp_path / "cmr.db")
        yield Settings(**quick)
        return
    url = request.getfixturevalue("postgres")
    name = f"t{os.urandom(6).hex()}"
    _statement(url, f"CREATE DATABASE {name} TEMPLATE ready")
    yield Settings(**quick, database_url=url.format(name))
    _statement(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """An empty store."""
    opened = open_store(settings)
    yield opened
    opened.close()


def tiny_corpus(name: str = "tiny", shift: int = 0, dated: bool = True, more: tuple[str, ...] = ()) -> Corpus:
    """Markets de, jp, uk (and `more`) of eight users with five of ten items each; on one day each if dated."""
    items = np.array([f"i{n:02d}" for n in range(10)], dtype=object)
    markets = {}
    for offset, market in enumerate(("de", "jp", "uk", *more)):
        user = np.repeat(np.arange(8), 5).astype(np.int32)
        item = np.array([(u * 3 + k + offset + shift) % 10 for u in range(8) for k in range(5)], dtype=np.int32)
        day = np.tile(np.arange(5), 8).astype(np.int32) if dated else np.full(40, -1, dtype=np.int32)
        users = np.array([f"u{n:03d}" for n in range(8)], dtype=object)
        markets[market] = Market(market, users, user, item, np.ones(40, dtype=np.float32), day)
    return Corpus(name, items, markets)


@pytest.fixture
def corpus() -> Corpus:
    """A corpus of three tiny markets."""
    return tiny_corpus()


@pytest.fixture
def digest(store: Store, corpus: Corpus) -> str:
    """The digest of the tiny corpus, in the store."""
    return add_corpus(store, ANALYST, corpus, "made by a test")
