"""Results of finished runs, one protocol at a time."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import Select, func, select

from app.queries.base import frame
from worker.store import naming
from worker.store.session import Store
from worker.store.tables import MetricRow, RunRow


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
    return frame(store, query)


def results(
    store: Store, corpus: str, protocol: str, metric: str, *, part: str = "test", group: str = "all"
) -> pd.DataFrame:
    """One row per finished run: its mean of one metric in one group, and what it cost.

    Columns: those of `naming.RUN`, slice, value, n, seconds, parameters.
    """
    query = _results(corpus, protocol, part).where(MetricRow.name == metric, MetricRow.slice == group)
    return frame(store, query)


def slices(store: Store, corpus: str, protocol: str, metric: str, part: str = "test") -> pd.DataFrame:
    """As `results`, for every group at once; the column `slice` names it."""
    return frame(store, _results(corpus, protocol, part).where(MetricRow.name == metric))


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
    return frame(store, query.order_by(RunRow.label, RunRow.seed))


def _results(corpus: str, protocol: str, part: str) -> Select[Any]:
    more = (MetricRow.slice, MetricRow.value, MetricRow.n, RunRow.seconds, RunRow.parameters)
    return (
        select(*naming.RUN, *more)
        .join(MetricRow, MetricRow.run_id == RunRow.id)
        .where(RunRow.corpus == corpus, RunRow.protocol == protocol, RunRow.state == "succeeded")
        .where(MetricRow.part == part)
        .order_by(RunRow.label, RunRow.target, RunRow.seed)
    )


def metric_order(name: str) -> tuple[int, int]:
    kinds = ("ndcg", "recall", "hit", "mrr", "map", "precision", "coverage", "novelty", "gini", "popularity")
    kind, _, cutoff = name.partition("@")
    return (kinds.index(kind) if kind in kinds else len(kinds), int(cutoff) if cutoff.isdigit() else 0)
