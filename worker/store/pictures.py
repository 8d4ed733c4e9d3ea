"""Pictures of the vectors of finished runs: asked for by people, computed by a worker, kept under their spec's digest.

A picture is a pure function of stored models: computing it twice gives the same bytes, so there is nothing to claim.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from pydantic import Field
from sqlalchemy import and_, or_, select, update

from cmr_core.errors import ConflictError, NotFoundError, SpecError
from cmr_core.spec import Frozen, parse
from worker.store.artifacts import from_parquet, load_model, to_parquet
from worker.store.audit import Actor, record, require
from worker.store.clock import later, now
from worker.store.numbers import plain
from worker.store.session import Store
from worker.store.tables import PictureRow, RunRow
from worker.store.upsert import upsert

PATIENCE = 600.0  # seconds after which a picture that nobody finished may be asked for again


class PictureSpec(Frozen):
    """Which vectors of which runs, one run per target market, and how they become two dimensions."""

    runs: tuple[str, ...] = Field(min_length=1, max_length=50)
    kind: Literal["user", "item"] = "item"
    reduction: Literal["t-sne", "umap"] = "t-sne"
    most: int = Field(250, ge=10, le=2000, description="Vectors per market at most")
    seed: int = Field(0, ge=0, le=2**31 - 1)


def ask_picture(store: Store, actor: Actor, spec: PictureSpec) -> tuple[str, bool]:
    """The picture's key, and whether a worker has to be told: `queue.send_picture(key)`, after this.

    Raises NotFoundError for runs that are not there, ConflictError for runs that have not finished, SpecError for two
    runs of one market.
    """
    require(actor, "draw picture")
    key = spec.digest()
    with store.begin() as session:
        found = session.execute(select(RunRow.id, RunRow.state, RunRow.target).where(RunRow.id.in_(spec.runs))).all()
        missing = set(spec.runs) - {run_id for run_id, _, _ in found}
        if missing:
            raise NotFoundError(f"There is no run {sorted(missing)[0][:64]!r}.", hint="See the page Runs.")
        if any(state != "succeeded" for _, state, _ in found):
            raise ConflictError("A run of the picture has not finished.", hint="Wait for the study's runs.")
        if len({target for _, _, target in found}) != len(found):
            raise SpecError("Two runs of the picture have one target.", hint="Choose one run per market.")
        waits = and_(PictureRow.state.in_(("queued", "drawing")), PictureRow.asked_at > later(-PATIENCE))
        known = select(PictureRow.key).where(PictureRow.key == key, or_(PictureRow.state == "done", waits))
        if session.scalar(known) is not None:
            return key, False
        values = {"key": key, "spec": spec.model_dump(mode="json"), "state": "queued", "asked_at": now()}
        upsert(session, PictureRow, [values | {"message": None, "result": None, "sha256": None, "ended_at": None}])
        record(session, actor, "draw picture", key, {"runs": len(spec.runs), "kind": spec.kind})
    return key, True


def find_picture(store: Store, key: str) -> PictureRow | None:
    """The picture, in whatever state; None where nobody asked for it."""
    with store.read() as session:
        return session.get(PictureRow, key)


def load_points(store: Store, picture: PictureRow) -> pd.DataFrame:
    """Points of a finished picture: stage (before, after), market, row, x, y. Raises NotFoundError, IntegrityError."""
    if picture.sha256 is None:
        raise NotFoundError("The picture is not finished.", hint="Wait for it, or ask for it again.")
    return from_parquet(store.blobs.get(picture.sha256))


def draw_picture(store: Store, key: str) -> None:
    """Compute the picture and keep it; a fault is kept as its message. A key that nobody asked for does nothing."""
    from cmr_core.errors import CmrError
    from cmr_core.evaluation.project import project
    from cmr_core.explain.vectors import vectors_of

    row = find_picture(store, key)
    if row is None or row.state == "done":
        return
    _set(store, key, state="drawing")
    try:
        spec = parse(PictureSpec, row.spec)
        with store.read() as session:
            found = session.execute(select(RunRow.id, RunRow.target).where(RunRow.id.in_(spec.runs)))
            targets = {str(run_id): str(target) for run_id, target in found}
        tables = {targets[run_id]: vectors_of(load_model(store, run_id), spec.kind) for run_id in spec.runs}
        stages = [stage for stage in ("before", "after") if all(stage in found for found in tables.values())]
        frames, result = [], {}
        for stage in stages:
            seen = project(
                {market: found[stage] for market, found in tables.items()},
                reduction=spec.reduction,
                most=spec.most,
                seed=spec.seed,
            )
            columns = {"stage": stage, "market": list(seen.market), "row": seen.row}
            frames.append(pd.DataFrame({**columns, "x": seen.place[:, 0], "y": seen.place[:, 1]}))
            result[stage] = {"separation": seen.separation, "silhouette": seen.silhouette}
        sha256 = store.blobs.put(to_parquet(pd.concat(frames, ignore_index=True)))
    except CmrError as error:
        _set(store, key, state="failed", message=f"{error} {error.hint}".strip(), ended_at=now())
        return
    except Exception as error:
        _set(store, key, state="failed", message=f"Unexpected fault: {type(error).__name__}: {error}", ended_at=now())
        raise
    _set(store, key, state="done", sha256=sha256, result=plain(result), message=None, ended_at=now())


def _set(store: Store, key: str, **values: object) -> None:
    def write() -> None:
        with store.begin() as session:
            session.execute(update(PictureRow).where(PictureRow.key == key).values(**values))

    store.patiently(write)
