"""Checks and converts the text of one column. Only different values are looked at one by one, never rows."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmr_core.errors import FileFormatError

ID_LENGTH = 200
MAX_RATING = 1000.0
EPOCH = dt.date(1970, 1, 1).toordinal()
LAST_DAY = dt.date(2100, 1, 1).toordinal() - EPOCH
RATING = re.compile(r"[0-9]{1,6}(\.[0-9]{0,20})?")
MARKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Where:
    """Where a column comes from, for messages. `line` is that of the block's first row."""

    file: str
    line: int
    column: str


def ids(values: pa.Array, where: Where) -> pa.Array:
    """Ids as dictionary-coded text, unchanged. Refuses blank and overlong ones, and invisible characters."""
    coded = values.dictionary_encode()
    text = coded.dictionary
    _refuse(coded, pc.equal(pc.utf8_trim_whitespace(text), ""), where, "the id is blank", "Give every row an id.")
    trimmed = pc.not_equal(pc.utf8_trim_whitespace(text), text)
    _refuse(coded, trimmed, where, "the id begins or ends with a space", "Remove the space.")
    too_long = pc.greater(pc.utf8_length(text), ID_LENGTH)
    _refuse(coded, too_long, where, f"the id is longer than {ID_LENGTH} characters", "Check the column mapping.")
    control = pc.match_substring_regex(text, r"[\x00-\x1f\x7f]")
    _refuse(coded, control, where, "the id has a control character", "Remove it.")
    return coded


def markets(values: pa.Array, where: Where) -> pa.Array:
    """Market codes, e.g. `de`; upper case is an error, as `DE` and `de` would be two markets."""
    coded = values.dictionary_encode()
    bad = _each(coded.dictionary, lambda text: MARKET.fullmatch(text) is None)
    hint = "Use a short code of small letters and digits, such as de."
    _refuse(coded, pa.array(bad), where, "this is no market code", hint)
    return coded


def ratings(values: pa.Array, where: Where) -> npt.NDArray[np.float32]:
    """Numbers from 0 to 1000. Refuses text, NaN, infinity, negative and absurd numbers."""
    coded = values.dictionary_encode()
    texts = coded.dictionary
    bad = _each(texts, lambda text: RATING.fullmatch(text) is None or float(text) > MAX_RATING)
    hint = f"Ratings are plain numbers from 0 to {MAX_RATING:.0f}, with a point for decimals."
    _refuse(coded, pa.array(bad), where, "this is no rating", hint)
    numbers = np.array([float(text) for text in texts.to_pylist()], dtype=np.float32)
    return np.asarray(numbers[coded.indices.to_numpy()])


class Days:
    """Days since 1970-01-01 from ISO dates, or from Unix times in seconds or milliseconds, never mixed.

    One object reads all files of a corpus, so that a change of the notation is seen across files too.
    """

    def __init__(self, *, iso_only: bool = False) -> None:
        self._kind = "iso" if iso_only else ""
        self._known: dict[str, int] = {}

    def __call__(self, values: pa.Array, where: Where) -> npt.NDArray[np.int32]:
        """(n,) int32. Raises FileFormatError for what is no date between 1970 and 2099, or changes notation."""
        coded = values.dictionary_encode()
        texts = coded.dictionary
        self._kind = self._kind or _notation(texts[0].as_py())
        days = self._iso(texts) if self._kind == "iso" else _epoch(texts, self._kind)
        told = {
            "iso": "like 2019-05-31",
            "seconds": "in seconds since 1970",
            "milliseconds": "in milliseconds since 1970",
        }
        hint = (
            f"The dates of these files are written {told.get(self._kind, 'in no way known here')}; from 1970 to 2099."
        )
        _refuse(coded, pa.array(days < 0), where, "this is no date", hint)
        return np.asarray(days[coded.indices.to_numpy()], dtype=np.int32)

    def _iso(self, texts: pa.Array) -> npt.NDArray[np.int64]:
        known = self._known
        for text in texts.to_pylist():
            if text not in known:
                known[text] = _day(text)
        return np.array([known[text] for text in texts.to_pylist()], dtype=np.int64)


def _day(text: str) -> int:
    """Days since 1970, or -1 where the text is no ISO date in range."""
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:
        return -1
    try:
        day = dt.date.fromisoformat(text).toordinal() - EPOCH
    except ValueError:
        return -1
    return day if day < LAST_DAY else -1


def _notation(text: str) -> str:
    if re.fullmatch(r"[0-9]{8,10}", text):
        return "seconds"
    return "milliseconds" if re.fullmatch(r"[0-9]{11,13}", text) else "iso"


def _epoch(texts: pa.Array, kind: str) -> npt.NDArray[np.int64]:
    pattern, per_day = (r"^[0-9]{8,10}$", 86_400) if kind == "seconds" else (r"^[0-9]{11,13}$", 86_400_000)
    fits = pc.match_substring_regex(texts, pattern)
    numbers = pc.cast(pc.if_else(fits, texts, "-1"), pa.int64()).to_numpy()
    days = numbers // per_day
    return np.where((days >= 0) & (days < LAST_DAY), days, -1)


def _each(texts: pa.Array, bad: Callable[[str], bool]) -> list[bool]:
    return [bad(text) for text in texts.to_pylist()]


def _refuse(coded: pa.DictionaryArray, bad: pa.Array, where: Where, message: str, hint: str) -> None:
    """Raises FileFormatError at the first row whose value is `bad`."""
    flags = np.asarray(bad.to_numpy(zero_copy_only=False), dtype=bool)
    if not flags.any():
        return
    codes = coded.indices.to_numpy()
    row = int(np.argmax(flags[codes]))
    value = coded.dictionary[int(codes[row])].as_py()
    raise FileFormatError(message, file=where.file, line=where.line + row, column=where.column, value=value, hint=hint)
