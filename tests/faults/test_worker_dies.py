"""Workers that are killed, stopped and asked to stop: nothing is lost, nothing is overwritten, nothing loops."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from sqlalchemy import func, select

from cmr_core.interfaces import Arrays
from tests.faults.plant import ANN, Plant, wait
from worker import queue
from worker.store import runs
from worker.store.artifacts import load_model
from worker.store.tables import ArtifactRow, CheckpointRow, MetricRow, PointRow

POINTS = ["claimed", "epoch 1", "mid-checkpoint", "evaluating", "before finish"]


def same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="session")
def undisturbed(_plant: Plant, digest: str) -> Arrays:
    """The arrays of a run to which nothing happened."""
    queue.configure(_plant.settings)
    run = _plant.wait_for(_plant.launch(digest), "succeeded", "failed")
    assert run.state == "succeeded", run.error
    assert run.attempt == 1
    return load_model(_plant.store, run.id).arrays()


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_worker_is_noticed_and_another_ends_with_the_same_arrays(
    plant: Plant, digest: str, undisturbed: Arrays, point: str
) -> None:
    plant.hold(point)
    run_id = plant.launch(digest, tag=1 + POINTS.index(point))
    os.kill(plant.held(), signal.SIGKILL)
    plant.let_go()
    run = plant.wait_for(run_id, "succeeded", "failed")
    assert run.state == "succeeded", run.error
    assert run.attempt == 2
    assert same(load_model(plant.store, run_id).arrays(), undisturbed)
    with plant.store.read() as session:
        assert session.scalar(select(func.count()).select_from(CheckpointRow)) == 0


def test_a_killed_run_goes_on_where_it_was(plant: Plant, digest: str, undisturbed: Arrays) -> None:
    run_id = plant.launch(digest, tag=10, epochs=40, pause=0.1)
    wait("some epochs", lambda: plant.run(run_id).done >= 10)
    os.kill(_child(plant, run_id), signal.SIGKILL)
    assert plant.wait_for(run_id, "succeeded", "failed").state == "succeeded"
    with plant.store.read() as session:
        of_run = select(func.min(PointRow.step)).where(PointRow.run_id == run_id, PointRow.attempt == 2)
        assert session.scalar(of_run) > 5, "the second attempt began anew"


def test_a_zombie_that_wakes_cannot_overwrite(plant: Plant, digest: str, undisturbed: Arrays) -> None:
    plant.hold("before finish")
    run_id = plant.launch(digest, tag=11)
    zombie = plant.held()
    os.kill(zombie, signal.SIGSTOP)
    try:
        plant.let_go()
        run = plant.wait_for(run_id, "succeeded", "failed")
        assert (run.state, run.attempt) == ("succeeded", 2)
        before = _results(plant, run_id)
    finally:
        os.kill(zombie, signal.SIGCONT)
    other = plant.launch(digest, tag=12)  # both workers work again
    plant.wait_for(other, "succeeded")
    time.sleep(1)
    assert _results(plant, run_id) == before
    assert plant.run(run_id).attempt == 2
    assert same(load_model(plant.store, run_id).arrays(), undisturbed)


def test_the_same_message_twenty_times_has_one_effect(plant: Plant, digest: str) -> None:
    run_id = plant.launch(digest, tag=13, send=False, pause=0.2)
    for _ in range(20):
        assert queue.enqueue(run_id)
    assert plant.wait_for(run_id, "succeeded", "failed").attempt == 1
    wait("the copies to be consumed", lambda: run_id not in _waiting())
    time.sleep(0.5)
    run = plant.run(run_id)
    assert (run.state, run.attempt) == ("succeeded", 1)
    texts = [line.text for line in runs.log_lines(plant.store, run_id)]
    assert sum(text.startswith("Attempt") for text in texts) == 1
    with plant.store.read() as session:
        kinds = session.scalars(select(ArtifactRow.kind).where(ArtifactRow.run_id == run_id)).all()
    assert sorted(kinds) == ["curves", "held_out", "model", "per_user", "topk"]


def test_a_poison_job_ends_after_three_attempts_and_the_queue_moves_on(plant: Plant, digest: str) -> None:
    poison = plant.launch(digest, method="fault-poison")
    good = plant.launch(digest, tag=14)
    assert plant.wait_for(good, "succeeded").state == "succeeded"
    run = plant.wait_for(poison, "failed")
    assert run.attempt == 3
    assert run.error == "The worker process died or fell silent in every attempt at this run."
    assert "memory" in (run.hint or "")


@pytest.mark.parametrize("place", ["claimed", "epoch 1", "evaluating", "before finish"])
def test_cancel_while_a_worker_is_busy(plant: Plant, digest: str, place: str) -> None:
    plant.hold(place)
    run_id = plant.launch(digest, tag=20 + POINTS.index(place), epochs=200 if place == "epoch 1" else 6)
    plant.held()
    runs.request_cancel(plant.store, ANN, run_id)
    assert plant.run(run_id).state == "cancelled"
    trained = plant.epochs()
    plant.let_go()
    wait("the worker to be free again", lambda: run_id not in plant.busy_with())
    assert plant.epochs() - trained <= 2, "the worker trained on after the run was cancelled"
    other = plant.launch(digest, tag=30 + POINTS.index(place))
    plant.wait_for(other, "succeeded")
    assert plant.run(run_id).state == "cancelled"
    with plant.store.read() as session:
        assert session.scalar(select(func.count()).where(ArtifactRow.run_id == run_id)) == 0


def test_a_shared_stage_is_built_once_and_taken_over_when_its_builder_dies(plant: Plant, digest: str) -> None:
    plant.hold("epoch 1")
    first = plant.launch(digest, tag=40, shared=True)
    builder = plant.held()
    second = plant.launch(digest, tag=41, shared=True)
    wait("the second to wait for the first", lambda: plant.run(second).state == "running")
    os.kill(builder, signal.SIGKILL)
    plant.let_go()
    for run_id in (first, second):
        assert plant.wait_for(run_id, "succeeded", "failed").state == "succeeded"
    third = plant.launch(digest, tag=42, shared=True)
    plant.wait_for(third, "succeeded")
    built = plant.settings.root.joinpath("built").read_text()
    assert len(built) == 2  # begun by the killed one, then by one other
    arrays = [load_model(plant.store, run_id).arrays() for run_id in (first, second, third)]
    assert same(arrays[0], arrays[1])
    assert same(arrays[0], arrays[2])


def test_a_worker_that_is_asked_to_stop_gives_its_run_back(plant: Plant, digest: str) -> None:
    run_id = plant.launch(digest, tag=50, epochs=100, pause=0.1)
    wait("some epochs", lambda: plant.run(run_id).done >= 3)
    name = str(plant.run(run_id).worker).split("@")[0]
    worker = plant.processes.pop(name)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    plant.start_worker(name)
    run = plant.wait_for(run_id, "succeeded", "failed")
    texts = [line.text for line in runs.log_lines(plant.store, run_id)]
    assert run.state == "succeeded", texts
    assert any("asked to stop" in text for text in texts)
    assert not any("fell silent" in text for text in texts)
    with plant.store.read() as session:
        of_run = select(func.min(PointRow.step)).where(PointRow.run_id == run_id, PointRow.attempt == run.attempt)
        assert session.scalar(of_run) > 2, "the second attempt began anew"


def _child(plant: Plant, run_id: str) -> int:
    """The process that executes the run: the only child of the worker that claimed it."""
    name = str(plant.run(run_id).worker).split("@")[0]
    parent = plant.processes[name].pid
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        return int(children.read().split()[0])


def _results(plant: Plant, run_id: str) -> list[object]:
    with plant.store.read() as session:
        artifacts = session.execute(
            select(ArtifactRow.kind, ArtifactRow.sha256, ArtifactRow.created_at)
            .where(ArtifactRow.run_id == run_id)
            .order_by(ArtifactRow.kind)
        ).all()
        metrics = session.execute(
            select(MetricRow.part, MetricRow.slice, MetricRow.name, MetricRow.value)
            .where(MetricRow.run_id == run_id)
            .order_by(MetricRow.part, MetricRow.slice, MetricRow.name)
        ).all()
    run = plant.run(run_id)
    return [*artifacts, *metrics, run.state, run.attempt, run.finished_at, run.worker]


def _waiting() -> set[str]:
    found = queue.waiting()
    assert found is not None
    return found
