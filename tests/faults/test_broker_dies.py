"""The broker is killed, comes back, or was never there: no launched run is forgotten, and cancel does not need it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmr_core.data.synthetic import synthetic
from tests.faults.plant import ANN, Plant, wait
from worker import queue
from worker.reaper import sweep
from worker.settings import get_settings
from worker.store import runs
from worker.store.corpora import add_corpus

MANY = 15


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Plant]:
    """A state folder without any process."""
    made = Plant(tmp_path)
    try:
        yield made
    finally:
        made.close()
        queue.configure(get_settings())


@pytest.fixture
def corpus_digest(bare: Plant) -> str:
    return add_corpus(bare.store, ANN, synthetic(seed=0, scale=0.05), "made by a test")


def states(plant: Plant, ids: list[str]) -> set[str]:
    found = [plant.run(run_id) for run_id in ids]
    assert "failed" not in {run.state for run in found}, [run.error for run in found if run.error]
    return {run.state for run in found}


def test_runs_launched_before_during_and_after_an_outage_all_run(bare: Plant, corpus_digest: str) -> None:
    never = [bare.launch(corpus_digest, tag, epochs=1, pause=0) for tag in range(MANY)]  # no broker yet
    assert states(bare, never) == {"queued"}
    bare.start_broker()
    before = [bare.launch(corpus_digest, MANY + tag, epochs=1, pause=0) for tag in range(MANY)]
    bare.kill("broker")
    shutil.rmtree(bare.broker.data)  # not even its own memory helps
    during = [bare.launch(corpus_digest, 2 * MANY + tag, epochs=1, pause=0) for tag in range(MANY)]
    bare.start_reaper()
    bare.start_worker()
    bare.start_broker()
    after = bare.launch(corpus_digest, 3 * MANY, epochs=1, pause=0)
    everything = [*never, *before, *during, after]
    wait("all runs to end", lambda: states(bare, everything) == {"succeeded"}, seconds=120)
    assert all(bare.run(run_id).attempt == 1 for run_id in everything)


def test_a_broker_that_is_killed_under_a_busy_worker_loses_nothing(bare: Plant, corpus_digest: str) -> None:
    bare.start_broker()
    bare.start_reaper()
    bare.start_worker()
    ids = [bare.launch(corpus_digest, tag, epochs=20) for tag in range(3)]
    wait("the first to run", lambda: "running" in states(bare, ids))
    os.kill(bare.processes["broker"].pid, signal.SIGKILL)
    bare.kill("broker")
    wait("the first to end without a broker", lambda: "succeeded" in states(bare, ids))
    bare.start_broker()
    wait("all to end", lambda: states(bare, ids) == {"succeeded"})
    assert all(bare.run(run_id).attempt == 1 for run_id in ids)


def test_cancel_and_retry_need_neither_broker_nor_worker(bare: Plant, corpus_digest: str) -> None:
    queued, running, lost = (bare.launch(corpus_digest, tag) for tag in range(3))
    for run_id in (running, lost):
        assert runs.claim(bare.store, run_id, "long dead") is not None
    for run_id in (queued, running):
        runs.request_cancel(bare.store, ANN, run_id)
        assert bare.run(run_id).state == "cancelled"
    wait("the reaper to notice", lambda: sweep(bare.store).lost == [lost])
    assert bare.run(lost).state == "lost"
    runs.request_cancel(bare.store, ANN, lost)
    runs.retry(bare.store, ANN, lost)
    assert queue.deliver(bare.store, [lost]) == 0  # says so, and raises nothing
    assert bare.run(lost).state == "queued"
