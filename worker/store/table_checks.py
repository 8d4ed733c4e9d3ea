"""Whether tables from outside are what a run would have stored: columns, types, ids of the corpus, means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype

from cmr_core.data.market import StrArray
from cmr_core.errors import IntegrityError
from cmr_core.interfaces import IntArray
from worker.store.artifacts import Table, from_parquet

MOST_ROWS = 20_000_000
MOST_CELLS = 100_000_000  # a column of one value has hardly any bytes before it is read
MOST_BYTES = 512 * 2**20
MOST_COLUMNS = 200
LONGEST = 200  # characters of a stage's or metric's name
_HINT = "The file was changed, or written by another program. Export the study again."


@dataclass(frozen=True)
class Known:
    """What the corpus says about the target market: ids by local code, and how many training items users have."""

    user_ids: StrArray  # (n_users,) text
    item_ids: StrArray  # (n_items,) text
    n_train: IntArray  # (n_users,)


def check_table(kind: Table, data: bytes, known: Known) -> pd.DataFrame:
    """The table of these Parquet bytes, read as pages read it. Raises IntegrityError that says what is wrong."""
    texts = {"user_id": known.user_ids, "item_id": known.item_ids}
    _refuse_large(kind, data, {name: set(ids) for name, ids in texts.items()})
    frame = from_parquet(data)
    CHECKS[kind](frame, known)
    return frame


def _refuse_large(kind: str, data: bytes, texts: dict[str, set[str]]) -> None:
    """Before anything is unpacked: a small file can stand for very many rows, or for very long texts."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        meta, schema = file.metadata, file.schema_arrow
        size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        cells = meta.num_rows * meta.num_columns
        if max(meta.num_rows / MOST_ROWS, meta.num_columns / MOST_COLUMNS, cells / MOST_CELLS, size / MOST_BYTES) > 1:
            raise IntegrityError(
                f"The table {kind} is too large: {meta.num_rows} rows, {meta.num_columns} columns.", hint=_HINT
            )
        names = [
            field.name for field in schema if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
        ]
        table = pq.read_table(pa.BufferReader(data), columns=names, read_dictionary=names)
        for name in names:
            values = table.column(name).unique().to_pylist()
            allowed = texts.get(name)
            if not all(isinstance(v, str) and (v in allowed if allowed else len(v) <= LONGEST) for v in values):
                raise IntegrityError(f"The table {kind} has a {name} that the corpus does not have.", hint=_HINT)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"The table {kind} cannot be read: {str(error)[:200]}.", hint=_HINT) from None


def _per_user(frame: pd.DataFrame, known: Known) -> None:
    _columns("per_user", frame, {"user": "integer", "user_id": "text", "n_train": "integer"}, rest="number")
    _codes("per_user", frame, "user", known.user_ids)
    _once("per_user", frame, ["user"])
    if (frame["n_train"].to_numpy() != known.n_train[frame["user"].to_numpy()]).any():
        raise _wrong("per_user", "counts other training items than the corpus and split have")


def _topk(frame: pd.DataFrame, known: Known) -> None:
    kinds = {"user": "integer", "user_id": "text", "rank": "integer", "item": "integer", "item_id": "text"}
    _columns("topk", frame, {**kinds, "score": "number"})
    _ranked("topk", frame, known)
    _once("topk", frame, ["user", "rank"])


def _held_out(frame: pd.DataFrame, known: Known) -> None:
    kinds = {"user": "integer", "user_id": "text", "item": "integer", "item_id": "text", "rank": "integer"}
    _columns("held_out", frame, kinds)
    _ranked("held_out", frame, known)


def _curves(frame: pd.DataFrame, known: Known) -> None:
    if frame.empty:  # a column without values has no type
        _names("curves", frame, ["stage", "step", "name", "value"])
        return
    _columns("curves", frame, {"stage": "text", "step": "integer", "name": "text", "value": "any number"})
    if not frame["step"].between(0, 2**31 - 1).all():
        raise _wrong("curves", "has a step that no run can reach")


CHECKS: dict[Table, Callable[[pd.DataFrame, Known], None]] = {
    "per_user": _per_user,
    "topk": _topk,
    "held_out": _held_out,
    "curves": _curves,
}


def check_means(frame: pd.DataFrame, means: dict[str, tuple[float, int]]) -> None:
    """Whether the means (value, users) are those of the per-user table. Raises IntegrityError."""
    for name in frame.columns[3:]:
        value, n = means.get(name, (math.nan, 0))
        if n != len(frame) or not math.isclose(value, float(frame[name].mean()), rel_tol=1e-9, abs_tol=1e-12):
            raise _wrong("per_user", f"has another mean of {name} than the run says")


def _ranked(kind: str, frame: pd.DataFrame, known: Known) -> None:
    _codes(kind, frame, "user", known.user_ids)
    _codes(kind, frame, "item", known.item_ids)
    if (frame["rank"] < 1).any():
        raise _wrong(kind, "has a rank below 1")


def _columns(kind: str, frame: pd.DataFrame, kinds: dict[str, str], rest: str | None = None) -> None:
    _names(kind, frame, [*kinds, *(frame.columns[len(kinds) :] if rest else ())])
    for name in frame.columns:
        if not _is(frame[name], kinds.get(name, rest or "")):
            raise _wrong(kind, f"has something else than {kinds.get(name, rest)}s in the column {name!r:.60}")


def _names(kind: str, frame: pd.DataFrame, names: list[str]) -> None:
    if list(frame.columns) != names or not all(isinstance(n, str) and len(n) <= 32 for n in frame.columns):
        raise _wrong(kind, "has other columns than a run's")


def _is(column: pd.Series, kind: str) -> bool:
    if kind == "text":
        return bool(column.map(lambda value: isinstance(value, str)).all())
    if is_bool_dtype(column.dtype):
        return False
    if kind == "integer":
        return bool(is_integer_dtype(column.dtype)) and not column.hasnans
    number = is_float_dtype(column.dtype) or is_integer_dtype(column.dtype)
    return bool(number) and (kind == "any number" or bool(np.isfinite(column.to_numpy(dtype=float)).all()))


def _codes(kind: str, frame: pd.DataFrame, name: str, ids: StrArray) -> None:
    codes = frame[name].to_numpy()
    if len(codes) and (codes.min() < 0 or codes.max() >= len(ids)):
        raise _wrong(kind, f"has a {name} that the market does not have")
    if (ids[codes] != frame[f"{name}_id"].to_numpy(dtype=object)).any():
        raise _wrong(kind, f"gives a {name} another id than the corpus")


def _once(kind: str, frame: pd.DataFrame, names: list[str]) -> None:
    if frame.duplicated(names).any():
        raise _wrong(kind, f"has the same {' and '.join(names)} twice")


def _wrong(kind: str, what: str) -> IntegrityError:
    return IntegrityError(f"The table {kind} {what}.", hint=_HINT)
