"""Dividing a corpus into train, validation and test, once, for every stage of every method.

Before the draw: rows rated below `min_rating` are dropped, and of repeated user-item pairs the earliest stays
(`deduplicate`). The draw depends on the split's seed, the market's name and its set of rows, not on the order of
the file, nor on which other markets exist (except `temporal`, whose point in time is common to all markets).

ratio          per user; parts hold round(share * n) rows, at least one. Users with < 3 different items: train only.
leave-one-out  per user one row for the test and one for validation. Users with < 3 different items: train only.
temporal       rows from one day on are the test, those from an earlier day on validation, for all markets alike.
               Users without a training row are left out: nothing is known about them when it is their turn.
events         like ratio, but all that a user did on one day stays together; the shares are filled by whole days,
               at least one each. Users with < 3 different days: train only.

With repeats kept, a repeat stays where its row falls (as in the papers that kept them), but in `temporal` and
`events`, which exist to close leaks, a held-out pair that an earlier part already has is left out; and the held-out
parts hold a pair once. A user with any row always keeps one in train.

With `catalogue: all` every market may recommend the items of all markets; the draw and who has had what stay the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmr_core.data.market import Corpus, Market
from cmr_core.errors import DataError, SpecError
from cmr_core.interfaces import IntArray, MarketView, Pairs, Task
from cmr_core.spec import SplitSpec

LEFT_OUT, TRAIN, VALID, TEST = -1, 0, 1, 2


@dataclass(frozen=True)
class MarketSplit:
    """One market's three parts, each ascending by user, item and day. Only `view` may reach a method."""

    name: str
    n_users: int
    catalogue: IntArray  # (n_items,) int32 global codes of all items that the market may recommend, ascending
    train: Pairs
    valid: Pairs
    test: Pairs

    @property
    def n_items(self) -> int:
        """Items that the market may recommend."""
        return len(self.catalogue)

    def view(self, full: bool = False) -> MarketView:
        """What a method may see: the training part, or with `full` all three parts joined (for sources)."""
        parts = (self.train, self.valid, self.test) if full else (self.train,)
        return MarketView(self.name, self.n_users, self.catalogue, _join(parts))


@dataclass(frozen=True)
class Split:
    """All markets, divided. Made once per (corpus, spec)."""

    spec: SplitSpec
    corpus_digest: str
    n_items: int  # size of the global item vocabulary
    markets: dict[str, MarketSplit]

    @cached_property
    def digest(self) -> str:
        """Names every part of every market; keys of anything that looked at validation rows must carry it."""
        return hashlib.sha256(f"{self.corpus_digest} {self.spec.digest()}".encode()).hexdigest()

    def market(self, name: str) -> MarketSplit:
        """The market called `name`. Raises SpecError naming those there are."""
        if name not in self.markets:
            raise SpecError(f"There is no market {name!r}.", hint=f"There are: {', '.join(sorted(self.markets))}.")
        return self.markets[name]

    def task(self, target: str, sources: Sequence[str]) -> Task:
        """Training pairs of target and sources. Raises SpecError for an unknown or repeated market.

        With `sources: full` a source contributes all its parts, the target never more than its training part.
        """
        if target in sources or len(set(sources)) != len(sources):
            raise SpecError("A market is named twice in target and sources.", hint="Name each market once.")
        own = self.market(target).view()
        others = tuple(self.market(name).view(full=self.spec.sources == "full") for name in sorted(sources))
        return Task(own, others, self.n_items, _digest(self.n_items, (own, *others)), _fingerprint(own))


def make_split(corpus: Corpus, spec: SplitSpec) -> Split:
    """Divide every market of `corpus`. Seconds for millions of rows; a few sorts per market.

    Raises DataError where the split needs dates that a market lacks, or where no row is left in a market.
    """
    if spec.kind in ("temporal", "events") or (spec.kind, spec.order) == ("leave-one-out", "latest"):
        _require_dates(corpus, spec)
    everything = np.arange(len(corpus.items), dtype=np.int32) if spec.catalogue == "all" else None
    catalogues = {
        name: market.catalogue.astype(np.int32) if everything is None else everything
        for name, market in sorted(corpus.markets.items())
    }
    rows = {name: _rows(corpus.markets[name], catalogue, spec) for name, catalogue in catalogues.items()}
    points = _points(rows, spec) if spec.kind == "temporal" else (0, 0)
    markets = {}
    for name, pairs in rows.items():
        market = corpus.markets[name]
        part = _draw(pairs, len(market.users), spec, points, np.random.default_rng([spec.seed, name_seed(name)]))
        train, valid, test = (_take(pairs, part, which) for which in (TRAIN, VALID, TEST))
        markets[name] = MarketSplit(name, len(market.users), catalogues[name], train, valid, test)
    return Split(spec, corpus.digest, len(corpus.items), markets)


