"""Store -> DataFrame: each function is one indexed query. No Streamlit here."""

from __future__ import annotations

from app.queries.lists import (
    STATE_WORDS,
    clock,
    corpora,
    distinct,
    estimate_stamp,
    runs,
    state_counts,
    studies,
    workers,
)
from app.queries.results import finished, metric_names, metric_order, newest_protocol, protocols, results, slices
from app.queries.single import artifacts, metrics, points, queue_position, run, stages
from app.queries.study import WAITING, study_metrics, study_progress, study_runs, study_stages, study_values

__all__ = [
    "STATE_WORDS",
    "WAITING",
    "artifacts",
    "clock",
    "corpora",
    "distinct",
    "estimate_stamp",
    "finished",
    "metric_names",
    "metric_order",
    "metrics",
    "newest_protocol",
    "points",
    "protocols",
    "queue_position",
    "results",
    "run",
    "runs",
    "slices",
    "stages",
    "state_counts",
    "studies",
    "study_metrics",
    "study_progress",
    "study_runs",
    "study_stages",
    "study_values",
    "workers",
]
