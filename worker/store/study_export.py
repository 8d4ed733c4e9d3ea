"""A study's finished runs out of the store, as one file for another machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import select

from cmr_core.errors import ConflictError, NotFoundError
from cmr_core.spec import parse
from worker.store.artifacts import TABLES, load_table, to_parquet
from worker.store.audit import Actor, record, require
from worker.store.clock import now
from worker.store.corpora import get_corpus, market_names
from worker.store.runs import list_runs
from worker.store.session import Store
from worker.store.studies import get_study
from worker.store.study_archive import Writer
from worker.store.study_entries import RunEntry, StudyEntry
from worker.store.tables import ArtifactRow, MetricRow, RunRow, StageRow, StudyRow


@dataclass(frozen=True)
class Exported:
    """How many runs are in the file, and how many of the study are not because they have not succeeded."""

    runs: int
    left_out: int


def export_study(
    store: Store,
    actor: Actor,
    study_id: str,
    out: Path | IO[bytes],
    *,
    models: bool = False,
    places: int | None = None,
) -> Exported:
    """Write the study's succeeded runs to a new file, or into an open one. With `models` also what was fitted.

    Of each user's list of recommendations the first `places` go along, or all: they are most of a file. The per-user
    tables hold the users' ids. Nothing is left at a path when it fails. Raises NotFoundError where there is no such
    study or no succeeded run, ConflictError for a file that exists, IntegrityError for damaged bytes.
    """
    require(actor, "export study")
    study = get_study(store, study_id)
    runs = list_runs(store, study_id=study.id)
    done = sorted((run for run in runs if run.state == "succeeded"), key=lambda run: run.id)
    if not done:
        raise NotFoundError(f"No run of the study {study.name!r} has succeeded.", hint="Wait until one has.")
    with _opened(out) as file, Writer(file) as writer:
        writer.add_entry("study.json", _study(store, study, done[0].corpus))
        for run in done:
            cut = {} if places is None else _cut(store, run, places)
            entry = _run(store, run, models, {kind: hashlib.sha256(data).hexdigest() for kind, data in cut.items()})
            for kind, sha256 in entry.blobs().items():
                writer.add(f"blobs/{sha256}", cut[kind] if kind in cut else store.blobs.get(sha256))
            writer.add_entry(f"runs/{entry.spec.fingerprint()}.json", entry)
    with store.begin() as session:
        record(session, actor, "export study", study.id, {"name": study.name, "runs": len(done), "models": models})
    return Exported(len(done), len(runs) - len(done))


@contextlib.contextmanager
def _opened(out: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if not isinstance(out, Path):
        yield out
        return
    try:
        out.touch(exist_ok=False)  # takes the name: two exports at once must not write over each other
    except FileExistsError:
        raise ConflictError(f"{out} exists.", hint="Choose another name, or move it away.") from None
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:100]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        out.unlink(missing_ok=True)
        raise


def _study(store: Store, study: StudyRow, corpus_digest: str) -> StudyEntry:
    corpus = get_corpus(store, corpus_digest)
    with store.read() as session:
        moment = session.scalar(select(now()))
    body = {
        "id": study.id,
        "spec": study.spec,
        "corpus": {"corpus_digest": corpus.digest, "name": corpus.name, "markets": market_names(corpus)},
        "created_at": study.created_at,
        "created_by": study.created_by,
        "exported_at": moment,
    }
    return parse(StudyEntry, body, subject=f"study to export ({study.id})")


def _cut(store: Store, run: RunRow, places: int) -> dict[str, bytes]:
    """The run's tables that a file with `places` recommendations per user holds in another form, by kind."""
    lists = load_table(store, run.id, "topk")
    return {"topk": to_parquet(lists[lists["rank"] <= places].reset_index(drop=True))}


def _run(store: Store, run: RunRow, models: bool, changed: Mapping[str, str]) -> RunEntry:
    """`changed`: by kind, the SHA-256 of what takes the place of a stored artifact."""
    kinds = (*TABLES, "model") if models else TABLES
    with store.read() as session:
        metrics = session.scalars(select(MetricRow).filter_by(run_id=run.id).order_by(*MetricRow.__table__.primary_key))
        stages = session.scalars(select(StageRow).filter_by(run_id=run.id).order_by(StageRow.name))
        artifacts = session.scalars(
            select(ArtifactRow).where(ArtifactRow.run_id == run.id, ArtifactRow.kind.in_(kinds)).order_by("kind")
        )
        body = {
            **{name: getattr(run, name) for name in RunEntry.model_fields if hasattr(run, name)},
            "metrics": [{n: getattr(m, n) for n in ("part", "slice", "name", "value", "n")} for m in metrics],
            "stages": [{n: getattr(s, n) for n in ("name", "seconds", "cached", "key")} for s in stages],
            "artifacts": [
                {"kind": a.kind, "sha256": changed.get(a.kind, a.sha256), "created_at": a.created_at} for a in artifacts
            ],
        }
    return parse(RunEntry, body, subject=f"run to export ({run.id})")
