"""Time, as the database tells it: machines disagree about the time, and leases must not depend on them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[dt.datetime]):
    """A moment in UTC, aware of its zone on every database (SQLite itself stores none)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Aware moments only: a naive one would mean another time on another machine."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        return value and value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """The stored moment, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class later(FunctionElement[dt.datetime]):
    """SQL: the database's clock plus a number of seconds (negative for the past)."""

    type = UtcTime()
    inherit_cache = True
    name = "later"


def now() -> later:
    """SQL: the database's clock."""
    return later(0.0)


@compiles(later, "sqlite")
def _sqlite(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    # six digits after the point: SQLAlchemy compares and reads its own text format
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"


@compiles(later, "postgresql")
def _postgresql(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    # clock_timestamp, because now() stands still within a transaction
    return f"(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"
