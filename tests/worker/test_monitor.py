"""The worker's monitor: progress without waiting, fencing, checkpoints, shared stages, an absent database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from cmr_core.errors import Cancelled
from cmr_core.interfaces import Arrays, Progress
from cmr_core.spec import EvalSpec, JobSpec
from tests.worker.conftest import ANALYST
from worker.monitor import WorkerMonitor
from worker.store import runs
from worker.store.clock import later
from worker.store.runs import Claim
from worker.store.session import Store
from worker.store.tables import CheckpointRow, PointRow, RunRow, SharedRow

ONES: Arrays = {"a": np.ones(3, dtype=np.float32)}
TWOS: Arrays = {"a": np.full(3, 2, dtype=np.float32)}


def new_claim(store: Store, digest: str, tag: int = 0, worker: str = "w") -> Claim:
    spec = JobSpec(corpus=digest, target="uk", method="popularity", evaluation=EvalSpec(cutoffs=(10, 20 + tag)))
    claim = runs.claim(store, runs.launch(store, ANALYST, spec), worker)
    assert claim is not None
    return claim


@pytest.fixture
def claim(store: Store, digest: str) -> Claim:
    return new_claim(store, digest)


@pytest.fixture
def monitor(store: Store, claim: Claim) -> Iterator[WorkerMonitor]:
    with WorkerMonitor(store, claim) as made:
        yield made


def eventually(condition: object) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def points(store: Store) -> list[tuple[str, int, str, float]]:
    with store.read() as session:
        rows = session.scalars(select(PointRow).order_by(PointRow.stage, PointRow.step, PointRow.name))
        return [(row.stage, row.step, row.name, row.value) for row in rows]


def take_over(store: Store, claim: Claim) -> Claim:
    with store.begin() as session:
        session.execute(update(RunRow).where(RunRow.id == claim.run_id).values(lease_until=later(-1)))
    second = runs.claim(store, claim.run_id, "other")
    assert second is not None
    return second


def test_progress_and_curves_reach_the_database(store: Store, claim: Claim, monitor: WorkerMonitor) -> None:
    monitor.report(Progress("walk", 0, 10))
    time.sleep(0.2)
    monitor.report(Progress("walk", 2, 10, {"loss": 0.5, "valid": float("nan")}))
    eventually(lambda: runs.get_run(store, claim.run_id).done == 2)
    run = runs.get_run(store, claim.run_id)
    assert (run.stage, run.total) == ("walk", 10)
    assert run.remaining_seconds is not None
    assert 0.5 < run.remaining_seconds < 60  # 8 steps of at least 0.1 s
    monitor.report(Progress("walk", 2, 10, {"loss": 0.25}))
    eventually(lambda: points(store) == [("walk", 2, "loss", 0.25)])


def test_a_quiet_job_keeps_its_lease(store: Store, claim: Claim, monitor: WorkerMonitor) -> None:
    first = runs.get_run(store, claim.run_id).lease_until
    assert first is not None
    eventually(lambda: (runs.get_run(store, claim.run_id).lease_until or first) > first)


def test_cancel_is_seen_while_the_job_is_quiet(store: Store, claim: Claim, monitor: WorkerMonitor) -> None:
    assert not monitor.cancelled()
    runs.request_cancel(store, ANALYST, claim.run_id)
    eventually(monitor.cancelled)
    assert monitor.lost


def test_who_was_replaced_writes_nothing_and_stops(store: Store, claim: Claim) -> None:
    monitor = WorkerMonitor(store, claim)
    take_over(store, claim)
    monitor.report(Progress("walk", 1, 2, {"loss": 1.0}))
    monitor.checkpoint("walk", ONES)
    assert monitor.cancelled()
    with monitor:
        pass
    assert points(store) == []
    with store.read() as session:
        assert session.scalars(select(CheckpointRow)).all() == []
    assert not [path for path in store.blobs.folder.glob("*/*") if path.read_bytes().find(b"checkpoint") >= 0]


def test_a_checkpoint_is_there_for_the_next_attempt_and_replaces_the_last_one(store: Store, claim: Claim) -> None:
    monitor = WorkerMonitor(store, claim)
    assert monitor.restore("walk") is None
    before = set(store.blobs.folder.glob("*/*"))
    monitor.checkpoint("walk", ONES)
    monitor.checkpoint("walk", TWOS)
    assert len(set(store.blobs.folder.glob("*/*")) - before) == 1
    found = WorkerMonitor(store, take_over(store, claim)).restore("walk")
    assert found is not None
    assert np.array_equal(found["a"], TWOS["a"])


def test_a_damaged_checkpoint_counts_as_none(store: Store, claim: Claim) -> None:
    monitor = WorkerMonitor(store, claim)
    monitor.checkpoint("walk", ONES)
    with store.read() as session:
        sha256 = session.scalars(select(CheckpointRow.sha256)).one()
    (store.blobs.folder / sha256[:2] / sha256).write_bytes(b"x")
    with monitor:
        assert monitor.restore("walk") is None
    assert any("cannot be used" in line.text for line in runs.log_lines(store, claim.run_id))


def test_a_database_that_is_away_costs_no_progress(store: Store, claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> object:
        raise OperationalError("BEGIN", {}, Exception("the database is away"))

    with WorkerMonitor(store, claim) as monitor:
        monkeypatch.setattr(store, "begin", away)
        for step in range(5):
            monitor.report(Progress("walk", step, 5, {"loss": float(step)}))
            monitor.checkpoint("walk", ONES)
            time.sleep(0.05)
        assert not monitor.cancelled()
        monkeypatch.undo()
        eventually(lambda: len(points(store)) == 5)
    assert runs.get_run(store, claim.run_id).state == "running"


def test_a_shared_stage_is_built_once(store: Store, claim: Claim, digest: str) -> None:
    built = []

    def build() -> Arrays:
        built.append(1)
        return ONES

    first = WorkerMonitor(store, claim).shared("key", build)
    other = WorkerMonitor(store, new_claim(store, digest, tag=1)).shared("key", build)
    assert len(built) == 1
    assert np.array_equal(first["a"], other["a"])


def test_who_comes_second_waits(store: Store, claim: Claim, digest: str) -> None:
    begun, go = threading.Event(), threading.Event()
    order: list[str] = []

    def build() -> Arrays:
        begun.set()
        go.wait(10)
        order.append("built")
        return ONES

    def never() -> Arrays:
        raise AssertionError("built twice")

    def ask() -> None:
        with WorkerMonitor(store, second) as monitor:
            assert np.array_equal(monitor.shared("key", never)["a"], ONES["a"])
            order.append("read")

    second = new_claim(store, digest, tag=1)
    with WorkerMonitor(store, claim) as monitor:
        builder = threading.Thread(target=lambda: monitor.shared("key", build))
        builder.start()
        begun.wait(10)
        waiter = threading.Thread(target=ask)
        waiter.start()
        time.sleep(store.settings.lease_seconds + 0.5)  # the heartbeat keeps the builder's lease alive
        go.set()
        builder.join(10)
        waiter.join(10)
    assert order == ["built", "read"]


def test_who_waits_can_be_cancelled(store: Store, claim: Claim, digest: str) -> None:
    with store.begin() as session:
        session.add(SharedRow(key="key", owner_run="somebody", owner_attempt=1, lease_until=later(100)))
    with WorkerMonitor(store, claim) as monitor:
        threading.Timer(0.3, runs.request_cancel, (store, ANALYST, claim.run_id)).start()
        with pytest.raises(Cancelled):
            monitor.shared("key", lambda: ONES)


def test_a_dead_builder_is_replaced_when_its_lease_ends(store: Store, claim: Claim) -> None:
    with store.begin() as session:
        session.add(SharedRow(key="key", owner_run="somebody", owner_attempt=1, lease_until=later(0.5)))
    with WorkerMonitor(store, claim) as monitor:
        began = time.monotonic()
        assert np.array_equal(monitor.shared("key", lambda: TWOS)["a"], TWOS["a"])
    assert time.monotonic() - began > 0.3


def test_the_next_attempt_need_not_wait_for_its_own_dead_predecessor(store: Store, claim: Claim) -> None:
    with store.begin() as session:
        session.add(SharedRow(key="key", owner_run=claim.run_id, owner_attempt=claim.attempt, lease_until=later(100)))
    second = take_over(store, claim)
    assert np.array_equal(WorkerMonitor(store, second).shared("key", lambda: TWOS)["a"], TWOS["a"])


def test_a_builder_that_fails_leaves_the_stage_to_others(store: Store, claim: Claim, digest: str) -> None:
    def broken() -> Arrays:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        WorkerMonitor(store, claim).shared("key", broken)
    other = WorkerMonitor(store, new_claim(store, digest, tag=1))
    assert np.array_equal(other.shared("key", lambda: TWOS)["a"], TWOS["a"])


def test_damaged_shared_bytes_are_built_again(store: Store, claim: Claim) -> None:
    monitor = WorkerMonitor(store, claim)
    monitor.shared("key", lambda: ONES)
    with store.read() as session:
        sha256 = str(session.scalars(select(SharedRow.sha256)).one())
    Path(store.blobs.folder / sha256[:2] / sha256).write_bytes(b"x")
    assert np.array_equal(monitor.shared("key", lambda: ONES)["a"], ONES["a"])
    assert store.blobs.get(sha256)
