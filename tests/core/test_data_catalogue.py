"""Fetching, against a local server that can break off, ignore ranges, lie and refuse."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cmr_core.data import catalogue
from cmr_core.data.catalogue import CATALOGUE, Entry, fetch
from cmr_core.errors import DownloadError, NotFoundError

FILES = {"aa_5core.txt": b"first " * 60_000, "bb_5core.txt": b"second " * 1_000}


class Server(ThreadingHTTPServer):
    """Serves FILES; `cut` bytes into an answer the connection breaks; `ranges` off sends all; asked is a log."""

    cut: int | None = None
    ranges = True
    status: int | None = None
    files = FILES

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.rsplit("/", 1)[1], self.headers.get("Range")
        self.server.asked.append((name, wanted))
        data = self.server.files[name]
        if self.server.status:
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.server.cut])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    monkeypatch.setitem(CATALOGUE, "small", Entry("http://127.0.0.1:1/", sums, "test"))
    monkeypatch.setattr(catalogue, "TIMEOUT_SECONDS", 5.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: Server, into: Path, **more: object) -> list[Path]:
    return fetch("small", into, base_url=f"http://127.0.0.1:{server.server_port}/data", **more)  # type: ignore[arg-type]


def test_files_arrive_whole_once_and_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    paths = get(server, tmp_path / "new" / "folder", report=lambda *a: told.append(a))
    assert [p.read_bytes() for p in paths] == [FILES["aa_5core.txt"], FILES["bb_5core.txt"]]
    assert told[-1] == ("bb_5core.txt", 7000, 7000)
    assert [done for name, done, _ in told if name[0] == "a"] == [262144, 360000]
    get(server, tmp_path / "new" / "folder")
    assert len(server.asked) == 2
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(FILES)


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path)
    assert "goes on" in caught.value.hint
    assert not (tmp_path / "aa_5core.txt").exists()
    assert (tmp_path / "aa_5core.txt.part").stat().st_size == 100_000
    server.cut = None
    assert get(server, tmp_path)[0].read_bytes() == FILES["aa_5core.txt"]
    assert server.asked[1] == ("aa_5core.txt", "bytes=100000-")


def test_a_server_without_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "aa_5core.txt.part").write_bytes(b"other bytes")
    server.ranges = False
    assert get(server, tmp_path)[0].read_bytes() == FILES["aa_5core.txt"]


def test_a_whole_part_is_taken_without_another_byte(server: Server, tmp_path: Path) -> None:
    (tmp_path / "aa_5core.txt.part").write_bytes(FILES["aa_5core.txt"])
    assert get(server, tmp_path)[0].read_bytes() == FILES["aa_5core.txt"]


@pytest.mark.parametrize("extra", [b"", b"too long" * 100_000])
def test_wrong_bytes_are_removed_and_the_next_try_starts_anew(server: Server, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "aa_5core.txt.part").write_bytes(b"wrong" + extra)
    with pytest.raises(DownloadError, match="checksum"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert get(server, tmp_path)[0].read_bytes() == FILES["aa_5core.txt"]


def test_a_damaged_file_on_disk_is_loaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "aa_5core.txt").write_bytes(b"damaged")
    assert get(server, tmp_path)[0].read_bytes() == FILES["aa_5core.txt"]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusals_are_download_errors(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match="aa_5core"):
        get(server, tmp_path)


def test_endless_answers_are_cut_off(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MAX_FILE_BYTES", 300_000)
    with pytest.raises(DownloadError, match="more than"):
        get(server, tmp_path)


def test_no_server_and_no_such_corpus(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DownloadError):
        fetch("small", tmp_path)
    with pytest.raises(NotFoundError) as caught:
        fetch("xmarket", tmp_path)
    assert "xmarket-electronics" in caught.value.hint
