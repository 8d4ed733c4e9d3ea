"""Stages that many runs share: one builds, the others wait or read. Bytes before metadata, leases as for runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import and_, or_, update
from sqlalchemy.orm import Session

from cmr_core.errors import Cancelled, IntegrityError, NotFoundError
from cmr_core.interfaces import Arrays
from worker.store.artifacts import from_safetensors, to_safetensors
from worker.store.clock import later, now
from worker.store.runs import Claim
from worker.store.session import Store
from worker.store.tables import SharedRow
from worker.store.upsert import insert


class Shared:
    """The shared stages as one run sees them."""

    def __init__(self, store: Store, claim: Claim, cancelled: Callable[[], bool]) -> None:
        self._store = store
        self._claim = claim
        self._cancelled = cancelled
        self._owner = {"owner_run": claim.run_id, "owner_attempt": claim.attempt}
        self._mine = (
            SharedRow.owner_run == claim.run_id,
            SharedRow.owner_attempt == claim.attempt,
            SharedRow.sha256.is_(None),
        )

    def get(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """The arrays of `key`: read if stored, built if nobody does, awaited otherwise. Raises Cancelled."""
        while True:
            stored = self._store.patiently(lambda: self._read(key))
            if stored is not None:
                return stored
            if self._store.patiently(lambda: self._take(key)):
                return self._build(key, build)
            if self._cancelled():
                raise Cancelled("Stopped on request while another run built a shared stage.")
            time.sleep(min(1.0, self._store.settings.poll_seconds))

    def renew(self, session: Session) -> None:
        """Renew the lease of what this run is building; called from the heartbeat."""
        session.execute(
            update(SharedRow).where(*self._mine).values(lease_until=later(self._store.settings.lease_seconds))
        )

    def _read(self, key: str) -> Arrays | None:
        with self._store.read() as session:
            row = session.get(SharedRow, key)
        if row is None or row.sha256 is None:
            return None
        try:
            return from_safetensors(self._store.blobs.get(row.sha256))
        except (IntegrityError, NotFoundError):
            # damaged bytes cannot be mended, but the stage can be built again; whoever comes first does it
            with self._store.begin() as session:
                session.execute(
                    update(SharedRow)
                    .where(SharedRow.key == key, SharedRow.sha256 == row.sha256)
                    .values(sha256=None, lease_until=None)
                )
            return None

    def _take(self, key: str) -> bool:
        earlier_self = and_(SharedRow.owner_run == self._claim.run_id, SharedRow.owner_attempt <= self._claim.attempt)
        free = or_(SharedRow.lease_until.is_(None), SharedRow.lease_until < now(), earlier_self)
        values: dict[str, Any] = {**self._owner, "lease_until": later(self._store.settings.lease_seconds)}
        with self._store.begin() as session:
            statement = insert(session, SharedRow).values(key=key, created_at=now(), **values)
            taken = session.execute(
                statement.on_conflict_do_update(
                    index_elements=["key"], set_=values, where=and_(SharedRow.sha256.is_(None), free)
                ).returning(SharedRow.key)
            ).scalar()
        return taken is not None

    def _build(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        started = time.monotonic()
        try:
            arrays = build()
            sha256 = self._store.blobs.put(to_safetensors(arrays))
        except BaseException:
            self._set(key, lease_until=None, owner_run=None)  # the next one need not wait for the lease to expire
            raise
        seconds = time.monotonic() - started
        self._store.patiently(lambda: self._set(key, sha256=sha256, lease_until=None, seconds=seconds))
        return arrays

    def _set(self, key: str, **values: Any) -> None:
        # if somebody took over meanwhile nothing changes: both build the same arrays
        with self._store.begin() as session:
            session.execute(update(SharedRow).where(SharedRow.key == key, *self._mine).values(**values))
