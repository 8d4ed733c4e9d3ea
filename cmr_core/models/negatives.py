"""Training pairs with exact uniform negatives, drawn for whole epochs at once.

A negative is uniform over the items that the row's own market sells and that the user does not have in
training. Where the user's items, sorted, are o_0 < o_1 < ..., exactly o_j - j missing items lie below o_j; so the
r-th missing item is r + #{j: o_j - j <= r}. One binary search per row, no rejection, no users-by-items table,
and as fast for a user who has nearly everything as for one who has nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cmr_core.errors import TrainingError
from cmr_core.interfaces import IntArray, MarketView


class Negatives:
    """Draws items that users of one or several markets do not have in training.

    User nodes are stacked in the order of `views`; items are local codes of the user's market.
    Memory: O(pairs + users).
    """

    def __init__(self, views: Sequence[MarketView], device: str | torch.device) -> None:
        offsets = np.cumsum([0, *(view.n_users for view in views)])
        span = max((view.n_items for view in views), default=0) + 1
        pairs = [v.train.user.astype(np.int64) + o for v, o in zip(views, offsets, strict=False)]
        keys = np.unique(np.concatenate([u * span + v.train.item for u, v in zip(pairs, views, strict=True)]))
        user, item = keys // span, keys % span
        start = np.searchsorted(user, np.arange(offsets[-1] + 1))
        n_items = np.repeat([view.n_items for view in views], [view.n_users for view in views])
        below = item - (np.arange(len(item)) - start[user])
        self._span = span
        self._keys = torch.from_numpy(user * span + below).to(device)
        self._start = torch.from_numpy(start[:-1]).to(device)
        self.missing = torch.from_numpy(n_items - np.diff(start)).to(device)  # (users,) items that may be drawn

    def draw(self, users: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One local item code per user node, shape of `users`. Every user must have `missing` > 0."""
        share = torch.rand(users.shape, dtype=torch.float64, device=users.device, generator=generator)
        missing = self.missing[users]
        rank = torch.minimum((share * missing).long(), missing - 1)
        upto = torch.searchsorted(self._keys, users * self._span + rank, right=True)
        return rank + upto - self._start[users]


def nothing_to_learn(
    views: Sequence[MarketView], why: str = "no training pair with an item to compare it with"
) -> TrainingError:
    """The fault of a training that would have no step."""
    return TrainingError(
        f"There is nothing to learn from in {', '.join(view.name for view in views)}: {why}.",
        hint="Choose a market with more interactions, or another split.",
    )


class Stacked:
    """Training pairs of several markets behind each other, without those of users who have the whole catalogue.

    `tables` say what the items of each view are called; users are stacked in the order of `views`. All int64. Raises
    TrainingError where no pair is left.
    """

    def __init__(self, views: Sequence[MarketView], tables: Sequence[IntArray], negatives: Negatives) -> None:
        first = np.cumsum([0, *(view.n_users for view in views)])
        market = np.repeat(np.arange(len(views)), [len(view.train) for view in views])
        user = np.concatenate([v.train.user.astype(np.int64) + o for v, o in zip(views, first, strict=False)])
        usable = negatives.missing.cpu().numpy()[user] > 0
        if not usable.any():
            raise nothing_to_learn(views)
        item = np.concatenate([t[v.train.item] for t, v in zip(tables, views, strict=True)])
        starts = np.cumsum([0, *map(len, tables)])
        self.market, self.user = market[usable], user[usable]
        self.item = item[usable].astype(np.int64)
        self.table = np.concatenate(tables).astype(np.int64)  # of all views
        self.shift = starts[self.market]  # where the pair's view begins in it


class Triples:
    """One epoch of BPR: every training pair once, in random order, with a fresh negative.

    Numbers are nodes of a graph: users first, then items, which are the market's own (`market_graph`) or the
    global vocabulary (`combined_graph`). Pairs of a user who has the whole catalogue have no negative and are left
    out; they stay in the graph. Raises TrainingError where no pair is left.
    """

    def __init__(self, views: Sequence[MarketView], device: str | torch.device, *, catalogues: bool) -> None:
        self._first_item = sum(view.n_users for view in views)
        self._negatives = Negatives(views, device)
        tables = [view.catalogue if catalogues else np.arange(view.n_items) for view in views]
        pairs = Stacked(views, tables, self._negatives)
        self._user, self._item, self._table, self._shift = (
            torch.from_numpy(array).to(device) for array in (pairs.user, pairs.item, pairs.table, pairs.shift)
        )

    def __len__(self) -> int:
        return len(self._user)

    def epoch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """User, positive and negative nodes, (n,) each. O(n log n)."""
        order = torch.randperm(len(self), device=self._user.device, generator=generator)
        user = self._user[order]
        drawn = self._table[self._shift[order] + self._negatives.draw(user, generator)]
        return user, self._item[order] + self._first_item, drawn + self._first_item