def name_seed(*names: str) -> int:
    """A 64-bit number that stands for the names in a generator's seed."""
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:8], "little")


def _rows(market: Market, catalogue: IntArray, spec: SplitSpec) -> Pairs:
    """Rows that take part, in codes of the catalogue, ascending by user, item and day (which makes file order moot)."""
    keep = np.ones(len(market), dtype=bool) if spec.min_rating is None else market.rating >= spec.min_rating
    if not keep.any():
        raise DataError(
            f"Market {market.name!r} has no interaction left.",
            hint="Lower min_rating." if len(market) else "Leave the market out of the corpus.",
        )
    item = np.searchsorted(catalogue, market.item[keep]).astype(np.int32)
    user, day = market.user[keep].astype(np.int32), market.day[keep].astype(np.int32)
    # An unknown day must not pass for the earliest one.
    order = np.lexsort((np.where(day < 0, np.iinfo(np.int32).max, day), item, user))
    pairs = Pairs(user[order], item[order], day[order])
    return _pick(pairs, ~_repeats(pairs)) if spec.deduplicate else pairs


def _draw(pairs: Pairs, n_users: int, spec: SplitSpec, points: tuple[int, int], rng: np.random.Generator) -> IntArray:
    """Part of each row, (n,) int8."""
    if spec.kind in ("temporal", "events"):
        timed = spec.kind == "temporal"
        part = _by_time(pairs, n_users, points) if timed else _by_event(pairs, n_users, spec, rng)
        return part if spec.deduplicate else _close(pairs, part)
    noise = rng.random(len(pairs))
    n_distinct = np.bincount(pairs.user[~_repeats(pairs)], minlength=n_users)
    count = np.where(n_distinct >= 3, np.bincount(pairs.user, minlength=n_users), 0)
    if spec.kind == "ratio":
        rank, (n_valid, n_test) = _rank(pairs.user, n_users, noise), _quota(count, spec)
    else:
        keys = (noise,) if spec.order == "random" else (noise, -pairs.day)
        rank = _rank(pairs.user, n_users, *keys)
        n_valid = n_test = (count > 0).astype(np.int64)
    held = n_test[pairs.user], (n_test + n_valid)[pairs.user]
    return np.where(rank < held[0], TEST, np.where(rank < held[1], VALID, TRAIN)).astype(np.int8)


def _quota(count: IntArray, spec: SplitSpec) -> tuple[IntArray, IntArray]:
    """Validation and test rows of users with `count` rows; one row is always left for train. None for count 0."""
    n_test = np.minimum(np.maximum(1, np.floor(spec.test * count + 0.5)), count - 2)
    n_valid = np.minimum(np.maximum(1, np.floor(spec.valid * count + 0.5)), count - 1 - n_test)
    enough = count > 0
    return np.where(enough, n_valid, 0).astype(np.int64), np.where(enough, n_test, 0).astype(np.int64)


