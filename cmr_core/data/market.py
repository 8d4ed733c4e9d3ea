"""A corpus: markets that share one item vocabulary. Content-addressed: equal content, equal digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmr_core.errors import DataError
from cmr_core.interfaces import IntArray

StrArray = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Market:
    """All interactions of one market, in file order, repeats included.

    `user` indexes `users`; `item` indexes the corpus vocabulary `Corpus.items`.
    """

    name: str
    users: StrArray  # (n_users,) user ids as text, ascending
    user: IntArray  # (n,) int32
    item: IntArray  # (n,) int32, global item codes
    rating: npt.NDArray[np.float32]  # (n,)
    day: IntArray  # (n,) int32, days since 1970-01-01; -1 where unknown

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def catalogue(self) -> IntArray:
        """Global codes of the items that the market sells, ascending. (n_items,)"""
        return np.unique(self.item)

    @property
    def has_dates(self) -> bool:
        """Whether every interaction has a day."""
        return len(self) > 0 and bool((self.day >= 0).all())


@dataclass(frozen=True)
class Corpus:
    """Markets by name and the item vocabulary that they share."""

    name: str
    items: StrArray  # (n_items,) item ids as text, ascending
    markets: dict[str, Market]

    @cached_property
    def digest(self) -> str:
        """sha256 over ids and interactions of all markets (not over the corpus's name)."""
        total = hashlib.sha256()
        for name in sorted(self.markets):
            market = self.markets[name]
            total.update(f"market {name} {len(market.users)} {len(market)}\n".encode())
            total.update("\n".join(market.users).encode())
            for column, kind in (
                (market.user, "<i4"),
                (market.item, "<i4"),
                (market.rating, "<f4"),
                (market.day, "<i4"),
            ):
                total.update(np.ascontiguousarray(column, dtype=kind).tobytes())
        total.update("\n".join(self.items).encode())
        return total.hexdigest()

    def market(self, name: str) -> Market:
        """The market called `name`. Raises DataError naming those there are."""
        if name not in self.markets:
            raise DataError(
                f"Corpus {self.name!r} has no market {name!r}.", hint=f"It has: {', '.join(sorted(self.markets))}."
            )
        return self.markets[name]


def encode(ids: pa.Array | pa.ChunkedArray) -> tuple[StrArray, IntArray]:
    """The different ids, ascending by code point, and each row's position among them (int32).

    Takes text or dictionary-coded text; one hash pass over rows and a sort of the different ids.
    """
    chunked = pa.chunked_array([ids]) if isinstance(ids, pa.Array) else ids
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.dictionary_encode()
    coded = chunked.unify_dictionaries().combine_chunks()
    order = pc.sort_indices(coded.dictionary).to_numpy()
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    vocabulary = coded.dictionary.to_numpy(zero_copy_only=False).astype(object)[order]
    used, codes = _compact(place[coded.indices.to_numpy()], len(order))
    return vocabulary[used], codes


def build_corpus(name: str, table: pa.Table) -> Corpus:
    """A corpus from rows: columns `market`, `user`, `item` (text), `rating` (float32), `day` (int32, -1 unknown).

    Rows keep their order within a market. Raises DataError where there is no row.
    """
    if not table.num_rows:
        raise DataError("There is no interaction to make a corpus of.", hint="Check that the file has rows.")
    names, market = encode(table["market"])
    users, user = encode(table["user"])
    items, item = encode(table["item"])
    rating, day = table["rating"].to_numpy().astype(np.float32), table["day"].to_numpy().astype(np.int32)
    markets = {}
    for code, market_name in enumerate(names):
        rows = np.flatnonzero(market == code)
        present, local = _compact(user[rows], len(users))
        markets[market_name] = Market(market_name, users[present], local, item[rows], rating[rows], day[rows])
    return Corpus(name, items, markets)


def _compact(codes: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """The codes that occur, ascending, and each row's position among them; linear, unlike np.unique."""
    used = np.zeros(size, dtype=bool)
    used[codes] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[codes].astype(np.int32)
