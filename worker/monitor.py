"""How a running job talks to the database: a thread beats and writes, the job itself never waits for it.

Progress is buffered, so that a database that is away for a while costs no training. The lease is renewed from the
thread too; if the claim is lost meanwhile, the job is told to stop and can write nothing any more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from cmr_core.errors import IntegrityError, NotFoundError
from cmr_core.interfaces import Arrays, Progress
from worker.shared import Shared
from worker.store.artifacts import from_safetensors, to_safetensors
from worker.store.runs import Claim, LostClaimError, hold, is_held, log
from worker.store.session import Store
from worker.store.tables import CheckpointRow, PointRow
from worker.store.upsert import upsert

AWAY = (OperationalError, InterfaceError)  # what an absent database looks like
_log = logging.getLogger(__name__)


class WorkerMonitor:
    """The worker's `Monitor`. Use as a context manager: the thread lives within."""

    def __init__(self, store: Store, claim: Claim, stopping: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._claim = claim
        self._stopping = stopping
        self._shared = Shared(store, claim, self.cancelled)
        self._lock = threading.Lock()
        self._points: dict[tuple[str, int, str], float] = {}
        self._lines: list[tuple[str, str]] = []
        self._progress: Progress | None = None
        self._moved = False  # since the last flush
        self._began: dict[str, tuple[float, int]] = {}  # stage -> moment and position of its first report
        self._beat_at = 0.0
        self._lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"heartbeat-{claim.run_id[:8]}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the run was cancelled or taken over."""
        return self._lost.is_set()

    @property
    def stage(self) -> str | None:
        """The stage of the last report."""
        return self._progress.stage if self._progress else None

    def report(self, progress: Progress) -> None:
        """Buffer; the thread writes it within a second."""
        with self._lock:
            self._began.setdefault(progress.stage, (time.monotonic(), progress.done))
            self._progress, self._moved = progress, True
            for name, value in progress.metrics.items():
                if math.isfinite(value):
                    self._points[progress.stage, progress.done, name] = float(value)

    def cancelled(self) -> bool:
        """Whether the run was cancelled or taken over, or its worker is asked to stop. At most a second old."""
        return self._lost.is_set() or self._stopping()

    def checkpoint(self, stage: str, arrays: Arrays) -> None:
        """Keep the stage's state under this run; skipped, with a line in the log, while the database is away."""
        # a name of its own keeps other rows from sharing these bytes, so that they can be removed at once
        sha256 = self._store.blobs.put(to_safetensors(arrays, {"checkpoint": uuid.uuid4().hex}))
        try:
            replaced = self._keep(stage, sha256)
        except AWAY:
            self.log("warning", f"The database is away: no checkpoint of {stage}.")
            replaced = sha256
        except LostClaimError:
            self._lost.set()
            replaced = sha256
        if replaced is not None:
            self._store.blobs.discard(replaced)

    def restore(self, stage: str) -> Arrays | None:
        """What an earlier attempt kept of the stage. Damaged bytes are reported and count as none."""
        with self._store.read() as session:
            row = session.get(CheckpointRow, (self._claim.run_id, stage))
        if row is None:
            return None
        try:
            arrays = from_safetensors(self._store.blobs.get(row.sha256))
        except (IntegrityError, NotFoundError) as error:
            self.log("warning", f"The checkpoint of {stage} cannot be used, so the stage starts anew: {error}")
            return None
        self.log("info", f"Stage {stage} goes on from the checkpoint of attempt {row.attempt}.")
        return arrays

    def shared(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """Arrays that one run builds and all others with the same key read. Raises Cancelled while waiting."""
        return self._shared.get(key, build)

    def log(self, level: str, text: str) -> None:
        """Add a line to the run's log."""
        with self._lock:
            self._lines.append((level, text))

    def flush(self) -> None:
        """Write what is buffered, renew the lease. Raises LostClaimError, or the database's error if it is away."""
        with self._lock:
            points, self._points = self._points, {}
            lines, self._lines = self._lines, []
            values, self._moved = self._position(), False
        try:
            with self._store.begin() as session:
                hold(session, self._store, self._claim, **values)
                self._shared.renew(session)
                self._write(session, points, lines)
        except AWAY:
            with self._lock:
                self._points = points | self._points
                self._lines, self._moved = lines + self._lines, True
            raise
        self._beat_at = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._tick(last=True)

    def _live(self) -> None:
        while not self._end.wait(self._store.settings.poll_seconds):
            self._tick()

    def _tick(self, *, last: bool = False) -> None:
        try:
            due = time.monotonic() - self._beat_at >= self._store.settings.heartbeat_seconds
            with self._lock:
                news = bool(self._points or self._lines or self._moved)
            if last and not news:
                return
            if due or news:
                self.flush()
            elif not is_held(self._store, self._claim):
                self._lost.set()
        except LostClaimError:
            self._lost.set()
        except AWAY as error:
            _log.warning("Run %s: the database is away: %s", self._claim.run_id, error)

    def _position(self) -> dict[str, Any]:
        if self._progress is None:
            return {}
        progress, remaining = self._progress, None
        began, first = self._began[progress.stage]
        if progress.done > first:
            pace = (time.monotonic() - began) / (progress.done - first)
            remaining = pace * max(0, progress.total - progress.done)
        return {
            "stage": progress.stage[:64],
            "done": progress.done,
            "total": progress.total,
            "remaining_seconds": remaining,
        }

    def _write(self, session: Session, points: dict[tuple[str, int, str], float], lines: list[tuple[str, str]]) -> None:
        key = {"run_id": self._claim.run_id, "attempt": self._claim.attempt}
        rows = [
            {**key, "stage": stage[:64], "step": step, "name": name[:32], "value": value}
            for (stage, step, name), value in points.items()
        ]
        upsert(session, PointRow, rows)
        for level, text in lines:
            log(session, self._claim.run_id, level, text)

    def _keep(self, stage: str, sha256: str) -> str | None:
        with self._store.begin() as session:
            hold(session, self._store, self._claim)
            row = session.get(CheckpointRow, (self._claim.run_id, stage))
            replaced = row.sha256 if row else None
            values = {"run_id": self._claim.run_id, "stage": stage, "attempt": self._claim.attempt, "sha256": sha256}
            upsert(session, CheckpointRow, [values])
            return replaced
