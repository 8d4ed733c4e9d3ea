"""Child processes that are watched, restarted and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cmr_core.errors import CmrError

LOG_LIMIT = 8 * 2**20  # bytes; a larger log is moved to NAME.log.old when its process starts
LONGEST_PAUSE = 30.0  # seconds between two restarts of a process that keeps failing
STEADY = 60.0  # seconds after which a process counts as healthy again

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, even by SIGKILL. Linux only; elsewhere nothing."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Service:
    """A command to keep running. `stop`: signals to send in turn, each with the seconds that it may take."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path("/")  # where it runs; a fixed place, so that the user's own folder shadows no module
    ready: Callable[[], bool] = lambda: True
    stop: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 5.0),)
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    _parent: int = 0
    _log_start: int = 0

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches only the supervisor."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._parent = os.getpid()
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.old"))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=self._in_child,
            )
        self.started = time.monotonic()

    def _in_child(self) -> None:
        die_with_parent()
        if os.getppid() != self._parent:  # it died between fork and the request above
            os._exit(1)
        os.nice(self.niceness)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, or with SIGKILL to its whole session."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            elif self.alive:
                self.process.send_signal(number)

    def has_said(self, words: str) -> bool:
        """Whether the process has written the words since it was started."""
        if not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return words.encode() in log.read(2**20)

    def tail(self, lines: int = 5) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 4096))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Starts services in order, restarts those that end, stops them in the opposite order."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.services: list[Service] = []
        self.say = say
        self.stopping = False
        self.impatient = False
        self._due: dict[str, float] = {}

    def on_signal(self, *_: object) -> None:
        """Signal handler: the first signal asks to stop, the second to stop at once."""
        self.impatient = self.stopping
        self.stopping = True

    def start(self, *services: Service, patience: float = 60.0) -> None:
        """Start services together and wait until all are ready, or somebody asks to stop.

        Raises CmrError with the end of its log where one of them ends or takes too long.
        """
        for service in services:
            self.services.append(service)
            service.start()
        for service in services:
            self._await_ready(service, patience)

    def _await_ready(self, service: Service, patience: float) -> None:
        end = time.monotonic() + patience
        while not self.stopping and not service.ready():
            if not service.alive or time.monotonic() > end:
                what = "ended" if not service.alive else f"did not answer within {patience:.0f} s"
                raise CmrError(
                    f"The {service.name} {what}. The end of its log:\n{service.tail()}\n",
                    hint=f"The whole log: {service.log}",
                )
            time.sleep(0.05)

    def watch(self, *, pause: float = 0.2) -> None:
        """Until somebody asks to stop: start what has ended again, after a pause that doubles with each failure."""
        while not self.stopping:
            for service in self.services:
                self._look_after(service)
            time.sleep(pause)

    def _look_after(self, service: Service) -> None:
        now = time.monotonic()
        if service.alive:
            if service.failures and now - service.started > STEADY:
                service.failures = 0
        elif service.name not in self._due:
            wait = min(LONGEST_PAUSE, 2.0**service.failures)
            self._due[service.name] = now + wait
            code = service.process.returncode if service.process else None
            self.say(f"The {service.name} ended (exit status {code}); starting it again in {wait:.0f} s.")
            self.say(service.tail(3))
        elif now >= self._due[service.name]:
            del self._due[service.name]
            service.signal(signal.SIGKILL)  # what its session may have left behind
            service.failures += 1
            service.start()

    def stop(self) -> None:
        """Stop all services, last started first; those with the same name prefix (workers) together."""
        self.stopping = True
        remaining = list(reversed(self.services))
        while remaining:
            kind = remaining[0].name.split()[0]
            together = [s for s in remaining if s.name.split()[0] == kind]
            remaining = [s for s in remaining if s not in together]
            self._stop(together)

    def _stop(self, services: list[Service]) -> None:
        for step in range(max(len(s.stop) for s in services)):
            for service in services:
                service.signal(service.stop[min(step, len(service.stop) - 1)][0])
            end = time.monotonic() + max(s.stop[min(step, len(s.stop) - 1)][1] for s in services)
            while any(s.alive for s in services) and time.monotonic() < end and not self.impatient:
                time.sleep(0.05)
        for service in services:
            service.signal(signal.SIGKILL)
            if service.process is not None:
                service.process.wait()
