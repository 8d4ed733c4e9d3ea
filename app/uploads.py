"""Files from the browser to a corpus. Their names never become paths. No Streamlit here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmr_core.data.columns import MARKET
from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout, guess_layout
from cmr_core.data.market import Corpus
from cmr_core.errors import DataError, FileFormatError
from worker.store.corpora import NAME

MOST_MEGABYTES = 100
MOST_FILES = 60
MOST_TEXT = 1 << 30  # bytes of one file after decompression
Upload = tuple[str, bytes]


def read(uploads: Sequence[Upload], *, name: str, layout: Layout | None) -> Corpus:
    """The corpus `name` from uploaded files (name, bytes), whole or not at all; `layout` None: guessed.

    Bytes lie in a temporary folder under names of our own meanwhile. Raises DataError, and FileFormatError, which
    names the file as the user does.
    """
    if not NAME.fullmatch(name):
        raise DataError(f"{name[:80]!r} cannot name a corpus.", hint="Use small letters, digits, dots, dashes.")
    if len(uploads) > MOST_FILES:
        raise DataError(f"There are {len(uploads)} files; the limit is {MOST_FILES}.", hint="Join some of them.")
    with tempfile.TemporaryDirectory(prefix="cmr-upload-") as folder:
        paths = _write(uploads, Path(folder), layout)
        known = {path.name: theirs for path, (theirs, _) in zip(paths, uploads, strict=True)}
        try:
            return read_corpus(paths, name=name, layout=layout or guess_layout(paths[0]), max_bytes=MOST_TEXT)
        except FileFormatError as error:
            raise _named(error, known) from None


def _write(uploads: Sequence[Upload], folder: Path, layout: Layout | None) -> list[Path]:
    """A file each, `MARKET.data` (or `NUMBER.data` where a column says the market)."""
    paths: list[Path] = []
    for at, (theirs, data) in enumerate(uploads):
        if len(data) > MOST_MEGABYTES << 20:
            raise DataError(f"{theirs[:80]!r} has more than {MOST_MEGABYTES} MB.", hint="Use `./cmr data add PATH`.")
        path = folder / f"{at}.data"
        path.write_bytes(data)
        told = layout or guess_layout(path)
        if told.kind != "table" or told.columns.market is None:
            path = path.rename(folder / f"{_market(theirs, paths)}.data")
        paths.append(path)
    if not paths:
        raise DataError("No file was given.", hint="Choose at least one file.")
    return paths


def _market(theirs: str, taken: Sequence[Path]) -> str:
    market = theirs.lower().partition("_")[0].partition(".")[0]
    if MARKET.fullmatch(market) is None:
        raise FileFormatError(
            "the name does not begin with a market",
            file=theirs[:80],
            hint="Name the file like de_5core.txt, or map a market column.",
        )
    if market in {path.stem for path in taken}:
        raise FileFormatError(f"another file is for market {market!r} too", file=theirs[:80], hint="Rename one.")
    return market


def _named(error: FileFormatError, known: Mapping[str, str]) -> FileFormatError:
    """The error with the name that the user gave the file."""
    theirs = known.get(error.file, error.file)[:80]
    text = str(error).removeprefix(error.file)
    where = (f", line {error.line}" if error.line is not None else "") + (
        f", column {error.column}" if error.column else ""
    )
    named = FileFormatError("", file=theirs, line=error.line, column=error.column, value=error.value, hint=error.hint)
    named.args = (f"{theirs}{where}{text.removeprefix(where)}",)
    return named
