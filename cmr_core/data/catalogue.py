"""Public corpora that can be fetched. Interrupted downloads go on where they stopped; wrong bytes are thrown away."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmr_core.errors import DownloadError, NotFoundError

CHUNK = 256 << 10
TIMEOUT_SECONDS = 30.0
MAX_FILE_BYTES = 64 << 20
Report = Callable[[str, int, int], None]  # file, bytes so far, bytes in all (0 where the server does not say)


@dataclass(frozen=True)
class Entry:
    """Where a corpus lies and what its files must hash to."""

    base_url: str
    sha256: dict[str, str]  # file name -> sha256
    about: str


CATALOGUE = {
    "xmarket-electronics": Entry(
        base_url="https://raw.githubusercontent.com/hamedrab/FOREC/main/DATA/proc_data/",
        sha256={
            "ca_5core.txt": "a8b2f9c2e4f0934bad03ebb6127817263cfd79c7e416ca79d8ab9696c3918bcb",
            "de_5core.txt": "d4058d929a880c387efd2f330d8010ec25904f53ef40b3d722487dfd182d2632",
            "fr_5core.txt": "48dc17f037eb13fce65ad72428cedf691d3aade016229699045d2f05806775fb",
            "in_5core.txt": "56701302e04b9a1e2e690ab8687e4be0d42d154c6d99bb87fd2d9b882d517deb",
            "jp_5core.txt": "bbf2e3a713385bdc25abfcdc6a99e48902ed9870f1f2943ff3c6152ff3b64e1c",
            "mx_5core.txt": "3178c95adf0b57980b89d1b3f38bea1a2741083a589a6ae7e3807511749d179f",
            "uk_5core.txt": "757011193b2878c08d3589c4ec0aecff015f898e56b22c412b95529707adf0d8",
        },
        about="Electronics reviews of seven Amazon markets (XMarket 5-core), as the FOREC authors publish them.",
    ),
}


def fetch(name: str, into: Path, *, base_url: str | None = None, report: Report | None = None) -> list[Path]:
    """Files of the corpus `name` in folder `into`, in name order; those that are there and right are not loaded again.

    `report(file, bytes so far, bytes in all)` is called about every 256 KiB. Raises NotFoundError for an unknown corpus
    and DownloadError where the server does not answer, or sends other bytes than expected (the file is removed).
    """
    if name not in CATALOGUE:
        raise NotFoundError(f"There is no public corpus {name!r}.", hint=f"There are: {', '.join(sorted(CATALOGUE))}.")
    entry = CATALOGUE[name]
    into.mkdir(parents=True, exist_ok=True)
    paths = []
    for file, digest in sorted(entry.sha256.items()):
        path = into / file
        if not (path.is_file() and _sha256(path) == digest):
            _load((base_url or entry.base_url).rstrip("/") + "/" + file, path, digest, report or _silent)
        paths.append(path)
    return paths


def _silent(file: str, done: int, total: int) -> None: ...


def _load(url: str, path: Path, digest: str, report: Report) -> None:
    """Into a .part file first, so that a file under its own name is always whole and right."""
    part = path.with_name(path.name + ".part")
    try:
        _continue(url, part, path.name, report)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{path.name} could not be loaded: {reason}.",
            hint="Check the connection and try again: it goes on where it stopped.",
        ) from None
    if _sha256(part) != digest:
        part.unlink()
        raise DownloadError(
            f"{path.name} has another checksum than expected and was removed.",
            hint="Try again; if it stays wrong, the file has changed at its source.",
        )
    part.replace(path)


def _continue(url: str, part: Path, file: str, report: Report) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is missing; the checksum decides whether it is right
            return
        raise
    with response:
        if response.status != 206:  # the server sends everything again
            done = 0
        length = int(response.headers.get("Content-Length") or 0)
        total = done + length if length else 0
        with part.open("ab" if done else "wb") as target:
            while data := response.read(CHUNK):
                done += len(data)
                if done > MAX_FILE_BYTES:
                    raise OSError(f"the server sends more than {MAX_FILE_BYTES:,} bytes")
                target.write(data)
                report(file, done, total)
    if total and done < total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
