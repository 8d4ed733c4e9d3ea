"""Candidate lists and relevance that somebody else drew, for one market: files in, checked text out.

A run file has lines `user<TAB>item,item,...` without a header, as in the WSDM Cup 2022; a user may have several lines.
A qrel file says which items are the right ones: lines `user item label` (WSDM Cup, with or without its header) or
`user iteration item label` (TREC), separated by tabs or by spaces; the label is 1 or 0, lines with 0 say nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmr_core.data.blocks import Block, first_line, text_blocks
from cmr_core.data.columns import Where, ids
from cmr_core.errors import FileFormatError, IntegrityError

MAX_BYTES = 256 << 20
RUN_HINT = "Lines are `user<TAB>item,item,...`."
QREL_HINT = "Lines are `user item label`, separated by tabs or by spaces."
COLUMNS = pa.schema([("user", pa.string()), ("item", pa.string()), ("line", pa.int64())])
STORED = COLUMNS.append(pa.field("relevant", pa.bool_()))


@dataclass(frozen=True)
class Lists:
    """Pairs in file order: columns `user`, `item` (text) and `line` (of the file, from 1)."""

    market: str
    file: str
    pairs: pa.Table
    qrel: str = ""  # the file's name
    relevant: pa.Table | None = None  # what the test asks for; None: the split's test part

    @cached_property
    def digest(self) -> str:
        """sha256 over market and pairs in file order: what `EvalSpec.given` names."""
        total = hashlib.sha256(f"{self.market}\n{_text(self.pairs)}".encode())
        if self.relevant is not None:
            total.update(f"relevant\n{_text(self.relevant)}".encode())
        return total.hexdigest()


def read_lists(run: Path, market: str, qrel: Path | None = None) -> Lists:
    """A run file and, if there is one, a qrel file; plain or gzip, whole or not at all.

    Raises FileFormatError naming the line.
    """
    pairs = _table([_listed(block, run.name) for block in _blocks(run)], run.name, RUN_HINT)
    if qrel is None:
        return Lists(market, run.name, pairs)
    blocks = _blocks(qrel)
    separator = "\t" if blocks and "\t" in first_line(qrel) else " "
    relevant = _table([_judged(block, qrel.name, separator) for block in blocks], qrel.name, QREL_HINT)
    return Lists(market, run.name, pairs, qrel.name, relevant)


def to_parquet(lists: Lists) -> bytes:
    """All of it as Parquet; how the store keeps it."""
    names = {"market": lists.market, "file": lists.file, "qrel": lists.qrel}
    parts = [lists.pairs.append_column("relevant", pa.repeat(pa.scalar(False), lists.pairs.num_rows))]
    if lists.relevant is not None:
        parts.append(lists.relevant.append_column("relevant", pa.repeat(pa.scalar(True), lists.relevant.num_rows)))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(parts).replace_schema_metadata(names), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes) -> Lists:
    """What `to_parquet` wrote. Raises IntegrityError where the bytes are something else."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        market, file, qrel = ((table.schema.metadata or {})[key].decode() for key in (b"market", b"file", b"qrel"))
    except (pa.ArrowException, OSError, KeyError):
        raise IntegrityError("Stored bytes are no candidate lists.", hint="Add the lists again.") from None
    if not table.schema.equals(STORED):
        raise IntegrityError("Stored candidate lists have unexpected columns.", hint="Add the lists again.")
    relevant = table.filter(table["relevant"]).select(COLUMNS.names) if qrel else None
    return Lists(market, file, table.filter(pc.invert(table["relevant"])).select(COLUMNS.names), qrel, relevant)


def _text(pairs: pa.Table) -> str:
    columns = (pairs[name].to_pylist() for name in ("user", "item"))
    return "".join(f"{user}\t{item}\n" for user, item in zip(*columns, strict=True))


def _blocks(path: Path) -> list[Block]:
    try:
        return list(text_blocks(path, MAX_BYTES))
    except OSError as error:
        raise FileFormatError(f"it cannot be read ({error.strerror})", file=path.name, hint="Check the path.") from None


def _table(parts: list[pa.Table], file: str, hint: str) -> pa.Table:
    table = pa.concat_tables(parts) if parts else COLUMNS.empty_table()
    if not table.num_rows:
        raise FileFormatError("there is no list" if hint == RUN_HINT else "no item has label 1", file=file, hint=hint)
    return table


def _lines(block: Block) -> pa.Array:
    return pa.array(block.data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.string())


def _refuse(wrong: pa.Array, text: pa.Array, what: str, file: str, line: int, hint: str) -> None:
    """Raises FileFormatError at the first line that is `wrong`."""
    if pc.any(wrong, min_count=0).as_py():
        row = int(np.argmax(wrong.to_numpy(zero_copy_only=False)))
        raise FileFormatError(what, file=file, line=line + row, value=text[row].as_py(), hint=hint)


def _listed(block: Block, file: str) -> pa.Table:
    """One row per listed item of the block's lines."""
    text = _lines(block)
    fits = pc.match_substring_regex(text, r"^[^\t]*\t[^\t]*$")
    _refuse(pc.invert(fits), text, "this is no list", file, block.line, RUN_HINT)
    halves = pc.split_pattern(text, "\t")
    users, lists = pc.list_element(halves, 0), pc.split_pattern(pc.list_element(halves, 1), ",")
    ids(users, Where(file, block.line, "user"))
    items, row_of = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
    blank = pc.equal(pc.utf8_trim_whitespace(items), "").to_numpy(zero_copy_only=False)
    if blank.any():
        line = block.line + int(row_of[np.argmax(blank)])
        raise FileFormatError("an item is blank", file=file, line=line, column="item", hint="Remove the extra comma.")
    line = pa.array(row_of + block.line, pa.int64())
    return pa.table({"user": users.take(pa.array(row_of)), "item": items, "line": line}, schema=COLUMNS)


def _judged(block: Block, file: str, separator: str) -> pa.Table:
    """One row per line with label 1."""
    text = _lines(block)
    first = block.line
    if first == 1 and text[0].as_py().split(separator)[0] == "userId":  # the WSDM Cup's header
        text, first = text.slice(1), 2
    field, gap = f"[^{separator}]+", f"{separator}+"
    pattern = f"^(?P<user>{field}){gap}(?P<iteration>{field}{gap})?(?P<item>{field}){gap}(?P<label>{field})$"
    found = pc.extract_regex(text, pattern)
    _refuse(pc.is_null(found), text, "this is no line of a qrel file", file, first, QREL_HINT)
    user, item, label = (pc.struct_field(found, name) for name in ("user", "item", "label"))
    known = pc.is_in(label, value_set=pa.array(["0", "1"]))
    _refuse(
        pc.invert(known), label, "this is no label", file, first, "Labels are 1 (relevant) and 0; grades are not used."
    )
    for column, values in (("user", user), ("item", item)):
        ids(values, Where(file, first, column))
    line = pa.array(np.arange(first, first + len(text)), pa.int64())
    return pa.table({"user": user, "item": item, "line": line}, schema=COLUMNS).filter(pc.equal(label, "1"))
