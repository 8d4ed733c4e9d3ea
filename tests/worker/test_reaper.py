"""The reaper: what is forgotten is sent, who is silent is lost, who is silent thrice has failed."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from sqlalchemy import select, update

from cmr_core.spec import EvalSpec, JobSpec
from tests.worker.conftest import ANALYST
from worker import queue
from worker.reaper import collect_garbage, sweep
from worker.store import runs
from worker.store.clock import later, now
from worker.store.session import Store
from worker.store.tables import CheckpointRow, RunRow


class Broker:
    """Takes what is sent, or is away."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.holds: set[str] = set()
        self.away = False

    def send(self, store: Store, run_ids: Iterable[str]) -> int:
        ids = list(run_ids)
        self.sent += ids
        self.holds |= set(ids)
        with store.begin() as session:
            session.execute(update(RunRow).where(RunRow.id.in_(ids)).values(sent_at=now()))
        return len(ids)

    def waiting(self) -> set[str] | None:
        return None if self.away else self.holds


@pytest.fixture
def broker() -> Broker:
    return Broker()


def launch(store: Store, digest: str, tag: int = 0) -> str:
    spec = JobSpec(corpus=digest, target="uk", method="popularity", evaluation=EvalSpec(cutoffs=(10, 20 + tag)))
    return runs.launch(store, ANALYST, spec)


def expire(store: Store) -> None:
    with store.begin() as session:
        session.execute(update(RunRow).where(RunRow.state == "running").values(lease_until=later(-1)))


def test_every_forgotten_run_is_sent_once_the_broker_is_back(store: Store, digest: str, broker: Broker) -> None:
    ids = [launch(store, digest, tag) for tag in range(100)]
    broker.away = True
    assert sweep(store, broker.send, broker.waiting).sent == 0
    broker.away = False
    assert sweep(store, broker.send, broker.waiting).sent == 100
    assert sorted(broker.sent) == sorted(ids)
    with store.read() as session:
        made = dict(session.execute(select(RunRow.id, RunRow.created_at)).all())
    assert [made[run] for run in broker.sent] == sorted(made.values())  # oldest first
    assert sweep(store, broker.send, broker.waiting).sent == 0


def test_a_message_that_the_broker_lost_is_sent_again(store: Store, digest: str, broker: Broker) -> None:
    run_id = launch(store, digest)
    broker.send(store, [run_id])
    broker.holds.clear()
    assert sweep(store, broker.send, broker.waiting).sent == 0  # it may be on its way
    with store.begin() as session:
        session.execute(update(RunRow).values(sent_at=later(-10)))
    assert sweep(store, broker.send, broker.waiting).sent == 1


def test_a_run_that_is_taken_already_is_not_taken_for_an_absent_broker(
    store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, waiting = launch(store, digest), launch(store, digest, 1)
    assert runs.claim(store, taken, "worker") is not None
    monkeypatch.setattr(queue, "enqueue", lambda *_: True)
    assert queue.deliver(store, [taken, waiting]) == 2
    monkeypatch.setattr(queue, "enqueue", lambda *_: False)
    assert queue.deliver(store, [taken, waiting]) == 1


def test_a_long_queue_is_not_sent_twice(store: Store, digest: str, broker: Broker) -> None:
    broker.send(store, [launch(store, digest)])
    with store.begin() as session:
        session.execute(update(RunRow).values(sent_at=later(-100_000)))
    assert sweep(store, broker.send, broker.waiting).sent == 0


def test_a_silent_worker_loses_its_run_three_times_and_then_it_has_failed(
    store: Store, digest: str, broker: Broker
) -> None:
    run_id = launch(store, digest)
    for attempt in (1, 2, 3):
        assert runs.claim(store, run_id, "w") is not None
        broker.holds.clear()
        assert not sweep(store, broker.send, broker.waiting)  # the lease holds
        expire(store)
        done = sweep(store, broker.send, broker.waiting)
        if attempt < 3:
            assert (done.lost, done.sent, runs.get_run(store, run_id).state) == ([run_id], 1, "lost")
    assert (done.failed, done.sent) == ([run_id], 0)
    run = runs.get_run(store, run_id)
    assert (run.state, run.attempt) == ("failed", 3)
    assert run.error
    assert run.hint
    assert run.finished_at is not None


def test_what_has_ended_is_left_alone(store: Store, digest: str, broker: Broker) -> None:
    run_id = launch(store, digest)
    runs.request_cancel(store, ANALYST, run_id)
    assert not sweep(store, broker.send, broker.waiting)
    assert runs.get_run(store, run_id).state == "cancelled"


def test_garbage_is_what_no_row_names_and_nobody_wrote_lately(store: Store, digest: str) -> None:
    run_id = launch(store, digest)
    stray, kept, young = (store.blobs.put(data) for data in (b"stray", b"kept", b"young"))
    over = store.blobs.put(b"of a run that ended long ago")
    ended = launch(store, digest, tag=1)
    runs.request_cancel(store, ANALYST, ended)
    with store.begin() as session:
        session.add(CheckpointRow(run_id=run_id, stage="s", attempt=1, sha256=kept))
        session.add(CheckpointRow(run_id=ended, stage="s", attempt=1, sha256=over))
        session.execute(update(RunRow).where(RunRow.id == ended).values(finished_at=later(-1e6)))
    for path in store.blobs.folder.glob("*/*"):
        if path.name != young:
            os.utime(path, (0, 0))
    assert collect_garbage(store) == 2
    left = {path.name for path in store.blobs.folder.glob("*/*")}
    assert {kept, young} < left
    assert not {stray, over} & left
    assert runs.get_run(store, run_id)
