"""The life of a run: queued -> running -> succeeded | failed | cancelled, and lost when its worker fell silent.

Every step is one compare-and-set statement on the database's clock. `attempt` is the fencing token: a claim
raises it, and every later write carries it, so that a worker that was thought dead cannot overwrite anything.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from cmr_core.errors import ConflictError, NotFoundError
from cmr_core.spec import JobSpec, parse
from worker.store.audit import Actor, record, require
from worker.store.clock import later, now
from worker.store.lists import check_lists
from worker.store.session import Store, lock
from worker.store.tables import USABLE, CheckpointRow, LogRow, RunRow, StudyRunRow

_ID = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True)
class Claim:
    """The right to execute a run, until another claim takes it."""

    run_id: str
    attempt: int
    worker: str
    spec: JobSpec


class LostClaimError(ConflictError):
    """The run was cancelled, or belongs to another worker by now: stop, and write nothing."""


# --- asked for by people -------------------------------------------------------------------------------------------


def launch(store: Store, actor: Actor, spec: JobSpec, *, label: str | None = None) -> str:
    """The id of a run of this spec: a new queued one, or the one that exists. Send it to the queue afterwards.

    Raises SpecError for candidate lists that are not there.
    """
    require(actor, "launch")
    with store.begin() as session:
        lock(session, "launch")
        check_lists(session, spec)
        run, created = find_or_create(session, store, actor, spec, label or spec.method)
        if created:
            record(session, actor, "launch", run.id, {"method": spec.method, "target": spec.target})
        return run.id


def request_cancel(store: Store, actor: Actor, run_id: str) -> None:
    """End a queued, running or lost run as cancelled, at once; it needs no worker.

    A worker that is busy with it sees its claim gone within a second and stops within one epoch.
    Raises NotFoundError, and ConflictError if the run has ended.
    """
    require(actor, "cancel")
    with store.begin() as session:
        _existing(session, run_id)
        done = session.execute(
            update(RunRow)
            .where(RunRow.id == run_id, RunRow.state.in_(("queued", "running", "lost")))
            .values(state="cancelled", cancel_requested=True, finished_at=now(), lease_until=None)
            .returning(RunRow.id)
        ).scalar()
        if done is None:
            run = _existing(session, run_id)
            raise ConflictError(f"The run has ended as {run.state}.", hint="There is nothing to cancel.")
        record(session, actor, "cancel", run_id)
        log(session, run_id, "info", f"Cancelled by {actor.name}.")


def retry(store: Store, actor: Actor, run_id: str) -> None:
    """Queue a failed, cancelled or lost run again, with fresh attempts. Checkpoints that are left are used.

    Raises NotFoundError; ConflictError if its state forbids it or another run computes the same by now.
    """
    require(actor, "retry")
    with store.begin() as session:
        lock(session, "launch")
        run = _existing(session, run_id)
        other = usable(session, run.fingerprint)
        if other is not None and other.id != run_id:
            raise ConflictError("Another run computes the same.", hint=f"See run {other.id}.")
        done = session.execute(
            update(RunRow)
            .where(RunRow.id == run_id, RunRow.state.in_(("failed", "cancelled", "lost")))
            .values(
                state="queued",
                cancel_requested=False,
                attempts_allowed=RunRow.attempt + store.settings.max_attempts,
                **_CLEAN,
            )
            .returning(RunRow.id)
        ).scalar()
        if done is None:
            raise ConflictError(f"The run is {run.state}.", hint="Only a failed, cancelled or lost run can be retried.")
        record(session, actor, "retry", run_id)
        log(session, run_id, "info", f"Queued again by {actor.name}.")


def get_run(store: Store, run_id: str) -> RunRow:
    """The run. Raises NotFoundError."""
    with store.read() as session:
        return _existing(session, run_id)


def list_runs(
    store: Store, *, states: Sequence[str] = (), study_id: str | None = None, limit: int | None = None
) -> list[RunRow]:
    """Runs, newest first; all of them unless narrowed."""
    query = select(RunRow).order_by(RunRow.created_at.desc(), RunRow.id).limit(limit)
    if states:
        query = query.where(RunRow.state.in_(states))
    if study_id is not None:
        query = query.join(StudyRunRow, StudyRunRow.run_id == RunRow.id).where(StudyRunRow.study_id == study_id)
    with store.read() as session:
        return list(session.scalars(query))


# --- made by launches ----------------------------------------------------------------------------------------------


def usable(session: Session, fingerprint: str) -> RunRow | None:
    """The run that has computed, or will compute, this fingerprint."""
    return session.scalars(
        select(RunRow).where(RunRow.fingerprint == fingerprint, RunRow.state.in_(USABLE))
    ).one_or_none()


def find_or_create(session: Session, store: Store, actor: Actor, spec: JobSpec, label: str) -> tuple[RunRow, bool]:
    """The run of this spec and whether it is new. Hold `lock(session, "launch")`."""
    found = usable(session, spec.fingerprint())
    if found is not None:
        return found, False
    run = new_run(
        spec,
        label,
        state="queued",
        attempts_allowed=store.settings.max_attempts,
        created_at=now(),
        created_by=actor.name,
    )
    session.add(run)
    session.flush()
    return run, True


def new_run(spec: JobSpec, label: str, **life: Any) -> RunRow:
    """A row, not yet in a session, with an id of its own and everything that follows from the spec."""
    return RunRow(
        id=str(uuid.uuid4()),
        spec=spec.model_dump(mode="json"),
        fingerprint=spec.fingerprint(),
        configuration=spec.configuration(),
        protocol=spec.protocol(),
        protocol_text=spec.protocol_text(),
        label=label[:160],
        method=spec.method,
        corpus=spec.corpus,
        target=spec.target,
        seed=spec.seed,
        device=spec.budget.device,
        **life,
    )


# --- made by workers -----------------------------------------------------------------------------------------------


def claim(store: Store, run_id: str, worker: str) -> Claim | None:
    """The right to execute the run, or None: it has ended, somebody else has it, or its attempts are used up."""
    free = or_(RunRow.state.in_(("queued", "lost")), and_(RunRow.state == "running", RunRow.lease_until < now()))
    with store.begin() as session:
        row = session.execute(
            update(RunRow)
            .where(
                RunRow.id == run_id,
                RunRow.cancel_requested.is_(False),
                RunRow.attempt < RunRow.attempts_allowed,
                free,
            )
            .values(
                state="running",
                attempt=RunRow.attempt + 1,
                lease_until=later(store.settings.lease_seconds),
                worker=worker,
                started_at=now(),
            )
            .returning(RunRow.attempt, RunRow.spec)
        ).one_or_none()
        if row is None:
            return None
        log(session, run_id, "info", f"Attempt {row.attempt} begins on {worker}.")
        return Claim(run_id, row.attempt, worker, parse(JobSpec, row.spec))


def hold(session: Session, store: Store, claim: Claim, **values: Any) -> None:
    """Renew the lease and write `values`, if the claim still holds; otherwise raises LostClaimError.

    Call it first in each writing transaction of a worker: it locks the row, so that what follows is fenced too.
    """
    values = {"state": "running", "lease_until": later(store.settings.lease_seconds)} | values
    _fenced(session, claim, values)


def is_held(store: Store, claim: Claim) -> bool:
    """Whether the claim still holds. Reads only."""
    with store.read() as session:
        return session.scalar(select(RunRow.id).where(*_holds(claim))) is not None


def finish(session: Session, claim: Claim, **result: Any) -> list[str]:
    """End the run as succeeded, in the transaction that writes its results. Raises LostClaimError.

    Returns the sha256 of its checkpoints, which are forgotten; remove their bytes after the commit.
    """
    _fenced(session, claim, {"state": "succeeded", **_END, **result})
    log(session, claim.run_id, "info", "Finished.")
    of_run = CheckpointRow.run_id == claim.run_id
    return list(session.scalars(delete(CheckpointRow).where(of_run).returning(CheckpointRow.sha256)))


def fail(store: Store, claim: Claim, message: str, hint: str = "", *, detail: str = "") -> None:
    """End the run as failed, with the cause in plain words. Raises LostClaimError."""
    with store.begin() as session:
        _fenced(session, claim, {"state": "failed", "error": message, "hint": hint, **_END})
        log(session, claim.run_id, "error", detail or message)


def release(store: Store, claim: Claim, reason: str) -> None:
    """Give an unfinished run back to the queue; it costs no attempt. Raises LostClaimError."""
    values = {"state": "queued", "attempts_allowed": RunRow.attempts_allowed + 1, **_CLEAN}
    with store.begin() as session:
        _fenced(session, claim, values)
        log(session, claim.run_id, "info", reason)


def log(session: Session, run_id: str, level: str, text: str) -> None:
    """Add a line to a run's log."""
    session.add(LogRow(run_id=run_id, at=now(), level=level, text=text))


