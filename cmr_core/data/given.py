"""Candidate lists that somebody else drew, read from run files as in the WSDM Cup 2022.

A line is `user<TAB>item,item,...`, without a header; a user may have several lines. The held-out items still come from
the split and are candidates whether listed or not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmr_core.data.blocks import Block, text_blocks
from cmr_core.data.columns import Where, ids
from cmr_core.data.market import Corpus, StrArray
from cmr_core.data.sampling import Candidates
from cmr_core.errors import FileFormatError
from cmr_core.interfaces import IntArray

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Lists:
    """Listed pairs of one market in file order: columns `user`, `item` (text) and `line` (of the file, from 1)."""

    file: str
    pairs: pa.Table

    @cached_property
    def digest(self) -> str:
        """sha256 over the pairs in file order: what `EvalSpec.given` names."""
        lines = (
            f"{user}\t{item}\n"
            for user, item in zip(*(self.pairs[c].to_pylist() for c in ("user", "item")), strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_lists(path: Path) -> Lists:
    """The lists of a run file, plain or gzip, whole or not at all. Raises FileFormatError naming the line."""
    tables = [_pairs(block, path.name) for block in text_blocks(path, MAX_BYTES)]
    if not tables:
        raise FileFormatError("there is no list", file=path.name, hint="Lines are `user<TAB>item,item,...`.")
    return Lists(path.name, pa.concat_tables(tables))


def candidates(lists: Lists, corpus: Corpus, market: str) -> Candidates:
    """The lists in the market's codes; shorter ones end in -1, items that only other markets sell are -1 too.

    Raises FileFormatError for a user that the market does not have, an item that no market has, a pair listed twice.
    """
    own = corpus.market(market)
    line = lists.pairs["line"].to_numpy()
    user = _codes(lists.pairs["user"], own.users, line, lists.file, "user", f"market {market!r} has no such user")
    item = _codes(lists.pairs["item"], corpus.items, line, lists.file, "item", "the corpus has no such item")
    order = np.lexsort((line, item, user))
    again = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if again.any():
        twice = order[1:][again][0]
        raise FileFormatError(
            "the item is listed twice for the user",
            file=lists.file,
            line=int(line[twice]),
            column="item",
            value=str(corpus.items[item[twice]]),
            hint="List it once.",
        )
    local = np.full(len(corpus.items), -1, dtype=np.int32)
    local[own.catalogue] = np.arange(len(own.catalogue))
    users, start, count = np.unique(user[order], return_index=True, return_counts=True)
    negatives = np.full((len(users), int(count.max())), -1, dtype=np.int32)
    row = np.repeat(np.arange(len(users)), count)
    negatives[row, np.arange(len(order)) - start[row]] = local[item[order]]
    return Candidates(users, negatives)


def _pairs(block: Block, file: str) -> pa.Table:
    """One row per listed item of the block's lines."""
    text = pa.array(block.data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.string())
    fits = pc.match_substring_regex(text, r"^[^\t]*\t[^\t]*$")
    if not pc.all(fits).as_py():
        row = int(np.argmin(fits.to_numpy(zero_copy_only=False)))
        hint = "Lines are `user<TAB>item,item,...`."
        raise FileFormatError("this is no list", file=file, line=block.line + row, value=text[row].as_py(), hint=hint)
    halves = pc.split_pattern(text, "\t")
    users, lists = pc.list_element(halves, 0), pc.split_pattern(pc.list_element(halves, 1), ",")
    ids(users, Where(file, block.line, "user"))
    items, row_of = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
    blank = pc.equal(pc.utf8_trim_whitespace(items), "").to_numpy(zero_copy_only=False)
    if blank.any():
        line = block.line + int(row_of[np.argmax(blank)])
        raise FileFormatError("an item is blank", file=file, line=line, column="item", hint="Remove the extra comma.")
    return pa.table(
        {"user": users.take(pa.array(row_of)), "item": items, "line": pa.array(row_of + block.line, pa.int64())}
    )


def _codes(values: pa.ChunkedArray, known: StrArray, line: IntArray, file: str, column: str, fault: str) -> IntArray:
    codes = pc.index_in(values, value_set=pa.array(known, pa.string())).fill_null(-1).to_numpy()
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise FileFormatError(
            fault,
            file=file,
            line=int(line[row]),
            column=column,
            value=values[row].as_py(),
            hint="Check that the lists belong to this corpus and market.",
        )
    return np.asarray(codes)
