"""Bytes on disk under their own sha256. Nobody outside can name a path: only 64 hex digits reach the file system."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cmr_core.errors import CmrError, IntegrityError, NotFoundError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(CmrError):
    """There is no room for more bytes; everything stored before is intact."""


class Blobs:
    """A folder of immutable byte strings, `ab/abcdef...`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Store the bytes and return their sha256. A reader sees all of them or none. Raises DiskFullError."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        try:
            self._write(path, data)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise DiskFullError(
                    "The disk is full.", hint=f"Make room for {len(data) / 2**20:.1f} MiB and retry."
                ) from error
            raise
        return sha256

    def get(self, sha256: str) -> bytes:
        """The bytes, verified. Raises NotFoundError if they are gone, IntegrityError if they have changed."""
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"Stored bytes {sha256[:12]} are missing.", hint="Somebody removed the file; run the job again."
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(
                f"Stored bytes {sha256[:12]} have changed since they were written.",
                hint="The disk or another program damaged them; run the job again.",
            )
        return data

    def discard(self, sha256: str) -> None:
        """Remove the bytes if they are there. The caller knows that no row names them."""
        self._path(sha256).unlink(missing_ok=True)

    def stale(self, older_than: float) -> Iterator[str]:
        """sha256 of blobs that nobody has written for `older_than` seconds; abandoned partial files are removed."""
        limit = time.time() - older_than
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process may be cleaning too
                if path.stat().st_mtime > limit:
                    continue
                if _SHA256.fullmatch(path.name):
                    yield path.name
                else:
                    path.unlink()

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError("Not the name of stored bytes.", hint="A name is 64 hexadecimal digits.")
        return self.folder / sha256[:2] / sha256

    def _write(self, path: Path, data: bytes) -> None:
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == path.name:
            os.utime(path)  # young again, so that it is not cleaned away before its row is written
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
