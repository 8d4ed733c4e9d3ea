"""What a corpus looks like, as plain numbers for tables and charts."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmr_core.data.market import Corpus, Market
from cmr_core.interfaces import FloatArray, IntArray

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
BINS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def describe(corpus: Corpus) -> dict[str, Any]:
    """Sizes, density, long tail and overlaps; JSON-able.

    `markets[name]`: users, items, rows, pairs (different user-item pairs), density (pairs / users / items),
    items_shared (share also sold elsewhere), gini, top_share (of pairs, those of the most popular 10 % of the items),
    long_tail (bins of interactions per item, with counts), user_quantiles and item_quantiles (interactions per user and
    per item, at the given percents), ratings, first_day and last_day (ISO, None without dates).
    `overlap`: market names, shared items (counts) and Jaccard indices as square matrices. Cost: a sort per market.
    """
    names = sorted(corpus.markets)
    shared = overlap_counts(corpus, names)
    sizes = np.diag(shared)
    union = sizes[:, None] + sizes[None, :] - shared
    sold_in = np.bincount(np.concatenate([corpus.markets[n].catalogue for n in names]), minlength=len(corpus.items))
    ids = np.concatenate([corpus.markets[n].users for n in names])
    return {
        "name": corpus.name,
        "digest": corpus.digest,
        "users": len(ids),
        "user_ids": len(set(ids)),
        "items": len(corpus.items),
        "rows": sum(len(corpus.markets[n]) for n in names),
        "pairs": sum(len(pair_counts(corpus.markets[n])[0]) for n in names),
        "markets": {n: _market(corpus.markets[n], sold_in) for n in names},
        "overlap": {"markets": names, "items": shared.tolist(), "jaccard": np.round(shared / union, 6).tolist()},
        "items_by_markets": np.bincount(sold_in, minlength=len(names) + 1)[1:].tolist(),
    }


def overlap_counts(corpus: Corpus, names: list[str]) -> IntArray:
    """(n, n) items that two markets both sell; the diagonal holds the markets' own numbers of items."""
    sells = np.zeros((len(names), len(corpus.items)), dtype=np.float32)
    for row, name in enumerate(names):
        sells[row, corpus.markets[name].catalogue] = 1
    return np.asarray(np.rint(sells @ sells.T), dtype=np.int64)


def pair_counts(market: Market) -> tuple[IntArray, IntArray]:
    """The different (user, item) pairs as keys `user * 2**31 + item`, and the rows of each."""
    return np.unique(market.user.astype(np.int64) * 2**31 + market.item, return_counts=True)


def gini(counts: IntArray) -> float:
    """Gini coefficient: 0 where all are equal, near 1 where one has everything."""
    ordered, n = np.sort(counts).astype(np.float64), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def _market(market: Market, sold_in: IntArray) -> dict[str, Any]:
    keys, _ = pair_counts(market)
    per_user = np.bincount(keys // 2**31)
    item_counts = np.bincount(keys % 2**31)
    per_item = item_counts[item_counts > 0]
    ordered = np.sort(per_item)[::-1]
    top = ordered[: max(1, len(ordered) // 10)].sum() / ordered.sum()
    bins = np.bincount(np.searchsorted(BINS, per_item, side="right") - 1, minlength=len(BINS))
    stars, rated = np.unique(market.rating, return_counts=True)
    days = market.day[market.day >= 0]
    return {
        "users": len(market.users),
        "items": len(per_item),
        "rows": len(market),
        "pairs": len(keys),
        "density": len(keys) / len(market.users) / len(per_item),
        "items_shared": float((sold_in[market.catalogue] > 1).mean()),
        "gini": gini(per_item),
        "top_share": float(top),
        "long_tail": {"from": list(BINS), "items": bins.tolist()},
        "user_quantiles": _quantiles(per_user),
        "item_quantiles": _quantiles(per_item),
        "ratings": {f"{s:g}": int(n) for s, n in list(zip(stars, rated, strict=True))[:20]},
        "first_day": _iso(days.min()) if len(days) else None,
        "last_day": _iso(days.max()) if len(days) else None,
    }


def _quantiles(counts: IntArray) -> dict[str, float]:
    values: FloatArray = np.percentile(counts, QUANTILES)
    return {str(q): float(v) for q, v in zip(QUANTILES, values, strict=True)}


def _iso(day: int) -> str:
    return str(np.datetime64(int(day), "D"))
