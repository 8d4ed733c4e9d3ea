"""A broker, a reaper and workers as real processes over one state folder, with short leases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from cmr_core.spec import EvalSpec, JobSpec
from worker import queue
from worker.broker import embedded
from worker.services import ROOT, worker_command
from worker.settings import Settings
from worker.store import runs
from worker.store.audit import Actor
from worker.store.session import Store, migrate, open_store
from worker.store.tables import RunRow, WorkerRow

ANN = Actor("ann", "analyst")
QUICK: dict[str, Any] = {"lease_seconds": 4.0, "heartbeat_seconds": 0.5, "poll_seconds": 0.1, "sweep_seconds": 0.3}
PATIENCE = 60.0


def wait(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The condition's first true value; fails naming `what` if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for: {what}")


class Plant:
    """Starts, stops and kills the processes; asks the store how runs are."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = Settings(home=home, **QUICK | settings)
        migrate(self.settings)
        self.store: Store = open_store(self.settings)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.broker = embedded(self.settings.root)
        queue.configure(self.settings)

    def start_broker(self) -> None:
        self._start("broker", self.broker.command())
        wait("the broker to answer", self.broker.answers)

    def start_reaper(self) -> None:
        self._start("reaper", [sys.executable, "-m", "worker.cli", "reaper"])

    def start_worker(self, name: str = "w1") -> None:
        self._start(name, worker_command("cpu", name))

    def _start(self, name: str, command: list[str]) -> None:
        ours = {f"CMR_{key.upper()}": str(value) for key, value in self.settings.model_dump().items() if key in QUICK}
        ours |= {"CMR_HOME": str(self.settings.root), "CMR_PLUGINS": json.dumps(["tests.faults.methods"])}
        ours |= {"CMR_SOFT_SHUTDOWN_SECONDS": "20", "CMR_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (self.settings.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **ours, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to a process and to everything it started."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.store.close()

    def hold(self, place: str) -> None:
        """Make the next worker that comes to this place wait there."""
        self.settings.root.joinpath("held").unlink(missing_ok=True)
        self.settings.root.joinpath("hold").write_text(place)

    def held(self) -> int:
        """The id of the process that is held, once one is."""
        file = self.settings.root / "held"
        wait("a worker to be held", file.exists)
        return int(file.read_text())

    def let_go(self) -> None:
        self.settings.root.joinpath("hold").unlink(missing_ok=True)

    def launch(self, digest: str, tag: int = 0, method: str = "fault-walk", send: bool = True, **settings: Any) -> str:
        """A run; runs with different tags compute the same arrays under different fingerprints."""
        evaluation = EvalSpec(cutoffs=(10, 20 + tag))
        spec = JobSpec(corpus=digest, target="uk", method=method, settings=settings, evaluation=evaluation)
        run_id = runs.launch(self.store, ANN, spec)
        if send:
            queue.deliver(self.store, [run_id])
        return run_id

    def epochs(self) -> int:
        """How many epochs all runs together have trained."""
        file = self.settings.root / "epochs"
        return file.stat().st_size if file.exists() else 0

    def busy_with(self) -> set[str]:
        """The runs that workers say they are at."""
        with self.store.read() as session:
            return {run_id for run_id in session.scalars(select(WorkerRow.run_id)) if run_id is not None}

    def run(self, run_id: str) -> RunRow:
        return runs.get_run(self.store, run_id)

    def wait_for(self, run_id: str, *states: str, seconds: float = PATIENCE) -> RunRow:
        """The run, once it is in one of the states."""
        wait(f"{states}, now {self.run(run_id).state}", lambda: self.run(run_id).state in states, seconds)
        return self.run(run_id)
