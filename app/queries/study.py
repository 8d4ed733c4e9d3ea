"""The runs of one study, and how far all studies are."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import Select, func, select

from app.queries.base import frame
from app.queries.results import metric_order
from worker.store import naming
from worker.store.session import Store
from worker.store.studies import DEFAULT_SECONDS
from worker.store.tables import MetricRow, PointRow, RunRow, StageRow, StudyRunRow

WAITING = ("queued", "running", "lost")


def study_runs(store: Store, study_id: str) -> pd.DataFrame:
    """One row per run of the study, whatever its state.

    Columns: those of `naming.RUN`, state, seconds, parameters, environment.
    """
    more = (RunRow.state, RunRow.seconds, RunRow.parameters, RunRow.environment)
    return frame(store, _of(study_id, select(*naming.RUN, *more)).order_by(RunRow.label, RunRow.target, RunRow.seed))


def study_values(store: Store, study_id: str, metric: str, *, part: str = "test") -> pd.DataFrame:
    """Means of a metric in the study's finished runs, in all groups: run_id, slice, value, n."""
    query = _of(study_id, select(MetricRow.run_id, MetricRow.slice, MetricRow.value, MetricRow.n).join(RunRow))
    return frame(store, query.where(MetricRow.name == metric, MetricRow.part == part, RunRow.state == "succeeded"))


def study_metrics(store: Store, study_id: str, protocol: str) -> list[str]:
    """Metrics that the study's finished runs have under a protocol: cutoffs differ between protocols."""
    query = _of(study_id, select(MetricRow.name).join(RunRow))
    query = query.where(RunRow.state == "succeeded", RunRow.protocol == protocol)
    with store.read() as session:
        names = session.scalars(query.where(MetricRow.part == "test", MetricRow.slice == "all").distinct())
        return sorted(names, key=metric_order)


def study_stages(store: Store, study_id: str) -> pd.DataFrame:
    """Each stage of the study's finished runs: run_id, name, seconds, cached, key, epochs (nan: it has no loss)."""
    columns = (StageRow.run_id, StageRow.name, StageRow.seconds, StageRow.cached, StageRow.key)
    stages = _of(study_id, select(*columns).join(RunRow))
    epochs = _of(
        study_id, select(PointRow.run_id, PointRow.stage, func.max(PointRow.step).label("epochs")).join(RunRow)
    )
    curves = epochs.where(PointRow.name == "loss").group_by(PointRow.run_id, PointRow.stage)
    named = frame(store, curves).rename(columns={"stage": "name"})
    return frame(store, stages.where(RunRow.state == "succeeded")).merge(named, how="left", on=["run_id", "name"])


def study_progress(store: Store) -> pd.DataFrame:
    """One row per study that has runs, by id: the number of runs in each state, and `seconds` of work left.

    The work is that of one worker: what running jobs say themselves, and for the others the mean of earlier runs of
    the method on the market, else of the method, else a minute.
    """
    links = select(StudyRunRow.study_id, RunRow.state, func.count().label("runs")).join(RunRow)
    states = frame(store, links.group_by(StudyRunRow.study_id, RunRow.state))
    counts = states.pivot_table(index="study_id", columns="state", values="runs", aggfunc="sum", fill_value=0)
    columns = (RunRow.corpus, RunRow.method, RunRow.target, RunRow.remaining_seconds)
    open_runs = select(StudyRunRow.study_id, *columns).join(RunRow).where(RunRow.state.in_(WAITING))
    left = frame(store, open_runs)
    if left.empty:
        return counts.assign(seconds=0.0)
    spent = select(RunRow.corpus, RunRow.method, RunRow.target, func.avg(RunRow.seconds).label("same"))
    past = frame(store, spent.where(RunRow.state == "succeeded").group_by(RunRow.corpus, RunRow.method, RunRow.target))
    known = left.merge(past, how="left", on=["corpus", "method", "target"])
    likely = past.groupby(["corpus", "method"])["same"].mean().rename("like").reset_index()
    known = known.merge(likely, how="left", on=["corpus", "method"])
    seconds = known["remaining_seconds"].astype(float).fillna(known["same"].astype(float))
    seconds = seconds.fillna(known["like"].astype(float)).fillna(DEFAULT_SECONDS)
    return counts.assign(seconds=seconds.groupby(known["study_id"]).sum().reindex(counts.index).fillna(0.0))


def _of(study_id: str, query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    return query.join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(StudyRunRow.study_id == study_id)
