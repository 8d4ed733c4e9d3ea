"""The state machine: every transition that must happen, and every one that must not."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from cmr_core.errors import ConflictError, NotFoundError, NotPermittedError
from cmr_core.spec import JobSpec
from worker.store import runs
from worker.store.audit import Actor
from worker.store.clock import later, now
from worker.store.runs import Claim, LostClaimError
from worker.store.session import Store
from worker.store.tables import AuditRow, CheckpointRow, RunRow

ANN = Actor("ann", "analyst")
VIEWER = Actor("vic", "viewer")


@pytest.fixture
def spec(digest: str) -> JobSpec:
    return JobSpec(corpus=digest, target="uk", method="popularity")


@pytest.fixture
def run_id(store: Store, spec: JobSpec) -> str:
    return runs.launch(store, ANN, spec)


def expire(store: Store, run_id: str) -> None:
    with store.begin() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(lease_until=later(-0.5)))


def state(store: Store, run_id: str) -> str:
    return runs.get_run(store, run_id).state


def end(store: Store, claim: Claim) -> None:
    with store.begin() as session:
        runs.finish(session, claim, seconds=1.0)


def claimed(store: Store, run_id: str, worker: str = "w1") -> Claim:
    claim = runs.claim(store, run_id, worker)
    assert claim is not None
    return claim


def test_a_launched_run_waits_with_everything_that_pages_ask_for(store: Store, run_id: str, spec: JobSpec) -> None:
    run = runs.get_run(store, run_id)
    assert (run.state, run.attempt, run.method, run.target) == ("queued", 0, "popularity", "uk")
    assert run.fingerprint == spec.fingerprint()
    assert run.protocol_text == "events 80/10/10 · catalogue"
    assert run.created_at.tzinfo is not None
    assert JobSpec.model_validate(run.spec) == spec


def test_the_whole_life_of_a_run(store: Store, run_id: str, spec: JobSpec) -> None:
    claim = claimed(store, run_id)
    assert (claim.attempt, claim.spec, state(store, run_id)) == (1, spec, "running")
    end(store, claim)
    run = runs.get_run(store, run_id)
    assert (run.state, run.seconds, run.lease_until) == ("succeeded", 1.0, None)
    assert run.finished_at is not None
    assert run.started_at is not None
    assert run.finished_at >= run.started_at
    assert [line.text for line in runs.log_lines(store, run_id)] == ["Attempt 1 begins on w1.", "Finished."]


def test_a_running_run_cannot_be_claimed_until_its_lease_ends(store: Store, run_id: str) -> None:
    first = claimed(store, run_id)
    assert runs.claim(store, run_id, "w2") is None
    expire(store, run_id)
    second = claimed(store, run_id, "w2")
    assert second.attempt == first.attempt + 1


def test_of_twenty_claims_at_once_one_succeeds(store: Store, run_id: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        claims = list(pool.map(lambda n: runs.claim(store, run_id, f"w{n}"), range(20)))
    assert sum(claim is not None for claim in claims) == 1
    assert runs.get_run(store, run_id).attempt == 1


def test_who_lost_the_claim_can_write_nothing(store: Store, run_id: str) -> None:
    zombie = claimed(store, run_id)
    expire(store, run_id)
    end(store, claimed(store, run_id, "w2"))
    with pytest.raises(LostClaimError):
        end(store, zombie)
    with pytest.raises(LostClaimError):
        runs.fail(store, zombie, "late")
    with pytest.raises(LostClaimError):
        runs.release(store, zombie, "late")
    with pytest.raises(LostClaimError), store.begin() as session:
        runs.hold(session, store, zombie, stage="late")
    assert not runs.is_held(store, zombie)
    assert (state(store, run_id), runs.get_run(store, run_id).worker) == ("succeeded", "w2")


def test_a_live_worker_takes_a_lost_run_back(store: Store, run_id: str) -> None:
    claim = claimed(store, run_id)
    with store.begin() as session:
        session.execute(update(RunRow).values(state="lost", lease_until=None))
    assert runs.is_held(store, claim)
    with store.begin() as session:
        runs.hold(session, store, claim)
    run = runs.get_run(store, run_id)
    assert run.state == "running"
    assert run.lease_until is not None


def test_the_lease_is_reckoned_on_the_databases_clock(store: Store, run_id: str) -> None:
    claimed(store, run_id)
    with store.read() as session:
        here = session.scalar(select(now()))
        lease = session.scalar(select(RunRow.lease_until))
    assert lease is not None
    assert here is not None
    assert 0 < (lease - here).total_seconds() <= store.settings.lease_seconds
    assert abs(here.timestamp() - time.time()) < 5


@pytest.mark.parametrize("before", ["queued", "running", "lost"])
def test_cancel_is_final_at_once_and_needs_no_worker(store: Store, run_id: str, before: str) -> None:
    claim = claimed(store, run_id) if before != "queued" else None
    with store.begin() as session:
        session.execute(update(RunRow).values(state=before))
    runs.request_cancel(store, ANN, run_id)
    assert state(store, run_id) == "cancelled"
    assert runs.claim(store, run_id, "w2") is None
    if claim is not None:
        with pytest.raises(LostClaimError):
            end(store, claim)
    assert state(store, run_id) == "cancelled"


def test_a_run_that_has_ended_cannot_be_cancelled(store: Store, run_id: str) -> None:
    end(store, claimed(store, run_id))
    with pytest.raises(ConflictError, match="ended as succeeded"):
        runs.request_cancel(store, ANN, run_id)


def test_retry_gives_three_fresh_attempts_and_keeps_the_fencing_token(store: Store, run_id: str) -> None:
    old = claimed(store, run_id)
    runs.fail(store, old, "Boom.", "Mend it.")
    failed = runs.get_run(store, run_id)
    assert (failed.state, failed.error, failed.hint) == ("failed", "Boom.", "Mend it.")
    runs.retry(store, ANN, run_id)
    again = runs.get_run(store, run_id)
    assert (again.state, again.error, again.attempts_allowed) == ("queued", None, 4)
    assert claimed(store, run_id).attempt == 2
    with pytest.raises(LostClaimError):
        end(store, old)


@pytest.mark.parametrize("wrong", ["queued", "running", "succeeded"])
def test_only_what_has_stopped_is_retried(store: Store, run_id: str, wrong: str) -> None:
    with store.begin() as session:
        session.execute(update(RunRow).values(state=wrong))
    with pytest.raises(ConflictError):
        runs.retry(store, ANN, run_id)


def test_a_retry_gives_way_to_a_newer_run_of_the_same(store: Store, run_id: str, spec: JobSpec) -> None:
    runs.request_cancel(store, ANN, run_id)
    newer = runs.launch(store, ANN, spec)
    assert newer != run_id
    with pytest.raises(ConflictError, match="Another run"):
        runs.retry(store, ANN, run_id)


def test_attempts_are_limited(store: Store, run_id: str) -> None:
    for attempt in (1, 2, 3):
        assert claimed(store, run_id).attempt == attempt
        expire(store, run_id)
    assert runs.claim(store, run_id, "w") is None


def test_a_release_costs_no_attempt(store: Store, run_id: str) -> None:
    for _ in range(5):
        runs.release(store, claimed(store, run_id), "stopping")
    run = runs.get_run(store, run_id)
    assert (run.state, run.attempts_allowed - run.attempt, run.sent_at) == ("queued", 3, None)


def test_finishing_forgets_checkpoints_and_names_their_bytes(store: Store, run_id: str) -> None:
    claim = claimed(store, run_id)
    with store.begin() as session:
        session.add(CheckpointRow(run_id=run_id, stage="s", attempt=1, sha256="a" * 64))
    with store.begin() as session:
        assert runs.finish(session, claim) == ["a" * 64]
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(CheckpointRow)) == 0


def test_launching_the_same_from_ten_threads_makes_one_run(store: Store, spec: JobSpec) -> None:
    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(lambda _: runs.launch(store, ANN, spec), range(50)))
    assert len(ids) == 1
    assert len(runs.list_runs(store)) == 1


@pytest.mark.parametrize("bad", ["", "x", "../../etc/passwd", "\0", "a" * 36, "00000000-0000-0000-0000-000000000000"])
def test_ids_that_are_none_are_not_found(store: Store, bad: str) -> None:
    for action in (runs.request_cancel, runs.retry):
        with pytest.raises(NotFoundError):
            action(store, ANN, bad)
    with pytest.raises(NotFoundError):
        runs.get_run(store, bad)


def test_viewers_change_nothing(store: Store, run_id: str, spec: JobSpec) -> None:
    with pytest.raises(NotPermittedError, match="viewer"):
        runs.launch(store, VIEWER, spec)
    with pytest.raises(NotPermittedError):
        runs.request_cancel(store, VIEWER, run_id)
    with pytest.raises(NotPermittedError):
        runs.retry(store, VIEWER, run_id)
    with pytest.raises(NotPermittedError):
        runs.launch(store, Actor("eve", "root"), spec)  # type: ignore[arg-type]
    assert state(store, run_id) == "queued"


def test_every_change_has_one_line_in_the_audit_log(store: Store, run_id: str) -> None:
    runs.request_cancel(store, ANN, run_id)
    runs.retry(store, ANN, run_id)
    with pytest.raises(ConflictError):
        runs.retry(store, ANN, run_id)
    with store.read() as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.id)).all()
    assert [(row.actor, row.action) for row in rows] == [
        ("ann", "add corpus"),
        ("ann", "launch"),
        ("ann", "cancel"),
        ("ann", "retry"),
    ]
    assert {row.subject for row in rows[1:]} == {run_id}


def test_read_modify_write_from_many_threads_loses_nothing(store: Store, run_id: str) -> None:
    """The reason for BEGIN IMMEDIATE: with plain WAL transactions this loses updates."""

    def bump(_: int) -> None:
        with store.begin() as session:
            run = session.get_one(RunRow, run_id, with_for_update=True)
            run.done = run.done + 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bump, range(100)))
    assert runs.get_run(store, run_id).done == 100
