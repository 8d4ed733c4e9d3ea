"""What keeps the queue honest: forgotten runs are sent again, silent workers' runs are lost and go on elsewhere."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from worker import queue
from worker.store.clock import later, now
from worker.store.runs import log
from worker.store.session import Store, open_store
from worker.store.tables import (
    ArtifactRow,
    CheckpointRow,
    CorpusRow,
    ListsRow,
    PictureRow,
    RunRow,
    SharedRow,
    WorkerRow,
)

JUST_SENT = 5.0  # seconds in which a message may be on its way and not to be seen in the broker

Send = Callable[[Store, Iterable[str]], int]
_log = logging.getLogger(__name__)


@dataclass
class Swept:
    """What one sweep did: ids of the runs."""

    lost: list[str] = field(default_factory=list)  # silent, will be tried again
    failed: list[str] = field(default_factory=list)  # silent for the last time
    sent: int = 0

    def __bool__(self) -> bool:
        return bool(self.lost or self.failed or self.sent)


def sweep(store: Store, send: Send = queue.deliver, waiting: Callable[[], set[str] | None] = queue.waiting) -> Swept:
    """One round. Safe to run in several processes at once; a broker that is away only delays the sending."""
    result = Swept()
    with store.begin() as session:
        result.failed = _give_up(session)
        result.lost = _mark_lost(session)
    at_broker = waiting()
    if at_broker is not None:
        result.sent = send(store, [run_id for run_id in _unsent(store) if run_id not in at_broker])
    return result


def collect_garbage(store: Store) -> int:
    """Remove bytes that no row names and checkpoints of runs that ended long ago. Returns how many blobs went."""
    age = store.settings.garbage_seconds
    with store.begin() as session:
        over = select(RunRow.id).where(RunRow.finished_at < later(-age))
        session.execute(delete(CheckpointRow).where(CheckpointRow.run_id.in_(over)))
        session.execute(delete(WorkerRow).where(WorkerRow.seen_at < later(-age)))
    old = list(store.blobs.stale(age))
    with store.read() as session:
        used = _named(session)
    unused = [sha256 for sha256 in old if sha256 not in used]
    for sha256 in unused:
        store.blobs.discard(sha256)
    return len(unused)


def run_forever(store: Store, stop: threading.Event | None = None) -> None:
    """Sweep until `stop` is set; a fault of the database or the broker is logged and waited out."""
    stop = stop or threading.Event()
    cleaned = float("-inf")
    while not stop.is_set():
        try:
            done = sweep(store)
            if done:
                _log.info("%s", done)
            if time.monotonic() - cleaned > store.settings.garbage_seconds:
                collect_garbage(store)
                cleaned = time.monotonic()
        except Exception:
            _log.exception("A sweep failed; the next one follows.")
        stop.wait(store.settings.sweep_seconds)


def main() -> None:
    """The reaper's process: ends on SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_forever(open_store(), stop)


_SILENT: tuple[ColumnElement[bool], ...] = (RunRow.state == "running", RunRow.lease_until < now())
_REASON = "The worker process died or fell silent in every attempt at this run."
_HINT = "Most often a job needs more memory than the machine has: try smaller settings, then retry."


def _give_up(session: Session) -> list[str]:
    rows = session.execute(
        update(RunRow)
        .where(*_SILENT, RunRow.attempt >= RunRow.attempts_allowed)
        .values(state="failed", error=_REASON, hint=_HINT, finished_at=now(), lease_until=None, remaining_seconds=None)
        .returning(RunRow.id, RunRow.attempt, RunRow.worker, RunRow.stage)
    ).all()
    for row in rows:
        log(
            session, row.id, "error", f"Attempt {row.attempt} on {row.worker} fell silent{_where(row.stage)}. {_REASON}"
        )
    return [row.id for row in rows]


def _mark_lost(session: Session) -> list[str]:
    rows = session.execute(
        update(RunRow)
        .where(*_SILENT, RunRow.attempt < RunRow.attempts_allowed)
        .values(state="lost", sent_at=None, lease_until=None, remaining_seconds=None)
        .returning(RunRow.id, RunRow.attempt, RunRow.worker, RunRow.stage)
    ).all()
    for row in rows:
        log(session, row.id, "warning", f"Attempt {row.attempt} on {row.worker} fell silent{_where(row.stage)}.")
    return [row.id for row in rows]


def _where(stage: str | None) -> str:
    return f" in stage {stage}" if stage else ""


def _unsent(store: Store) -> list[str]:
    on_its_way = RunRow.sent_at >= later(-JUST_SENT)
    waits = and_(RunRow.state.in_(("queued", "lost")), or_(RunRow.sent_at.is_(None), ~on_its_way))
    with store.read() as session:
        return list(session.scalars(select(RunRow.id).where(waits).order_by(RunRow.created_at, RunRow.id)))


def _named(session: Session) -> set[str]:
    columns = (
        CorpusRow.sha256,
        ListsRow.sha256,
        ArtifactRow.sha256,
        CheckpointRow.sha256,
        SharedRow.sha256,
        PictureRow.sha256,
    )
    return {sha256 for column in columns for sha256 in session.scalars(select(column)) if sha256 is not None}
