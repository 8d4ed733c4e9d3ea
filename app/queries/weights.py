"""Runs that weigh their source markets while they train."""

from __future__ import annotations

from sqlalchemy import exists, select

from worker.store.session import Store
from worker.store.tables import PointRow, RunRow, StudyRunRow

PREFIX = "weight:"


def study_weighted(store: Store, study_id: str) -> set[str]:
    """Ids of the study's finished runs whose curves have weights of sources."""
    curves = exists().where(PointRow.run_id == RunRow.id, PointRow.name.startswith(PREFIX))
    query = select(RunRow.id).join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
    with store.read() as session:
        return set(session.scalars(query.where(StudyRunRow.study_id == study_id, RunRow.state == "succeeded", curves)))
