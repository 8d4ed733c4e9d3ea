"""What a run leaves behind: tables as Parquet, the model as safetensors, means as rows. Bytes before metadata."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cmr_core.data.market import Corpus
from cmr_core.errors import IntegrityError, NotFoundError
from cmr_core.evaluation.tables import tables
from cmr_core.interfaces import Arrays, ParameterCount, Recommender
from cmr_core.spec import JobSpec
from worker.store.blobs import Blobs, DiskFullError
from worker.store.clock import now
from worker.store.numbers import plain
from worker.store.runs import Claim, finish, get_run, hold
from worker.store.session import Store
from worker.store.tables import ArtifactRow, MetricRow, RunRow, StageRow

if TYPE_CHECKING:  # the core's models bring torch, which a page or the queue must not pay for
    from cmr_core.evaluation.evaluate import Evaluation
    from cmr_core.experiment import Outcome

__all__ = ["Blobs", "DiskFullError", "list_artifacts", "load_model", "load_table", "save_outcome"]

Table = Literal["per_user", "topk", "held_out", "curves"]
TABLES: tuple[Table, ...] = get_args(Table)


def save_outcome(store: Store, claim: Claim, outcome: Outcome, corpus: Corpus) -> None:
    """Store a finished job and end its run as succeeded: all of it, or nothing.

    Raises LostClaimError if the run was cancelled or taken over meanwhile, DiskFullError.
    """
    from cmr_core.models.base import shape_of

    frames = tables(outcome.test, claim.spec, corpus)
    frames["curves"] = pd.DataFrame(outcome.curves, columns=["stage", "step", "name", "value"])
    blobs = {kind: to_parquet(frame) for kind, frame in frames.items()}
    blobs["model"] = to_safetensors(outcome.recommender.arrays())
    stored = {kind: (store.blobs.put(data), len(data)) for kind, data in blobs.items()}
    count = outcome.recommender.parameters
    result = {
        "shape": shape_of(outcome.recommender),
        "parameters": {"trainable": count.trainable, "frozen": count.frozen, "closed_form": count.closed_form},
        "details": plain(dict(outcome.recommender.details)),
        "environment": plain(dict(outcome.environment)),
        "seconds": outcome.seconds,
        "stage": None,
    }

    def write() -> list[str]:
        with store.begin() as session:
            hold(session, store, claim)
            _replace(session, claim.run_id, outcome, stored)
            return finish(session, claim, **result)

    for checkpoint in store.patiently(write):
        store.blobs.discard(checkpoint)


def load_table(store: Store, run_id: str, kind: Table) -> pd.DataFrame:
    """A table of a run. Raises NotFoundError, IntegrityError.

    per_user, topk and held_out: see `cmr_core.evaluation.tables`; curves: stage, step, name, value. Codes are local to
    the target market.
    """
    if kind not in TABLES:
        raise NotFoundError(f"There is no table {kind!r}.", hint=f"Tables: {', '.join(TABLES)}.")
    return from_parquet(_bytes(store, run_id, kind))


def load_model(store: Store, run_id: str) -> Recommender:
    """The fitted method of a run. Raises NotFoundError, IntegrityError."""
    run = get_run(store, run_id)
    return read_model(_bytes(store, run_id, "model"), str(run.shape), run.parameters or {}, run.details or {})


def read_model(
    data: bytes, shape: str, parameters: Mapping[str, int], details: Mapping[str, float | str]
) -> Recommender:
    """The fitted method whose arrays these are. Raises IntegrityError where they do not fit the shape."""
    from cmr_core.models.base import rebuild

    return rebuild(shape, from_safetensors(data), ParameterCount(**parameters), details)


def find_model(store: Store, spec: JobSpec) -> Recommender | None:
    """The fitted method of a finished run of the spec; None where there is none with a model."""
    with store.read() as session:
        found = session.scalars(
            select(RunRow.id)
            .join(ArtifactRow, ArtifactRow.run_id == RunRow.id)
            .where(RunRow.fingerprint == spec.fingerprint(), RunRow.state == "succeeded", ArtifactRow.kind == "model")
        ).first()
    return None if found is None else load_model(store, found)


def list_artifacts(store: Store, run_id: str) -> list[ArtifactRow]:
    """What is stored of a run, by kind, with size and checksum."""
    with store.read() as session:
        return list(session.scalars(select(ArtifactRow).filter_by(run_id=run_id).order_by(ArtifactRow.kind)))


def read_artifact(store: Store, run_id: str, kind: str) -> bytes:
    """The stored bytes of one artifact, verified; for downloads. Raises NotFoundError, IntegrityError."""
    return _bytes(store, run_id, kind)


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The frame as Parquet."""
    return frame.to_parquet(None, index=False, compression="zstd")


def from_parquet(data: bytes) -> pd.DataFrame:
    """The frame. Raises IntegrityError if the bytes are no Parquet file."""
    try:
        frame: pd.DataFrame = pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"A stored table cannot be read: {error}.", hint="Run the job again.") from None
    return frame


def to_safetensors(arrays: Mapping[str, np.ndarray], note: Mapping[str, str] | None = None) -> bytes:
    """The arrays in safetensors format; `note` becomes its metadata."""
    # the format keeps no strides: a transposed view would come back wrong
    return bytes(save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}, dict(note or {})))


def from_safetensors(data: bytes) -> Arrays:
    """The arrays. Raises IntegrityError if the bytes are not in safetensors format."""
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"Stored arrays cannot be read: {error}.", hint="Run the job again.") from None


def _bytes(store: Store, run_id: str, kind: str) -> bytes:
    run = get_run(store, run_id)
    with store.read() as session:
        row = session.get(ArtifactRow, (run_id, kind))
    if row is None:
        imported = "It was imported without it: export the study with its models."
        hint = imported if run.state == "succeeded" else f"It is {run.state}; only a succeeded run has results."
        raise NotFoundError(f"Run {run.label!r} has no {kind}.", hint=hint)
    return store.blobs.get(row.sha256)


def _replace(session: Session, run_id: str, outcome: Outcome, stored: Mapping[str, tuple[str, int]]) -> None:
    for table in (MetricRow, StageRow, ArtifactRow):  # a retried run may have left some
        session.execute(delete(table).where(table.run_id == run_id))
    for part, evaluation in (("valid", outcome.valid), ("test", outcome.test)):
        session.add_all(_metrics(run_id, part, evaluation))
    session.add_all(StageRow(run_id=run_id, **vars(stage)) for stage in outcome.stages)
    session.add_all(
        ArtifactRow(run_id=run_id, kind=kind, sha256=sha256, size=size, created_at=now())
        for kind, (sha256, size) in stored.items()
    )


def _metrics(run_id: str, part: str, evaluation: Evaluation) -> list[MetricRow]:
    rows = {(group, name): (value, n) for group, name, value, n in evaluation.slices}
    rows |= {("all", name): (value, len(evaluation.users)) for name, value in evaluation.overall.items()}
    return [
        MetricRow(run_id=run_id, part=part, slice=group, name=name, value=float(value), n=int(n))
        for (group, name), (value, n) in rows.items()
        if math.isfinite(value)  # a group without users has no mean
    ]
