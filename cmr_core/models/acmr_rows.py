"""Training pairs with negatives that are drawn once for all epochs, as in the public code of ACMR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cmr_core.interfaces import MarketView
from cmr_core.models.negatives import nothing_to_learn
from cmr_core.models.pointwise import Batch, Layout


class FixedRows:
    """Every training pair with `negatives` items of any market, drawn when this is made and never again.

    The negatives of all of a user's pairs differ from each other and from what the user has in training. Where there
    are too few such items, they come again in turn; users who have every item are left out. Time: O(users * items),
    once. Raises TrainingError where no pair is left.
    """

    def __init__(
        self, layout: Layout, negatives: int, generator: torch.Generator, *, views: Sequence[MarketView]
    ) -> None:
        place = {view.name: at for at, view in enumerate(layout.views)}
        user, item, drawn, market = [], [], [], []
        has = np.zeros(layout.n_items, dtype=bool)
        for view in views:
            rows, known = layout.users(view), layout.items(view)
            order = np.argsort(view.train.user, kind="stable")
            owners, first = np.unique(view.train.user[order], return_index=True)
            for owner, own in zip(owners, np.split(known[view.train.item[order]], first[1:]), strict=True):
                has[own] = True
                free = np.flatnonzero(~has)
                has[own] = False
                if not len(free):
                    continue
                chosen = torch.randperm(len(free), generator=generator, device=generator.device).cpu().numpy()
                drawn.append(np.resize(free[chosen], (len(own), negatives)))
                item.append(own)
                user.append(np.full(len(own), rows[owner]))
                market.append(np.full(len(own), place[view.name]))
        if not item:
            raise nothing_to_learn(views)
        both = np.concatenate([np.concatenate(item)[:, None], np.concatenate(drawn)], axis=1)
        self._user, self._item, self._market = (
            torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(generator.device)
            for array in (np.concatenate(user), both, np.concatenate(market))
        )

    def __len__(self) -> int:
        return len(self._user)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order, in batches of `size` examples."""
        order = torch.randperm(len(self), device=self._user.device, generator=generator)
        step = max(1, size // self._item.shape[1])
        for rows in torch.split(order, step):
            yield Batch(self._user[rows], self._item[rows], self._market[rows])
