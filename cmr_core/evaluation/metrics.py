"""Metrics from ranks, one value per user, without a loop; and what a set of recommendation lists is like as a whole.

Gain is binary and the discount is 1/log2(rank + 1). Of a user with n held-out items, at cutoff k:

recall     hits / n                    (Under leave-one-out equal to the hit rate.)
precision  hits / k                    also where a user has fewer than k candidates
hit        1 if there is a hit
mrr        1 / rank of the first hit, 0 where none is within k
map        sum over hits of precision at the hit's rank, / n
ndcg       DCG / DCG of a list with min(n, k) hits at the top
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cmr_core.interfaces import FloatArray, IntArray

METRICS = ("recall", "ndcg", "hit", "mrr", "map", "precision")


def per_user(
    user: IntArray, rank: IntArray, n_users: int, cutoffs: Sequence[int], metrics: Sequence[str] = METRICS
) -> dict[str, FloatArray]:
    """Metrics `name@k` (n_users,) float64 from one row per held-out item: `user` (H,) in 0..n_users-1, `rank` (H,).

    Ranks of a user are 1-based and all different. A user without a held-out item has nan everywhere. One sort, then
    O(H) for each metric and cutoff.
    """
    order = np.lexsort((rank, user))
    user, rank = user[order], rank[order]
    held = np.bincount(user, minlength=n_users)
    nth = np.arange(len(user)) - (np.cumsum(held) - held)[user] + 1  # the how-manieth held-out item of its user
    n = np.where(held, held, np.nan)
    result = {}
    for k in cutoffs:
        hit = rank <= k
        result.update({f"{name}@{k}": _one(name, user[hit], rank[hit], nth[hit], n, k) for name in metrics})
    return result


def beyond_accuracy(lists: IntArray, train_users: IntArray, n_users: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """What the lists (U, K) of item codes, -1 where short, are like; `train_users` (I,) counts users of each item.

    coverage    share of the catalogue that is in somebody's list
    novelty     mean of -log2((c + 1) / (n_users + 1)) over recommended items with c of the market's `n_users` users:
                self-information in bits (Zhou et al., 2010), plus one so that items nobody has had stay finite
    gini        inequality of exposure over the whole catalogue: 0 all items shown alike, near 1 one item to everybody
    popularity  mean c over recommended items

    All are nan where nothing is recommended. O(U * K) per cutoff.
    """
    bits = -np.log2((train_users + 1) / (n_users + 1))
    result: dict[str, float] = {}
    for k in cutoffs:
        shown = lists[:, :k].ravel()
        shown = shown[shown >= 0]
        exposure = np.bincount(shown, minlength=len(train_users))
        some = len(shown) > 0
        result[f"coverage@{k}"] = float((exposure > 0).mean()) if some else float("nan")
        result[f"novelty@{k}"] = float(bits[shown].mean()) if some else float("nan")
        result[f"gini@{k}"] = gini(exposure)
        result[f"popularity@{k}"] = float(train_users[shown].mean()) if some else float("nan")
    return result


def gini(exposure: IntArray) -> float:
    """Gini coefficient of non-negative counts (n,): half the mean absolute difference over the mean; nan if all 0."""
    total = exposure.sum()
    if total == 0:
        return float("nan")
    n = len(exposure)
    return float(((2 * np.arange(1, n + 1) - n - 1) * np.sort(exposure)).sum() / (n * total))


def _one(name: str, user: IntArray, rank: IntArray, nth: IntArray, n: FloatArray, k: int) -> FloatArray:
    """One metric at one cutoff, from the hits within it; `n` (n_users,) held-out items, nan where none."""
    total = np.bincount(user, weights=_GAINS[name](rank, nth), minlength=len(n))
    if name == "ndcg":
        ideal = np.concatenate([[np.nan], np.cumsum(1 / np.log2(np.arange(k) + 2))])
        best: FloatArray = ideal[np.minimum(np.nan_to_num(n), k).astype(np.int64)]
        return total / best
    if name in ("recall", "map"):
        return total / n
    return total / (k if name == "precision" else 1) + 0 * n  # nan for users without held-out items


# What each hit adds to its user's sum: (hits,), from its rank and the how-manieth hit of its user it is.
_GAINS: dict[str, Callable[[IntArray, IntArray], FloatArray]] = {
    "recall": lambda rank, nth: np.ones(len(rank)),
    "precision": lambda rank, nth: np.ones(len(rank)),
    "hit": lambda rank, nth: (nth == 1).astype(float),
    "mrr": lambda rank, nth: (nth == 1) / rank,
    "map": lambda rank, nth: nth / rank,
    "ndcg": lambda rank, nth: 1 / np.log2(rank + 1.0),
}
