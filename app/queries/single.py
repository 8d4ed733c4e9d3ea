"""One run: its row, curves, means, stages and files."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import func, select

from app.queries.base import frame
from cmr_core.errors import NotFoundError
from worker.store.session import Store
from worker.store.tables import ArtifactRow, MetricRow, PointRow, RunRow, StageRow


def run(store: Store, run_id: str) -> RunRow:
    """The run. Raises NotFoundError for anything that is not the id of one."""
    with store.read() as session:
        row = session.get(RunRow, run_id) if run_id.isprintable() and len(run_id) <= 36 else None
    if row is None:
        raise NotFoundError(f"There is no run {run_id[:40]!r}.", hint="Pick one on the page Runs.")
    return row


def queue_position(store: Store, run: RunRow) -> int:
    """How many waiting runs for the same device are older."""
    query = select(func.count()).where(
        RunRow.state == "queued", RunRow.device == run.device, RunRow.created_at < run.created_at
    )
    with store.read() as session:
        return session.scalar(query) or 0


def points(store: Store, run_id: str) -> pd.DataFrame:
    """The curves of a run's latest attempt that has any: stage, step, name, value."""
    latest = select(func.max(PointRow.attempt)).where(PointRow.run_id == run_id).scalar_subquery()
    query = (
        select(PointRow.stage, PointRow.step, PointRow.name, PointRow.value)
        .where(PointRow.run_id == run_id, PointRow.attempt == latest)
        .order_by(PointRow.stage, PointRow.name, PointRow.step)
    )
    return frame(store, query)


def metrics(store: Store, run_id: str) -> pd.DataFrame:
    """A run's means: part, slice, name, value, n."""
    query = select(MetricRow.part, MetricRow.slice, MetricRow.name, MetricRow.value, MetricRow.n)
    return frame(store, query.where(MetricRow.run_id == run_id).order_by(MetricRow.slice, MetricRow.name))


def stages(store: Store, run_id: str) -> pd.DataFrame:
    """How long each stage took: name, seconds, cached."""
    return frame(store, select(StageRow.name, StageRow.seconds, StageRow.cached).where(StageRow.run_id == run_id))


def artifacts(store: Store, run_id: str) -> pd.DataFrame:
    """What is stored of a run: kind, size (bytes), sha256, created_at."""
    query = select(ArtifactRow.kind, ArtifactRow.size, ArtifactRow.sha256, ArtifactRow.created_at)
    return frame(store, query.where(ArtifactRow.run_id == run_id).order_by(ArtifactRow.kind))
