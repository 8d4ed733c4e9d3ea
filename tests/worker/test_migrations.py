"""Migrations: they make exactly the models' tables, and going down and up again keeps what can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select

from cmr_core.spec import JobSpec
from worker.settings import Settings
from worker.store import runs
from worker.store.audit import Actor
from worker.store.session import Store, migrate, open_store
from worker.store.tables import Base, CorpusRow, RunRow


def test_the_migrations_make_the_models_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        made = set(inspect(connection).get_table_names())
    assert made == {*Base.metadata.tables, "alembic_version"}


def test_one_usable_run_per_fingerprint_holds_in_the_database_too(store: Store) -> None:
    with store.engine.connect() as connection:
        indexes = {index["name"]: index for index in inspect(connection).get_indexes("run")}
    assert indexes["uq_run_usable"]["unique"]


def test_migrating_again_keeps_the_data(store: Store, settings: Settings, digest: str) -> None:
    run_id = runs.launch(store, Actor("ann", "analyst"), JobSpec(corpus=digest, target="uk", method="ease"))
    migrate(settings)
    with store.read() as session:
        assert session.scalars(select(RunRow.id)).all() == [run_id]
        assert session.scalars(select(CorpusRow.digest)).all() == [digest]


def test_a_filled_database_goes_down_to_nothing_and_up_again(store: Store, settings: Settings, digest: str) -> None:
    runs.launch(store, Actor("ann", "analyst"), JobSpec(corpus=digest, target="uk", method="ease"))
    migrate(settings, "base")
    with store.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    migrate(settings)
    with store.engine.connect() as connection:
        assert set(Base.metadata.tables) < set(inspect(connection).get_table_names())


def test_a_fresh_folder_is_enough(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")
    migrate(settings)
    opened = open_store(settings)
    assert runs.list_runs(opened) == []
    opened.close()


@pytest.mark.parametrize("pragma", [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)])
def test_sqlite_is_opened_as_processes_that_share_it_need(tmp_path: Path, pragma: tuple[str, object]) -> None:
    opened = open_store(Settings(home=tmp_path))
    with opened.engine.connect() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma[0]}").scalar() == pragma[1]
    opened.close()
