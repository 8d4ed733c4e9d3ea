"""Store -> DataFrame: each function is one indexed query. No Streamlit here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sqlalchemy import ColumnElement, Executable, Integer, Select, case, func, or_, select

from cmr_core.errors import NotFoundError
from worker.store.clock import later, now
from worker.store.session import Store
from worker.store.tables import (
    ArtifactRow,
    CorpusRow,
    MetricRow,
    PointRow,
    RunRow,
    StageRow,
    StudyRow,
    StudyRunRow,
    WorkerRow,
)

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
    return _frame(store, query.order_by(CorpusRow.name))


def studies(store: Store) -> pd.DataFrame:
    """One row per study, newest first: id, name, created_at, created_by, runs, and how many of them are over."""
    over = func.sum(RunRow.state.in_(("succeeded", "failed", "cancelled")).cast(Integer))
    query = (
        select(
            StudyRow.id,
            StudyRow.name,
            StudyRow.created_at,
            StudyRow.created_by,
            func.count(RunRow.id).label("runs"),
            func.coalesce(over, 0).label("over"),
        )
        .outerjoin(StudyRunRow, StudyRunRow.study_id == StudyRow.id)
        .outerjoin(RunRow, RunRow.id == StudyRunRow.run_id)
        .group_by(StudyRow.id, StudyRow.name, StudyRow.created_at, StudyRow.created_by)
        .order_by(StudyRow.created_at.desc(), StudyRow.id)
    )
    return _frame(store, query)


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
    return _frame(store, query.where(WorkerRow.seen_at > later(-ALIVE_SECONDS)).order_by(WorkerRow.name))


def clock(store: Store) -> dt.datetime:
    """The database's time."""
    with store.read() as session:
        return session.scalars(select(now())).one()


def queue_position(store: Store, run: RunRow) -> int:
    """How many waiting runs for the same device are older."""
    query = select(func.count()).where(
        RunRow.state == "queued", RunRow.device == run.device, RunRow.created_at < run.created_at
    )
    with store.read() as session:
        return session.scalar(query) or 0


def run(store: Store, run_id: str) -> RunRow:
    """The run. Raises NotFoundError for anything that is not the id of one."""
    with store.read() as session:
        row = session.get(RunRow, run_id) if run_id.isprintable() and len(run_id) <= 36 else None
    if row is None:
        raise NotFoundError(f"There is no run {run_id[:40]!r}.", hint="Pick one on the page Runs.")
    return row


def points(store: Store, run_id: str) -> pd.DataFrame:
    """The curves of a run's latest attempt that has any: stage, step, name, value."""
    latest = select(func.max(PointRow.attempt)).where(PointRow.run_id == run_id).scalar_subquery()
    query = (
        select(PointRow.stage, PointRow.step, PointRow.name, PointRow.value)
        .where(PointRow.run_id == run_id, PointRow.attempt == latest)
        .order_by(PointRow.stage, PointRow.name, PointRow.step)
    )
    return _frame(store, query)


def metrics(store: Store, run_id: str) -> pd.DataFrame:
    """A run's means: part, slice, name, value, n."""
    query = select(MetricRow.part, MetricRow.slice, MetricRow.name, MetricRow.value, MetricRow.n)
    return _frame(store, query.where(MetricRow.run_id == run_id).order_by(MetricRow.slice, MetricRow.name))


def stages(store: Store, run_id: str) -> pd.DataFrame:
    """How long each stage took: name, seconds, cached."""
    return _frame(store, select(StageRow.name, StageRow.seconds, StageRow.cached).where(StageRow.run_id == run_id))


def artifacts(store: Store, run_id: str) -> pd.DataFrame:
    """What is stored of a run: kind, size (bytes), sha256, created_at."""
    query = select(ArtifactRow.kind, ArtifactRow.size, ArtifactRow.sha256, ArtifactRow.created_at)
    return _frame(store, query.where(ArtifactRow.run_id == run_id).order_by(ArtifactRow.kind))


