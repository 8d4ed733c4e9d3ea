"""Candidate lists: which items compete with a user's held-out ones.

The lists follow from the split, the evaluation's seed, the market and the part, so every method meets the same ones
and nothing needs to be stored with the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cmr_core.data.split import MarketSplit, Split, name_seed
from cmr_core.errors import SpecError
from cmr_core.interfaces import IntArray, Pairs
from cmr_core.spec import EvalSpec

Part = Literal["valid", "test"]
DENSE_CELLS = 4_000_000  # random keys held at once where nearly the whole pool is drawn


@dataclass(frozen=True)
class Candidates:
    """The competitors of each user's held-out items, which are candidates too but not listed."""

    users: IntArray  # (n,) local users with held-out rows, ascending
    negatives: (
        IntArray  # (n, k) int32 local item codes; -1: an item that the target does not sell (ranks last), or none
    )


def sample_candidates(
    split: Split, market: str, part: Part, spec: EvalSpec, *, given: Mapping[str, Candidates] | None = None
) -> Candidates | None:
    """The candidates of `market`'s held-out rows, or None where the whole catalogue competes.

    `sampled-market` draws from the market's catalogue, `sampled-global` from the items of all markets (as the public
    code of the ACMR paper does); uniformly, without the user's own items of any part, without repetition. Where fewer
    items than asked are left, all of them compete and the row ends in -1. `given` takes the market's entry of `given`
    (see `given.py`), without the user's own items either. Cost: O(users * negatives), no loop over users. Raises
    SpecError where a given list is missing.
    """
    if spec.candidates == "catalogue":
        return None
    if spec.candidates == "given":
        return _given(split.market(market), given)
    own = split.market(market)
    users = np.unique((own.valid if part == "valid" else own.test).user)
    rng = np.random.default_rng([spec.seed, split.spec.seed, name_seed(market, part, spec.candidates)])
    if spec.candidates == "sampled-market":
        return Candidates(users, _negatives(users, own_items(own), own.n_items, spec.negatives, rng))
    local = np.full(split.n_items + 1, -1, dtype=np.int32)  # the last entry keeps -1 at -1
    local[own.catalogue] = np.arange(own.n_items)
    pairs = own_items(own)
    in_all = Pairs(pairs.user, own.catalogue[pairs.item], pairs.day)
    return Candidates(users, local[_negatives(users, in_all, split.n_items, spec.negatives, rng)])


def own_items(market: MarketSplit) -> Pairs:
    """All that the market's users have had, whatever the part."""
    return market.view(full=True).train


def _given(market: MarketSplit, given: Mapping[str, Candidates] | None) -> Candidates:
    if given is None or market.name not in given:
        raise SpecError(
            f"No candidate list was given for market {market.name!r}.",
            hint="Import one that covers the market, or choose other candidates.",
        )
    listed, own = given[market.name], own_items(market)
    taken = np.unique(own.user.astype(np.int64) * market.n_items + own.item)
    mine = contains(taken, listed.users[:, None].astype(np.int64) * market.n_items + listed.negatives)
    return Candidates(listed.users, np.where(mine & (listed.negatives >= 0), -1, listed.negatives))


def _negatives(users: IntArray, own: Pairs, n_items: int, k: int, rng: np.random.Generator) -> IntArray:
    """(n, k) items in 0..n_items-1 that are not the user's own, each once per user; -1 where none is left."""
    row_of = np.full(int(own.user.max(initial=-1)) + 1, -1, dtype=np.int64)
    row_of[users] = np.arange(len(users))
    mine = row_of[own.user] >= 0
    taken = np.unique(row_of[own.user[mine]] * n_items + own.item[mine])  # (row, item) keys, ascending
    pool = n_items - np.bincount(taken // n_items, minlength=len(users))
    negatives = np.full((len(users), k), -1, dtype=np.int32)
    few = pool < 4 * k  # rejection would hardly ever hit the last free items
    negatives[~few] = _by_rejection(np.flatnonzero(~few), taken, n_items, k, rng)
    negatives[few] = _by_sorting(np.flatnonzero(few), taken, n_items, k, rng)
    return negatives


def _by_rejection(rows: IntArray, taken: IntArray, n_items: int, k: int, rng: np.random.Generator) -> IntArray:
    """Draws again whatever is the user's own or already drawn: uniform, as no free item is treated differently."""
    drawn = rng.integers(0, n_items, size=(len(rows), k))
    wrong = _wrong(drawn, rows, taken, n_items)
    while wrong.any():
        drawn[wrong] = rng.integers(0, n_items, size=int(wrong.sum()))
        again = wrong.any(axis=1)
        wrong[again] = _wrong(drawn[again], rows[again], taken, n_items)
    return drawn.astype(np.int32)


def _wrong(drawn: IntArray, rows: IntArray, taken: IntArray, n_items: int) -> np.ndarray:
    """(n, k) bool: the user's own items, and every repetition but its first."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, axis=1)
    repeated = np.zeros_like(drawn, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated | contains(taken, rows[:, None] * n_items + drawn)


def contains(ascending: IntArray, keys: IntArray) -> npt.NDArray[np.bool_]:
    """Which `keys` (any shape) lie in the sorted array; much less memory than a table of all keys."""
    if not len(ascending):
        return np.zeros(keys.shape, dtype=bool)
    at = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[at] == keys
    return found


def _by_sorting(rows: IntArray, taken: IntArray, n_items: int, k: int, rng: np.random.Generator) -> IntArray:
    """The k smallest of random keys over the whole pool, own items last."""
    result = np.full((len(rows), k), -1, dtype=np.int32)
    width = min(k, n_items)
    step = max(1, DENSE_CELLS // n_items)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        key = rng.random((len(block), n_items))
        key[contains(taken, block[:, None] * n_items + np.arange(n_items))] = np.inf
        first = np.argsort(key, axis=1)[:, :width]
        free = np.isfinite(np.take_along_axis(key, first, axis=1))
        result[start : start + step, :width] = np.where(free, first, -1)
    return result
