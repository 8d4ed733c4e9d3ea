"""One plant for most fault tests: its workers survive what is done to their children."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cmr_core.data.synthetic import synthetic
from tests.faults.plant import ANN, Plant
from worker import queue
from worker.settings import get_settings
from worker.store.corpora import add_corpus


@pytest.fixture(scope="session")
def _plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant"))
    try:
        made.start_broker()
        made.start_reaper()
        made.start_worker("w1")
        made.start_worker("w2")
        yield made
    finally:
        made.close()
        queue.configure(get_settings())


@pytest.fixture
def plant(_plant: Plant) -> Iterator[Plant]:
    """Broker, reaper and two workers, all alive."""
    queue.configure(_plant.settings)
    yield _plant
    _plant.let_go()


@pytest.fixture(scope="session")
def digest(_plant: Plant) -> str:
    """A tiny synthetic corpus in the plant's store."""
    return add_corpus(_plant.store, ANN, synthetic(seed=0, scale=0.05), "made by a test")
