"""The one task: execute a run by its id. Torch is imported in the child process only; before the fork it would hang."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import socket
import threading
import time
import traceback
from functools import lru_cache
from multiprocessing import Event
from typing import Any

from celery import current_task, signals
from celery.exceptions import SoftTimeLimitExceeded

from cmr_core.errors import Cancelled, CmrError
from worker.monitor import AWAY, WorkerMonitor
from worker.processes import die_with_parent
from worker.queue import PICTURE, TASK, app, deliver
from worker.settings import get_settings
from worker.store import runs
from worker.store.artifacts import find_model, save_outcome
from worker.store.clock import now
from worker.store.corpora import load_corpus
from worker.store.lists import load_lists
from worker.store.pictures import draw_picture
from worker.store.runs import Claim, LostClaimError
from worker.store.session import Store, open_store
from worker.store.tables import WorkerRow
from worker.store.upsert import upsert

_log = logging.getLogger(__name__)
_stopping = Event()  # made before the fork, so that the child sees what its parent is asked


@lru_cache(maxsize=1)
def _store() -> Store:
    return open_store()


@app.task(name=TASK)
def execute(run_id: str) -> None:
    """Claim the run and carry it to its end. A message for a run that is over or taken does nothing."""
    claim = _store().patiently(lambda: runs.claim(_store(), run_id, worker_name()))
    if claim is None:
        _log.info("Run %s is over, taken or cancelled; nothing to do.", run_id)
        return
    _present(claim.run_id)
    try:
        perform(_store(), claim)
    finally:
        _present(None)


@app.task(name=PICTURE)
def picture(key: str) -> None:
    """Compute a picture of finished runs' vectors. A message that comes twice does nothing more."""
    draw_picture(_store(), key)


def perform(store: Store, claim: Claim) -> None:
    """Run the claimed job and store how it ended; every fault ends in the run's row, in plain words."""
    from cmr_core.experiment import run

    try:
        with WorkerMonitor(store, claim, _stopping.is_set) as monitor:
            try:
                corpus = load_corpus(store, claim.spec.corpus)
                lists = load_lists(store, claim.spec)
                outcome = run(claim.spec, corpus, monitor, lists=lists, find=lambda job: find_model(store, job))
                store.patiently(monitor.flush)
                save_outcome(store, claim, outcome, corpus)
            except Cancelled:
                _stopped(store, claim, monitor)
    except LostClaimError as error:
        _log.info("%s", error)
    except Exception as error:
        _fail(store, claim, error)


def explain(error: BaseException, seconds: int) -> tuple[str, str]:
    """Cause and next step, in words for the analyst. `seconds` is the run's time budget."""
    if isinstance(error, CmrError):
        return str(error), error.hint
    if isinstance(error, SoftTimeLimitExceeded):
        return f"The run used up its time budget of {seconds} s.", "Raise the budget and retry; it goes on from there."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "The run needs more memory than there is.", "Use fewer dimensions, a smaller batch, or a larger machine."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full.", "Make room and retry."
    if isinstance(error, AWAY):
        return "The database was away for too long.", "Retry once it is back; the work is kept as far as it was saved."
    return f"Unexpected fault: {type(error).__name__}: {error}", "This is a bug in the method; the log has the details."


def worker_name() -> str:
    """This worker process, unique among machines."""
    task = current_task
    return str(task.request.hostname) if task and task.request.hostname else f"{socket.gethostname()}:{os.getpid()}"


def _stopped(store: Store, claim: Claim, monitor: WorkerMonitor) -> None:
    if monitor.lost:
        _log.info("Run %s stopped: it was cancelled or taken over.", claim.run_id)
        return
    runs.release(store, claim, "The worker was asked to stop; the run went back to the queue.")
    deliver(store, [claim.run_id])


def _fail(store: Store, claim: Claim, error: Exception) -> None:
    message, hint = explain(error, claim.spec.budget.max_seconds)
    detail = "".join(traceback.format_exception(error)) if not isinstance(error, CmrError) else message
    _log.warning("Run %s failed: %s", claim.run_id, detail)
    try:
        store.patiently(lambda: runs.fail(store, claim, message, hint, detail=detail))
    except LostClaimError as lost:
        _log.info("%s", lost)


# --- the life of a worker process ----------------------------------------------------------------------------------

_presence: dict[str, str | None] = {"run_id": None}


@signals.worker_shutting_down.connect
def _ask_to_stop(**_: Any) -> None:
    _stopping.set()


@signals.worker_process_init.connect
def _begin(**_: Any) -> None:
    die_with_parent()
    settings = get_settings()
    if settings.worker_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.worker_gpu
    from cmr_core.experiment import settle  # torch: after the fork and after the device is pinned

    settle(settings.torch_threads)
    for plugin in settings.plugins:
        importlib.import_module(plugin)
    _store().forked()
    threading.Thread(target=_stay_present, name="presence", daemon=True).start()


@signals.celeryd_init.connect
def _name(sender: str, **_: Any) -> None:
    _presence["name"] = sender


def _stay_present() -> None:
    while True:
        _present(_presence["run_id"])
        time.sleep(get_settings().heartbeat_seconds)


def _present(run_id: str | None) -> None:
    _presence["run_id"] = run_id
    row = {
        "name": _presence.get("name") or worker_name(),
        "host": socket.gethostname(),
        "device": get_settings().worker_device,
        "seen_at": now(),
        "run_id": run_id,
    }
    try:
        with _store().begin() as session:
            upsert(session, WorkerRow, [row])
    except AWAY as error:
        _log.warning("The database is away: %s", error)