def _by_event(pairs: Pairs, n_users: int, spec: SplitSpec, rng: np.random.Generator) -> IntArray:
    """Whole days in random order: first the test's, then validation's, the rest (always one day) to train.

    A day beyond the first goes to a part where at least half of it fits into the part's share.
    """
    key = pairs.user.astype(np.int64) * (2**31) + pairs.day
    groups, group, size = np.unique(key, return_inverse=True, return_counts=True)
    user = (groups // 2**31).astype(np.int64)
    order = np.lexsort((rng.random(len(groups)), user))
    user, size = user[order], size[order]
    n_days = np.bincount(user, minlength=n_users)
    rank = np.arange(len(user)) - (np.cumsum(n_days) - n_days)[user]
    rows = np.bincount(user, weights=size, minlength=n_users)
    n_valid, n_test = _quota(np.where(n_days >= 3, rows, 0).astype(np.int64), spec)
    middle = np.cumsum(size) - size / 2 - (np.cumsum(rows) - rows)[user]
    is_test = (rank == 0) | ((middle <= n_test[user]) & (rank < n_days[user] - 2))
    test_rows, test_days = (
        np.bincount(user, weights=w * is_test, minlength=n_users) for w in (size, np.ones_like(size))
    )
    is_first = rank == test_days[user]
    is_valid = ~is_test & (is_first | (middle - test_rows[user] <= n_valid[user])) & (rank < n_days[user] - 1)
    part = np.where(is_test, TEST, np.where(is_valid, VALID, TRAIN))
    part[n_days[user] < 3] = TRAIN
    result = np.empty(len(groups), dtype=np.int8)
    result[order] = part
    return result[group]


def _points(rows: dict[str, Pairs], spec: SplitSpec) -> tuple[int, int]:
    """First day of validation and first day of the test over the rows of all markets."""
    days = np.sort(np.concatenate([pairs.day for pairs in rows.values()]))
    valid, test = (int(days[int(len(days) * share)]) for share in (1 - spec.valid - spec.test, 1 - spec.test))
    if not days[0] < valid < test:
        raise DataError(
            "The dates lie too close together for a split at points in time.",
            hint="Choose other shares for validation and test, or another split.",
        )
    return valid, test


def _by_time(pairs: Pairs, n_users: int, points: tuple[int, int]) -> IntArray:
    part = np.searchsorted(points, pairs.day, side="right").astype(np.int8)
    known = np.bincount(pairs.user[part == TRAIN], minlength=n_users) > 0
    part[(part != TRAIN) & ~known[pairs.user]] = LEFT_OUT
    return part


def _close(pairs: Pairs, part: IntArray) -> IntArray:
    """Leaves held-out pairs out that the same user has in an earlier part (train before valid before test)."""
    key = _key(pairs)
    in_train = np.isin(key, key[part == TRAIN])
    part[(part == VALID) & in_train] = LEFT_OUT
    part[(part == TEST) & (in_train | np.isin(key, key[part == VALID]))] = LEFT_OUT
    return part


def _require_dates(corpus: Corpus, spec: SplitSpec) -> None:
    without = sorted(name for name, market in corpus.markets.items() if not market.has_dates)
    if without:
        kind = spec.kind + (" (latest)" if spec.kind == "leave-one-out" else "")
        raise DataError(
            f"The split {kind} needs a date for every interaction; these markets lack some: {', '.join(without)}.",
            hint="Choose `ratio` or `leave-one-out` with random order, or bring files with dates.",
        )


def _rank(user: IntArray, n_users: int, *keys: np.ndarray) -> IntArray:
    """Position of each row among its user's rows, ascending by the last key, then the one before it. (n,) int64"""
    order = np.lexsort((*keys, user))
    count = np.bincount(user, minlength=n_users)
    rank = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - (np.cumsum(count) - count)[user[order]]
    return rank


def _key(pairs: Pairs) -> IntArray:
    return pairs.user.astype(np.int64) * (2**31) + pairs.item


def _repeats(pairs: Pairs) -> np.ndarray:
    """(n,) bool: the row above has the same user and item; rows must be sorted."""
    key = _key(pairs)
    return np.concatenate([[False], key[1:] == key[:-1]])


def _pick(pairs: Pairs, where: np.ndarray) -> Pairs:
    return Pairs(pairs.user[where], pairs.item[where], pairs.day[where])


def _take(pairs: Pairs, part: IntArray, which: int) -> Pairs:
    taken = _pick(pairs, part == which)
    return taken if which == TRAIN else _pick(taken, ~_repeats(taken)) if len(taken) else taken


def _join(parts: tuple[Pairs, ...]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    user, item, day = (np.concatenate([getattr(p, name) for p in parts]) for name in ("user", "item", "day"))
    order = np.lexsort((day, item, user))
    return Pairs(user[order], item[order], day[order])


def _fingerprint(view: MarketView) -> str:
    """Names the view's pairs in local codes, which no other market can change."""
    total = hashlib.sha256(f"{view.name} {view.n_users} {view.n_items} {len(view.train)}\n".encode())
    for column in (view.train.user, view.train.item, view.train.day):
        total.update(np.ascontiguousarray(column, dtype="<i4").tobytes())
    return total.hexdigest()


def _digest(n_items: int, views: tuple[MarketView, ...]) -> str:
    total = hashlib.sha256(f"{n_items}\n".encode())
    for view in sorted(views, key=lambda v: v.name):
        total.update(_fingerprint(view).encode())
        total.update(np.ascontiguousarray(view.catalogue, dtype="<i4").tobytes())
    return total.hexdigest()
