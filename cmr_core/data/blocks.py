"""Text files as blocks of whole lines, plain or gzip, with everything refused that is no clean UTF-8 table.

Memory holds one block at a time, and decompression stops at the limit, so a small bomb cannot fill the machine.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmr_core.errors import FileFormatError

BLOCK_BYTES = 4 << 20
LINE_BYTES = 64 << 10
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "Unpack it first."),
    (b"PK\x05\x06", "an empty zip archive", "Unpack it first."),
    (b"\x7fELF", "a program", "Choose the data file."),
    (b"MZ", "a program", "Choose the data file."),
    (b"%PDF", "a PDF document", "Export a table."),
    (b"SQLite format 3", "a database", "Export a table as CSV."),
    (b"BZh", "compressed with bzip2", "Use gzip or no compression."),
    (b"\xfd7zXZ", "compressed with xz", "Use gzip or no compression."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Use gzip or no compression."),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8."),
    (b"\xef\xbb\xbf", "text with a byte order mark", "Save it as UTF-8 without a byte order mark."),
    (b"\x80", "a serialised program object", "Such files can run code and are never opened. Export a table."),
    (b"\x93NUMPY", "a NumPy array", "Export a table as CSV or Parquet."),
    (b"\x1f\x8b", "compressed twice", "Compress it once."),
)


@dataclass(frozen=True)
class Block:
    """Whole lines; `line` is the 1-based number of the first."""

    line: int
    data: bytes


def is_parquet(path: Path) -> bool:
    """Whether the file begins like Parquet."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def parquet_columns(path: Path) -> list[str]:
    """Column names of a Parquet file. Raises FileFormatError where it is damaged."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"the Parquet file is damaged ({error})", file=path.name, hint="Write it again."
        ) from None


def first_line(path: Path) -> str:
    """The header of a text file. Raises FileFormatError for what is no text."""
    for block in text_blocks(path, LINE_BYTES * 64, size=LINE_BYTES):
        return block.data.split(b"\n", 1)[0].rstrip(b"\r").decode()
    return ""


def text_blocks(path: Path, max_bytes: int, *, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Blocks of about `size` bytes that end where a line ends. Raises FileFormatError, naming the line."""
    name, line, seen, rest = path.name, 1, 0, b""
    with _opened(path) as stream:
        while chunk := _read(stream, size, name):
            if not seen:
                _refuse_signature(chunk, name)
            seen += len(chunk)
            if seen > max_bytes and size == BLOCK_BYTES:
                raise FileFormatError(
                    f"it holds more than {max_bytes:,} bytes of text",
                    file=name,
                    hint="Split it into one file per market, or raise the limit.",
                )
            rest += chunk
            end = rest.rfind(b"\n") + 1
            if not end:
                _check_lines(rest, line, name)
                continue
            yield _checked(rest[:end], line, name)
            line += rest.count(b"\n", 0, end)
            rest = rest[end:]
    if rest:
        yield _checked(rest, line, name)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        head = file.read(2)
        file.seek(0)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if head == b"\x1f\x8b" else file


def _read(stream: BinaryIO, size: int, name: str) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileFormatError(
            f"the gzip data are damaged or cut off ({error})", file=name, hint="Download or compress it again."
        ) from None


def _refuse_signature(chunk: bytes, name: str) -> None:
    for signature, what, hint in SIGNATURES:
        if chunk.startswith(signature):
            raise FileFormatError(f"this is {what}, not a table of text", file=name, hint=hint)


def _checked(data: bytes, line: int, name: str) -> Block:
    """Refuses NUL, bad UTF-8, bare carriage returns and endless lines."""
    _check_lines(data, line, name)
    if (at := data.find(b"\0")) >= 0:
        raise FileFormatError(
            "there is a NUL byte", file=name, line=line + data.count(b"\n", 0, at), hint="Save it as UTF-8 text."
        )
    if b"\r" in data and (at := data.replace(b"\r\n", b"\n\n").find(b"\r")) >= 0:
        raise FileFormatError(
            "there is a carriage return inside a line",
            file=name,
            line=line + data.count(b"\n", 0, at),
            hint="End lines with a line feed.",
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(
            "there are bytes that are not UTF-8",
            file=name,
            line=line + data.count(b"\n", 0, error.start),
            value=data[error.start : error.end].hex(" "),
            hint="Save it as UTF-8.",
        ) from None
    return Block(line, data)


def _check_lines(data: bytes, line: int, name: str) -> None:
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 10)
    lengths = np.diff(np.concatenate([[-1], ends, [len(data)]]))
    if lengths.max() > LINE_BYTES:
        raise FileFormatError(
            f"the line is longer than {LINE_BYTES:,} bytes",
            file=name,
            line=line + int(np.argmax(lengths > LINE_BYTES)),
            hint="Check the delimiter and the line ends.",
        )
