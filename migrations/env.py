"""Alembic's entry: runs the migrations on the connection it is handed, or on the settings' database."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from worker.store.clock import UtcTime
from worker.store.tables import Base


def _render(kind: str, value: Any, _: object) -> str | Literal[False]:
    # a migration must not change when our own types do
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(value, UtcTime) else False


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=_render,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    from worker.store.session import open_store

    with open_store().engine.begin() as opened:
        _migrate(opened)


_main()
