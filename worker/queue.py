"""The queue: Celery on Redis. It carries run ids and nothing else; importing this does not import torch.

Send after the commit, never before. A broker that is away is no error for the caller: the run stays queued in
the database, and the reaper sends it once the broker is back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import select, update

from cmr_core.spec import Budget
from worker.settings import Settings, get_settings
from worker.store.clock import now
from worker.store.session import Store
from worker.store.tables import RunRow

QUEUES = ("cpu", "gpu")
TASK = "cmr.execute"
PICTURE = "cmr.picture"
PICTURE_SECONDS = 1800
GRACE = 300  # seconds between the soft limit, which the run can answer, and the hard one, which kills

_log = logging.getLogger(__name__)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings (DESIGN section 4)."""
    broker = {
        "visibility_timeout": settings.visibility_seconds,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 3,
    }
    return {
        "broker_url": settings.broker,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker outlives any outage of the broker
        "broker_transport_options": broker,
        # Celery's documentation wants the visibility timeout in all three places
        "result_backend_transport_options": {"visibility_timeout": settings.visibility_seconds},
        "visibility_timeout": settings.visibility_seconds,
        "imports": ("worker.tasks",),
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_default_queue": "cpu",
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "worker_proc_alive_timeout": 120.0,  # a child imports torch first; the default 4 s kills it on a busy machine
        "worker_soft_shutdown_timeout": settings.soft_shutdown_seconds,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # the claim decides, not the connection
        # a fresh process per job gives a GPU's memory back
        "worker_max_tasks_per_child": 1 if settings.worker_device == "gpu" else None,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "timezone": "UTC",
    }


app = Celery("cmr")
app.conf.update(configuration(get_settings()))


def configure(settings: Settings) -> None:
    """Talk to another broker than the environment's, from now on."""
    app.conf.update(configuration(settings))


def enqueue(run_id: str, device: str = "cpu", max_seconds: int | None = None) -> bool:
    """Send a run's id to the queue of its device; False if the broker is away. `deliver` also notes it."""
    return _send(TASK, run_id, device, Budget().max_seconds if max_seconds is None else max_seconds)


def send_picture(key: str) -> bool:
    """Send a picture's key to a worker without a GPU; False if the broker is away: then ask again later."""
    return _send(PICTURE, key, "cpu", PICTURE_SECONDS)


def _send(task: str, key: str, queue: str, limit: int) -> bool:
    try:
        with _connected() as connection:
            app.send_task(
                task,
                args=(key,),
                task_id=key,
                queue=queue,
                soft_time_limit=limit,
                time_limit=limit + GRACE,
                retry=False,
                ignore_result=True,
                connection=connection,
            )
    except (BrokerError, OSError) as error:
        _log.warning("The broker does not answer (%s); %s %s waits.", error, task, key)
        return False
    return True


def deliver(store: Store, run_ids: Iterable[str]) -> int:
    """Send queued runs, note when, and return how many need no sending any more: those sent here, and those that the
    reaper has sent or a worker has taken meanwhile. Stops at the first sign that the broker is away."""
    done = 0
    for run_id in run_ids:
        with store.read() as session:
            row = session.execute(
                select(RunRow.device, RunRow.spec).where(RunRow.id == run_id, RunRow.state.in_(("queued", "lost")))
            ).one_or_none()
        if row is None:
            done += 1
            continue
        if not enqueue(run_id, row.device, Budget.model_validate(row.spec["budget"]).max_seconds):
            break
        with store.begin() as session:
            session.execute(update(RunRow).where(RunRow.id == run_id).values(sent_at=now()))
        done += 1
    return done


def waiting() -> set[str] | None:
    """Ids of the runs whose message lies in a queue; None if the broker does not answer.

    Messages in the hands of a worker do not count: the worker may be dead, and if it lives its run is running.
    """
    from redis import RedisError

    try:
        with _connected() as connection:
            client = connection.default_channel.client
            messages = [json.loads(raw) for name in QUEUES for raw in client.lrange(name, 0, -1)]
    except (BrokerError, OSError, RedisError) as error:
        _log.warning("The broker does not answer: %s", error)
        return None
    return {message["headers"]["id"] for message in messages}


@contextmanager
def _connected() -> Iterator[Any]:
    # a connection of its own: pooled ones outlive a fork, a change of broker and a broker's death
    with app.connection_for_write() as connection:
        # tried twice, because Celery's default tries for many seconds while somebody waits for a page
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        yield connection
