"""`cmr up` as a person uses it: start, look, stop. One start serves several questions, because it takes seconds."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Up:
    """A running `cmr up` with an empty state folder of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CMR_")}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "CMR_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
        self.environment |= {"CMR_PORT": str(self.port), "CMR_SAMPLE": "0", "OMP_NUM_THREADS": "1", **environment}
        self.output = home.with_suffix(".out")
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                self.command("up"), env=self.environment, stdout=out, stderr=subprocess.STDOUT, cwd="/"
            )

    @staticmethod
    def command(*words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "worker.cli", *words]

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while "The dashboard:" not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def reapers(self) -> set[int]:
        found = set()
        for process in self.family():
            with suppress(psutil.NoSuchProcess):  # a zombie is none either
                found |= {process.pid} if "reaper" in process.cmdline() else set()
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path / "a home")
    try:
        started.wait()
        yield started
    finally:
        started.close()


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in alive)


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found |= {(c.laddr.ip, c.laddr.port) for c in process.net_connections("inet") if c.status == "LISTEN"}
    return found


def test_up_serves_restarts_refuses_a_second_and_stops_everything(up: Up) -> None:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{up.port}/_stcore/health", timeout=10) as answer:
        assert answer.read() == b"ok"

    family = up.family()
    assert listening(family) == {("127.0.0.1", up.port)}
    assert {path.name for path in (up.home / "logs").iterdir()} == {
        "broker.log",
        "dashboard.log",
        "reaper.log",
        "worker-cpu-1.log",
    }

    second = subprocess.run(up.command("up"), env=up.environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"process {up.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr

    (reaper,) = up.reapers()
    os.kill(reaper, signal.SIGKILL)
    end = time.monotonic() + 20
    while not up.reapers() - {reaper}:
        assert time.monotonic() < end, up.output.read_text()
        time.sleep(0.1)

    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 0
    assert gone(family)
    assert "Everything has stopped." in up.output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_nothing_survives_a_kill_of_up(up: Up) -> None:
    family = up.family()
    assert len(family) >= 4
    up.process.kill()
    assert gone(family)


def test_first_start_brings_a_comparison_and_the_second_none(tmp_path: Path) -> None:
    environment = {**os.environ, "CMR_HOME": str(tmp_path / "home"), "CMR_BROKER_URL": "", "PYTHONPATH": str(ROOT)}

    def prepare() -> str:
        words = Up.command("prepare")
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    first, second = prepare(), prepare()
    queued = re.search(r"queued (\d+) runs of the study 'sample'", first)
    assert queued
    assert int(queued[1]) >= 8
    assert "the sample is not needed" in second
    listed = subprocess.run(Up.command("runs"), env=environment, capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == int(queued[1])
    assert all("\tqueued\t" in line for line in listed.splitlines())


def test_taken_port_that_was_chosen_is_an_error_in_words(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        up = Up(tmp_path / "home", CMR_PORT=port)
        assert up.process.wait(timeout=PATIENCE) == 1
    assert f"port {port}" in up.output.read_text()
    assert "What to do: " in up.output.read_text()
    assert "Traceback" not in up.output.read_text()
