"""Imported lists in the codes of a corpus: candidates, and with a qrel file the test's held-out items.

Without a qrel file the held-out items come from the split. With one they replace the split's test part, whose rows
are then neither trained on nor counted; training and validation stay as the split says. What a user has had, in
whatever part, never competes; held-out items are candidates whether listed or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmr_core.data.lists import Lists
from cmr_core.data.market import Corpus, Market, StrArray
from cmr_core.data.sampling import Candidates
from cmr_core.errors import DataError, FileFormatError
from cmr_core.interfaces import IntArray, Pairs

WIDE = 2**31  # above every item code, so that user * WIDE + item orders pairs


@dataclass(frozen=True)
class Given:
    """Candidates of one market's listed users, and what the test asks for; None: what the split holds out."""

    candidates: Candidates
    held: Pairs | None


def resolve(lists: Lists, corpus: Corpus) -> Given:
    """The lists in the market's codes. O(listed pairs + interactions), a few sorts.

    Raises DataError for a market that the corpus lacks, and where relevant pairs are interactions of the corpus, so
    that a method could train on what it is tested on; FileFormatError for users and items that do not belong there,
    pairs named twice, and relevant pairs of users that have no list.
    """
    own = corpus.market(lists.market)
    user, item, _ = _codes(lists.pairs, own, corpus, lists.file)
    if lists.relevant is None:
        return Given(_rows(user, item), None)
    held = _held(lists.relevant, own, corpus, lists.qrel)
    unlisted = ~np.isin(held.user, user)
    if unlisted.any():
        raise FileFormatError(
            f"{len(np.unique(held.user[unlisted]))} of its users have no list in {lists.file}",
            file=lists.qrel,
            value=str(own.users[held.user[unlisted][0]]),
            hint="Give each user a list of candidates, or leave their lines out.",
        )
    # validation must not punish methods for ranking the test's items high
    right = np.isin(user * WIDE + item, held.user.astype(np.int64) * WIDE + held.item)
    return Given(_rows(user, np.where(right, -1, item)), held)


def _rows(user: IntArray, item: IntArray) -> Candidates:
    """One row per user, items ascending; shorter lists end in -1, as do items that only other markets sell."""
    order = np.lexsort((np.where(item < 0, WIDE, item), user))
    users, start, count = np.unique(user[order], return_index=True, return_counts=True)
    negatives = np.full((len(users), int(count.max())), -1, dtype=np.int32)
    row = np.repeat(np.arange(len(users)), count)
    negatives[row, np.arange(len(order)) - start[row]] = item[order]
    return Candidates(users, negatives)


def _held(relevant: pa.Table, own: Market, corpus: Corpus, file: str) -> Pairs:
    user, item, line = _codes(relevant, own, corpus, file)
    if (item < 0).any():
        row = int(np.argmax(item < 0))
        raise FileFormatError(
            f"market {own.name!r} does not sell the item, so that no method can rank it",
            file=file,
            line=int(line[row]),
            column="item",
            value=relevant["item"][row].as_py(),
            hint="Leave the line out, or bring a corpus in which somebody in the market has the item.",
        )
    known = np.isin(user * WIDE + item, own.user.astype(np.int64) * WIDE + np.searchsorted(own.catalogue, own.item))
    if known.any():
        raise DataError(
            f"{int(known.sum())} of the {len(user)} relevant pairs in {file} are interactions of market {own.name!r}: "
            "methods would train on what they are tested on.",
            hint="Take these pairs out of the corpus's files and add the corpus under another name.",
        )
    order = np.lexsort((item, user))
    day = np.full(len(user), -1, dtype=np.int32)
    return Pairs(user[order].astype(np.int32), item[order].astype(np.int32), day)


def _codes(pairs: pa.Table, own: Market, corpus: Corpus, file: str) -> tuple[IntArray, IntArray, IntArray]:
    """Local users, local items (-1: the market does not sell it) and lines, in file order; all (n,) int64."""
    line = pairs["line"].to_numpy()
    user = _find(pairs["user"], own.users, line, file, "user", f"market {own.name!r} has no such user")
    item = _find(pairs["item"], corpus.items, line, file, "item", "the corpus has no such item")
    order = np.lexsort((line, item, user))
    again = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if again.any():
        twice = order[1:][again][0]
        raise FileFormatError(
            "the item is listed twice for the user",
            file=file,
            line=int(line[twice]),
            column="item",
            value=str(corpus.items[item[twice]]),
            hint="List it once.",
        )
    local = np.full(len(corpus.items), -1, dtype=np.int64)
    local[own.catalogue] = np.arange(len(own.catalogue))
    return user, local[item], line


def _find(values: pa.ChunkedArray, known: StrArray, line: IntArray, file: str, column: str, fault: str) -> IntArray:
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
    return np.asarray(codes, dtype=np.int64)
