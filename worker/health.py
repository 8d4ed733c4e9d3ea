"""Whether a part of the system is well, as container health checks ask it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select, text

from worker.services import address, responds
from worker.settings import Settings
from worker.store.clock import later
from worker.store.session import open_store
from worker.store.tables import WorkerRow


def dashboard(settings: Settings) -> bool:
    """Whether the pages are served on this machine."""
    return responds(f"{address(settings.host, settings.port)}/_stcore/health")


def worker(settings: Settings) -> bool:
    """Whether a worker on this machine was seen within a lease; it says so in the database by itself."""
    recent = select(WorkerRow.name).where(
        WorkerRow.host == settings.hostname, WorkerRow.seen_at > later(-settings.lease_seconds)
    )
    with open_store(settings).read() as session:
        return session.scalars(recent.limit(1)).first() is not None


def store(settings: Settings) -> bool:
    """Whether the database answers. Raises the database's own error where it does not."""
    with open_store(settings).read() as session:
        return bool(session.scalar(text("SELECT 1")))


ASK: dict[str, Callable[[Settings], bool]] = {"app": dashboard, "worker": worker, "store": store}
