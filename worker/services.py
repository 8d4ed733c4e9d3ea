"""Everything that `cmr up` runs on one machine: broker, dashboard, reaper and one worker per device."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmr_core.errors import CmrError, ConflictError
from worker.broker import embedded
from worker.processes import Service, Supervisor
from worker.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PORTS_TO_TRY = 20
PATIENCE = 180.0  # seconds until a service must be ready


def up(settings: Settings, say: Callable[[str], None]) -> None:
    """Run all services until Ctrl-C or SIGTERM. Raises CmrError where one of them does not start."""
    settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_one(settings.root):
        supervisor = Supervisor(say)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, supervisor.on_signal)
        try:
            address = start_all(settings, supervisor, say)
            if not supervisor.stopping:
                say(f"\n  The dashboard: {address}\n  Everything it stores: {settings.root}\n  Stop with Ctrl-C.\n")
            supervisor.watch()
        finally:
            if supervisor.services:
                say("Stopping. Running jobs may take a moment to end; Ctrl-C once more stops them at once.")
                supervisor.stop()
                say("Everything has stopped.")


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the state folder's lock. Raises ConflictError where another `up` holds it. The kernel frees it at death."""
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ConflictError(
                f"`up` is already running for {home} (process {lock.read().strip() or 'unknown'}).",
                hint="Use that one, stop it, or set CMR_HOME to another folder.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def start_all(settings: Settings, supervisor: Supervisor, say: Callable[[str], None]) -> str:
    """Start the services in order and wait for each. Returns the dashboard's address."""
    port = free_port(settings.host, settings.port, fixed="port" in settings.model_fields_set)
    if port != settings.port:
        say(f"Port {settings.port} is taken by another program; using {port}. Set CMR_PORT to choose one.")
    if not settings.broker_url:
        supervisor.start(broker(settings))
    prepare(settings, say)
    reaper = Service("reaper", cli("reaper"), log(settings, "reaper"), common(settings), ROOT)
    # a worker's child imports torch first, which takes long on a busy machine
    supervisor.start(dashboard(settings, port), reaper, *workers(settings, say), patience=PATIENCE)
    return address(settings.host, port)


def prepare(settings: Settings, say: Callable[[str], None]) -> None:
    """Migrate the database and load the sample, in a process of its own: the supervisor stays small.

    Raises CmrError with that process's words where it fails.
    """
    environment = {**os.environ, **common(settings)}
    done = subprocess.run(cli("prepare"), env=environment, capture_output=True, text=True, check=False)
    say(done.stdout.strip())
    if done.returncode:
        raise CmrError(f"Preparing the database failed:\n{done.stderr.strip()}", hint="Try it alone: ./cmr migrate")


def broker(settings: Settings) -> Service:
    """The embedded Redis or Valkey. Raises NotFoundError where the machine has none."""
    server = embedded(settings.root)
    return Service(
        "broker", server.command(), log(settings, "broker"), ready=server.answers, stop=((signal.SIGTERM, 10.0),)
    )


def dashboard(settings: Settings, port: int) -> Service:
    """The pages. `ready` asks Streamlit's own health address."""
    health = f"{address(settings.host, port)}/_stcore/health"
    return Service(
        "dashboard",
        app_command(settings, port),
        log(settings, "dashboard"),
        {**common(settings), "OMP_NUM_THREADS": "1"},
        ROOT,
        ready=lambda: responds(health),
    )


def app_command(settings: Settings, port: int) -> list[str]:
    """Streamlit's command line: quiet, no telemetry, no outside reach, XSRF protection on."""
    options = {
        "server.address": settings.host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": "true",
        "server.enableStaticServing": "false",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), *words]


def workers(settings: Settings, say: Callable[[str], None]) -> list[Service]:
    """`CMR_WORKERS` processes for the CPU queue, and one for each GPU that sees no other."""
    found = [worker(settings, f"worker cpu {n + 1}", "cpu", {}) for n in range(settings.workers)]
    devices = gpus()
    say(f"Workers: {settings.workers} on the CPU, {len(devices)} on a GPU.")
    return found + [
        worker(settings, f"worker gpu {device}", "gpu", {"CMR_WORKER_GPU": device, "CUDA_VISIBLE_DEVICES": device})
        for device in devices
    ]


def worker(settings: Settings, name: str, device: str, environment: dict[str, str]) -> Service:
    """One worker process. It is asked to end warm, then cold (its message goes back to the queue), then killed."""
    command = worker_command(device, name.replace("worker ", "").replace(" ", "-"))
    stop = ((signal.SIGTERM, settings.stop_seconds), (signal.SIGQUIT, 5.0))
    environment = {**worker_environment(settings, device), **environment}
    # The pages must stay quick while a job keeps every core busy.
    service = Service(name, command, log(settings, name), environment, ROOT, stop=stop, niceness=5)
    service.ready = lambda: service.has_said(" ready.")
    return service


def worker_environment(settings: Settings, device: str) -> dict[str, str]:
    """What a worker process needs: its device, and as many threads as its share of the cores."""
    threads = {
        key: str(settings.torch_threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**common(settings), **threads, **hidden, "CMR_WORKER_DEVICE": device}


def worker_command(device: str, name: str) -> list[str]:
    """Celery's command line for one process on one device's queue; `name` is unique on its machine."""
    options = (
        f"-Q {device} -n {name}@%h --concurrency 1 --pool prefork --loglevel INFO --without-gossip --without-mingle"
    )
    return [sys.executable, "-m", "celery", "-A", "worker.queue", "worker", *options.split()]


def gpus() -> list[str]:
    """Numbers of the GPUs that may be used; none where there is no NVIDIA driver. Leaves CUDA itself alone."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [d for d in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if d not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(n) for n, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def free_port(host: str, wanted: int, *, fixed: bool) -> int:
    """`wanted`, or where it was not chosen on purpose the next free port. Raises ConflictError where there is none."""
    for port in [wanted] if fixed else range(wanted, min(wanted + PORTS_TO_TRY, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise ConflictError(
        f"Nothing can listen on {host}, port {wanted}: it is taken, or the address is not this machine's.",
        hint="Stop the program that uses it, or choose another with CMR_PORT (and CMR_HOST).",
    )


def responds(url: str) -> bool:
    """Whether an HTTP address of this machine answers with success."""
    try:
        # No proxy: the address is local whatever the environment says.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def address(host: str, port: int) -> str:
    """The dashboard's address as this machine's browser reaches it."""
    shown = (
        "127.0.0.1" if host in ("", "0.0.0.0") else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
    )
    return f"http://{shown}:{port}"


def cli(command: str) -> list[str]:
    """A command of our own command line, whatever the working directory holds."""
    return [sys.executable, "-P", "-m", "worker.cli", command]


def common(settings: Settings) -> dict[str, str]:
    """Environment of every service: absolute paths, and output that is not held back."""
    return {"CMR_HOME": str(settings.root), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def log(settings: Settings, name: str) -> Path:
    """A service's log file."""
    return settings.root / "logs" / f"{name.replace(' ', '-')}.log"