def newest_protocol(store: Store) -> tuple[str, str, str] | None:
    """Corpus, protocol and its words of the run that finished last; None where none has."""
    query = select(RunRow.corpus, RunRow.protocol, RunRow.protocol_text).where(RunRow.state == "succeeded")
    with store.read() as session:
        row = session.execute(query.order_by(RunRow.finished_at.desc()).limit(1)).one_or_none()
    return None if row is None else (str(row[0]), str(row[1]), str(row[2]))


def protocols(store: Store, corpus: str) -> pd.DataFrame:
    """Protocols under which runs on the corpus have finished: protocol, text, runs; most runs first."""
    query = (
        select(RunRow.protocol, RunRow.protocol_text.label("text"), func.count().label("runs"))
        .where(RunRow.corpus == corpus, RunRow.state == "succeeded")
        .group_by(RunRow.protocol, RunRow.protocol_text)
        .order_by(func.count().desc(), RunRow.protocol)
    )
    return _frame(store, query)


def results(
    store: Store, corpus: str, protocol: str, metric: str, *, part: str = "test", group: str = "all"
) -> pd.DataFrame:
    """One row per finished run: its mean of one metric in one group, and what it cost.

    Columns: run_id, configuration, label, method, target, seed, slice, value, n, seconds,
    finished_at, parameters, sources.
    """
    query = _results(corpus, protocol, part).where(MetricRow.name == metric, MetricRow.slice == group)
    return _frame(store, query)


def slices(store: Store, corpus: str, protocol: str, metric: str, part: str = "test") -> pd.DataFrame:
    """As `results`, for every group at once; the column `slice` names it."""
    return _frame(store, _results(corpus, protocol, part).where(MetricRow.name == metric))


def metric_names(store: Store, corpus: str, protocol: str) -> list[str]:
    """Metrics that are stored for the finished runs of a protocol."""
    query = (
        select(MetricRow.name)
        .join(RunRow, RunRow.id == MetricRow.run_id)
        .where(RunRow.corpus == corpus, RunRow.protocol == protocol, RunRow.state == "succeeded")
        .where(MetricRow.part == "test", MetricRow.slice == "all")
        .distinct()
    )
    with store.read() as session:
        return sorted(session.scalars(query), key=metric_order)


def finished(store: Store, corpus: str, protocol: str, target: str) -> pd.DataFrame:
    """Finished runs on one market under one protocol: id, label, method, seed, finished_at."""
    query = select(RunRow.id, RunRow.label, RunRow.method, RunRow.seed, RunRow.finished_at).where(
        RunRow.corpus == corpus, RunRow.protocol == protocol, RunRow.target == target, RunRow.state == "succeeded"
    )
    return _frame(store, query.order_by(RunRow.label, RunRow.seed))


def _results(corpus: str, protocol: str, part: str) -> Select[Any]:
    columns = (
        RunRow.id.label("run_id"),
        RunRow.configuration,
        RunRow.label,
        RunRow.method,
        RunRow.target,
        RunRow.seed,
        MetricRow.slice,
        MetricRow.value,
        MetricRow.n,
        RunRow.seconds,
        RunRow.finished_at,
        RunRow.parameters,
        RunRow.spec["sources"].label("sources"),
    )
    return (
        select(*columns)
        .join(MetricRow, MetricRow.run_id == RunRow.id)
        .where(RunRow.corpus == corpus, RunRow.protocol == protocol, RunRow.state == "succeeded")
        .where(MetricRow.part == part)
        .order_by(RunRow.label, RunRow.target, RunRow.seed)
    )


def metric_order(name: str) -> tuple[int, int]:
    kinds = ("ndcg", "recall", "hit", "mrr", "map", "precision", "coverage", "novelty", "gini", "popularity")
    kind, _, cutoff = name.partition("@")
    return (kinds.index(kind) if kind in kinds else len(kinds), int(cutoff) if cutoff.isdigit() else 0)


def _frame(store: Store, query: Executable) -> pd.DataFrame:
    with store.read() as session:
        answer = session.execute(query)
        return pd.DataFrame(answer.all(), columns=list(answer.keys()))
