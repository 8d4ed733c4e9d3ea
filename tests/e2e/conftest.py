"""The real thing: broker, reaper, worker and dashboard as processes, and Chromium in front of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmr_core.data.synthetic import synthetic
from tests.faults.plant import ANN, Plant, wait
from worker import queue
from worker.services import ROOT, app_command, responds
from worker.settings import get_settings
from worker.store.corpora import add_corpus

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plant, str]]:
    """The running system over a made-up corpus, and the dashboard's address."""
    plant = Plant(tmp_path_factory.mktemp("house"))
    port = free_port()
    environment = {**os.environ, "CMR_HOME": str(plant.settings.root), "OMP_NUM_THREADS": "1"}
    page = None
    try:
        plant.start_broker()
        plant.start_reaper()
        plant.start_worker()
        add_corpus(plant.store, ANN, synthetic(seed=0, scale=0.04), "made by a test")
        with (plant.settings.root / "dashboard.log").open("wb") as log:
            page = subprocess.Popen(
                app_command(plant.settings, port), env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
        wait("the dashboard", lambda: responds(f"http://127.0.0.1:{port}/_stcore/health"))
        yield plant, f"http://127.0.0.1:{port}"
    finally:
        if page is not None:
            page.terminate()
            page.wait(20)
        plant.close()
        queue.configure(get_settings())
