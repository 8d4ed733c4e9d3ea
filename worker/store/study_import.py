"""An exported study into the store. The file is checked as a whole first; then each run comes in whole or not at all.

What the store has stays as it is: a run whose fingerprint is there already, finished or begun, is linked to the study
and nothing else. One that only waits takes the imported results, so that nobody computes them again. Runs keep their
dates and get ids of their own; the audit log and each run's log tell that they were imported. An import that was
interrupted is simply repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import update
from sqlalchemy.orm import Session

from cmr_core.data.catalogue import CATALOGUE
from cmr_core.errors import ConflictError, NotFoundError
from cmr_core.spec import StudySpec
from worker.store.archive_checks import Checks
from worker.store.artifacts import from_parquet
from worker.store.audit import Actor, record, require
from worker.store.corpora import get_corpus, load_corpus
from worker.store.lists import check_lists
from worker.store.numbers import plain
from worker.store.runs import log, new_run, usable
from worker.store.session import Store, lock
from worker.store.study_archive import Reader
from worker.store.study_entries import CorpusEntry, RunEntry, StudyEntry
from worker.store.tables import ArtifactRow, CorpusRow, MetricRow, PointRow, RunRow, StageRow, StudyRow, StudyRunRow


@dataclass(frozen=True)
class Imported:
    """Ids of the runs that came in, and of those that were there already: `unfinished` ones had begun here."""

    study_id: str
    name: str
    added: list[str]
    there: list[str]
    unfinished: list[str]


def import_study(store: Store, actor: Actor, source: Path | bytes) -> Imported:
    """Add the study and the runs of an exported file to the store.

    Raises, before anything is written: FileFormatError and IntegrityError for a file that is not exactly what was
    exported, NotFoundError where its corpus is not in the store, SpecError where candidate lists are not, ConflictError
    where the store has another study of this id.
    """
    require(actor, "import study")
    with Reader(source) as archive:
        study = archive.study()
        corpus = _corpus(store, study.corpus)
        checks = Checks(archive, load_corpus(store, corpus.digest))
        for fingerprint in archive.fingerprints:
            entry = archive.run(fingerprint)
            checks.run(entry)
            with store.read() as session:
                check_lists(session, entry.spec)
        spec = study.spec.model_copy(update={"corpus": corpus.name})  # the same data may have another name here
        result = Imported(study.id, spec.name, [], [], [])
        with store.begin() as session:
            lock(session, "launch")  # the same file may come in twice at once
            _keep_study(session, study, spec)
            record(session, actor, "import study", study.id, {"name": spec.name, "runs": len(archive.fingerprints)})
        for fingerprint in archive.fingerprints:
            _keep_run(store, actor, archive, archive.run(fingerprint), result)
    return result


def _corpus(store: Store, wanted: CorpusEntry) -> CorpusRow:
    try:
        return get_corpus(store, wanted.corpus_digest)
    except NotFoundError:
        public = wanted.name in CATALOGUE
        how = f"cmr data fetch {wanted.name}" if public else f"cmr data add FILES --name {wanted.name}"
        raise NotFoundError(
            f"The study is about the corpus {wanted.name!r} (digest {wanted.corpus_digest[:12]}, markets "
            f"{', '.join(wanted.markets)}), which is not in this store.",
            hint=f"Add the same files first: {how}",
        ) from None


def _keep_study(session: Session, study: StudyEntry, spec: StudySpec) -> None:
    body = spec.model_dump(mode="json")
    there = session.get(StudyRow, study.id)
    if there is None:
        dates = {"created_at": study.created_at, "created_by": study.created_by}
        session.add(StudyRow(id=study.id, name=spec.name, spec=body, **dates))
    elif StudySpec.model_validate(there.spec).model_copy(update={"corpus": spec.corpus}) != spec:
        raise ConflictError(
            f"The store has another study with the id {study.id}.", hint="Launch the study's file here."
        )


def _keep_run(store: Store, actor: Actor, archive: Reader, entry: RunEntry, result: Imported) -> None:
    blobs = {kind: archive.blob(sha256) for kind, sha256 in entry.blobs().items()}
    for data in blobs.values():  # before the rows that name them
        store.blobs.put(data)
    with store.begin() as session:
        lock(session, "launch")
        run = usable(session, entry.spec.fingerprint())
        new = run is None or _end(session, run.id, entry)
        if run is None:
            run = new_run(
                entry.spec, entry.label, created_at=entry.created_at, created_by=entry.created_by, **_ended(entry)
            )
            session.add(run)
            session.flush()
        if new:
            _add_rows(session, run.id, entry, {kind: len(data) for kind, data in blobs.items()})
            session.add_all(_points(run.id, entry.attempt, from_parquet(blobs["curves"])))
            log(session, run.id, "info", f"Imported by {actor.name}; {entry.created_by} had launched it elsewhere.")
            result.added.append(run.id)
        else:
            (result.there if run.state == "succeeded" else result.unfinished).append(run.id)
        if session.get(StudyRunRow, (result.study_id, run.id)) is None:
            session.add(StudyRunRow(study_id=result.study_id, run_id=run.id))


def _end(session: Session, run_id: str, entry: RunEntry) -> bool:
    """Whether the run was still waiting and has ended now, with the entry's results."""
    waits = (RunRow.id == run_id, RunRow.state == "queued", RunRow.attempt == 0)
    return (
        session.execute(update(RunRow).where(*waits).values(**_ended(entry)).returning(RunRow.id)).first() is not None
    )


def _ended(entry: RunEntry) -> dict[str, Any]:
    return {
        "state": "succeeded",
        "attempts_allowed": entry.attempt,
        "parameters": entry.parameters.model_dump(),
        "details": plain(entry.details),
        **entry.model_dump(include={"attempt", "started_at", "finished_at", "seconds", "shape", "environment"}),
    }


def _add_rows(session: Session, run_id: str, entry: RunEntry, sizes: dict[str, int]) -> None:
    session.add_all(MetricRow(run_id=run_id, **metric.model_dump()) for metric in entry.metrics)
    session.add_all(StageRow(run_id=run_id, **stage.model_dump()) for stage in entry.stages)
    session.add_all(ArtifactRow(run_id=run_id, size=sizes[a.kind], **a.model_dump()) for a in entry.artifacts)


def _points(run_id: str, attempt: int, curves: pd.DataFrame) -> list[PointRow]:
    # as the run's monitor had written them: the last of several values of a step, finite ones only
    columns = (curves[name].tolist() for name in ("stage", "step", "name", "value"))
    last = {(stage[:64], step, name[:32]): float(value) for stage, step, name, value in zip(*columns, strict=True)}
    return [
        PointRow(run_id=run_id, attempt=attempt, stage=stage, step=step, name=name, value=value)
        for (stage, step, name), value in last.items()
        if math.isfinite(value)
    ]