def log_lines(store: Store, run_id: str, limit: int = 500) -> list[LogRow]:
    """The last lines of a run's log, oldest first."""
    with store.read() as session:
        rows = session.scalars(select(LogRow).where(LogRow.run_id == run_id).order_by(LogRow.id.desc()).limit(limit))
        return list(rows)[::-1]


_CLEAN: Mapping[str, Any] = {
    "lease_until": None,
    "worker": None,
    "sent_at": None,
    "finished_at": None,
    "error": None,
    "hint": None,
}
_END: Mapping[str, Any] = {"finished_at": now(), "lease_until": None, "remaining_seconds": None}


def _holds(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    # lost and not yet claimed again counts: after a database outage a live worker takes its run back
    return (RunRow.id == claim.run_id, RunRow.attempt == claim.attempt, RunRow.state.in_(("running", "lost")))


def _fenced(session: Session, claim: Claim, values: Mapping[str, Any]) -> None:
    done = session.execute(update(RunRow).where(*_holds(claim)).values(**values).returning(RunRow.id)).scalar()
    if done is None:
        raise LostClaimError(
            f"Attempt {claim.attempt} of run {claim.run_id} is over.", hint="It was cancelled or taken over."
        )


def _existing(session: Session, run_id: str) -> RunRow:
    run = session.get(RunRow, run_id) if _ID.fullmatch(run_id) else None
    if run is None:
        raise NotFoundError(f"There is no run {run_id[:64]!r}.", hint="The list of runs shows those there are.")
    return run
