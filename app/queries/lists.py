"""Corpora, studies, runs and workers, as the pages list them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pandas as pd
from sqlalchemy import ColumnElement, Integer, case, func, or_, select

from app.queries.base import frame
from worker.store.clock import later, now
from worker.store.session import Store
from worker.store.tables import CorpusRow, ListsRow, RunRow, StudyRow, StudyRunRow, WorkerRow

STATE_WORDS = {
    "queued": "waiting",
    "running": "running",
    "succeeded": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "lost": "worker silent",
}
ALIVE_SECONDS = 60.0
# running, silent, waiting in the order in which they went to the queue, and then what is over, newest first
_PLACE = case({"running": 0, "lost": 1, "queued": 2}, value=RunRow.state, else_=3)
_TURN = case((RunRow.state == "queued", func.coalesce(RunRow.sent_at, RunRow.created_at)))
_ORDER = (_PLACE, _TURN, func.coalesce(RunRow.finished_at, RunRow.created_at).desc(), RunRow.id)
_LIST = (
    RunRow.id,
    RunRow.label,
    RunRow.method,
    RunRow.target,
    RunRow.seed,
    RunRow.state,
    RunRow.stage,
    RunRow.done,
    RunRow.total,
    RunRow.remaining_seconds,
    RunRow.worker,
    RunRow.attempt,
    RunRow.protocol_text,
    RunRow.created_at,
    RunRow.created_by,
    RunRow.started_at,
    RunRow.finished_at,
    RunRow.seconds,
    RunRow.error,
)


def corpora(store: Store) -> pd.DataFrame:
    """One row per corpus: digest, name, origin, created_at."""
    query = select(CorpusRow.digest, CorpusRow.name, CorpusRow.origin, CorpusRow.created_at)
    return frame(store, query.order_by(CorpusRow.name))


def estimate_stamp(store: Store) -> tuple[object, ...]:
    """Changes whenever the estimate of a study can: with the runs in each state, the corpora and their lists."""
    lists = frame(store, select(ListsRow.digest).order_by(ListsRow.digest))["digest"]
    return (*sorted(state_counts(store).items()), *corpora(store)["digest"], *lists)


def studies(store: Store) -> pd.DataFrame:
    """One row per study, newest first: id, name, title, created_at, created_by, runs, and how many of them are over."""
    over = func.sum(RunRow.state.in_(("succeeded", "failed", "cancelled")).cast(Integer))
    query = (
        select(
            StudyRow.id,
            StudyRow.name,
            StudyRow.spec["title"].as_string().label("title"),
            StudyRow.created_at,
            StudyRow.created_by,
            func.count(RunRow.id).label("runs"),
            func.coalesce(over, 0).label("over"),
        )
        .outerjoin(StudyRunRow, StudyRunRow.study_id == StudyRow.id)
        .outerjoin(RunRow, RunRow.id == StudyRunRow.run_id)
        .group_by(StudyRow.id)
        .order_by(StudyRow.created_at.desc(), StudyRow.id)
    )
    return frame(store, query)


def state_counts(store: Store, study: str | None = None) -> dict[str, int]:
    """Number of runs in each state."""
    query = select(RunRow.state, func.count().label("runs")).group_by(RunRow.state)
    if study is not None:
        query = query.join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(StudyRunRow.study_id == study)
    with store.read() as session:
        return {str(row.state): int(row.runs) for row in session.execute(query)}


def runs(
    store: Store,
    *,
    states: Sequence[str] = (),
    methods: Sequence[str] = (),
    targets: Sequence[str] = (),
    study: str | None = None,
    text: str = "",
    only: Sequence[str] = (),
    limit: int = 200,
) -> tuple[pd.DataFrame, int]:
    """Runs, at most `limit` of them, and how many there are in all. `only`: these ids.

    Active ones come first: running, silent, waiting in their order; then what is over, newest first.
    """
    wanted: list[ColumnElement[bool]] = [
        column.in_(values)
        for column, values in ((RunRow.state, states), (RunRow.method, methods), (RunRow.target, targets))
        if values
    ]
    wanted += [RunRow.id.in_(only)] if only else []
    if study is not None:
        wanted.append(RunRow.id.in_(select(StudyRunRow.run_id).where(StudyRunRow.study_id == study)))
    if text:
        wanted.append(or_(RunRow.label.icontains(text, autoescape=True), RunRow.id.startswith(text, autoescape=True)))
    query = select(*_LIST).where(*wanted).order_by(*_ORDER).limit(limit)
    with store.read() as session:
        total = session.scalar(select(func.count()).select_from(RunRow).where(*wanted)) or 0
        rows = session.execute(query).all()
    return pd.DataFrame(rows, columns=[column.key for column in _LIST]), total


def distinct(store: Store, column: str) -> list[str]:
    """The values that `method` or `target` take among runs."""
    attribute = {"method": RunRow.method, "target": RunRow.target}[column]
    with store.read() as session:
        return list(session.scalars(select(attribute).distinct().order_by(attribute)))


def workers(store: Store) -> pd.DataFrame:
    """Workers heard of within a minute, by the database's clock: name, host, device, seen_at, run_id."""
    query = select(WorkerRow.name, WorkerRow.host, WorkerRow.device, WorkerRow.seen_at, WorkerRow.run_id)
    return frame(store, query.where(WorkerRow.seen_at > later(-ALIVE_SECONDS)).order_by(WorkerRow.name))


def clock(store: Store) -> dt.datetime:
    """The database's time."""
    with store.read() as session:
        return session.scalars(select(now())).one()
