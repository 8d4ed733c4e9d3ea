"""Insert or replace, in the words of both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from worker.store.tables import Base

Insert = postgresql.Insert | sqlite.Insert


def insert(session: Session, table: type[Base]) -> Insert:
    """An INSERT that knows ON CONFLICT, for the session's database."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def upsert(session: Session, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows (all with the same keys); those whose primary key is there are overwritten."""
    if not rows:
        return
    statement = insert(session, table).values(list(rows))
    key = [column.name for column in table.__table__.primary_key]
    others = {name: statement.excluded[name] for name in rows[0] if name not in key}
    session.execute(statement.on_conflict_do_update(index_elements=key, set_=others))
