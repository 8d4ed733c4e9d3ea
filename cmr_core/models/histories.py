"""What users have in training, as tensors: batches of pairs, masks, and item lists for list-wise distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cmr_core.interfaces import IntArray, MarketView


class History:
    """Training items per user, each once, in the codes 0..n_items-1 that `item` is given in. Memory: O(pairs)."""

    def __init__(self, user: IntArray, item: IntArray, n_users: int, n_items: int, device: str) -> None:
        keys = np.unique(user.astype(np.int64) * n_items + item)
        start = np.searchsorted(keys, np.arange(n_users + 1) * n_items)
        self.n_items, self.n_users = n_items, n_users
        self.items = torch.from_numpy(keys % n_items).to(device)
        self.start = torch.from_numpy(start[:-1]).to(device)
        self.length = torch.from_numpy(np.diff(start)).to(device)

    @staticmethod
    def of(view: MarketView, device: str) -> History:
        """Of a market's users, in its local codes."""
        return History(view.train.user, view.train.item, view.n_users, view.n_items, device)

    def pairs(self, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs of the users: row in `users` and item code, (n,) each."""
        length = self.length[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), length)
        ends = length.cumsum(0)
        within = torch.arange(len(row), device=users.device) - (ends - length)[row]
        return row, self.items[self.start[users][row] + within]

    def mask(self, users: torch.Tensor) -> torch.Tensor:
        """(B, n_items) bool: what each user has."""
        row, item = self.pairs(users)
        mask = torch.zeros(len(users), self.n_items, dtype=torch.bool, device=users.device)
        mask.view(-1).index_fill_(0, row * self.n_items + item, True)
        return mask

    def any_one(self, users: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One of each user's items, uniformly: (B,). Every user must have one."""
        share = torch.rand(len(users), generator=generator, device=users.device)
        length = self.length[users]
        return self.items[self.start[users] + torch.minimum((share * length).long(), length - 1)]


@dataclass(frozen=True)
class Pool:
    """The items that a source and the target both sell, in codes of the target's catalogue."""

    market: str
    items: torch.Tensor  # (n,) int64


def pools(target: MarketView, sources: Sequence[MarketView], device: str) -> list[Pool]:
    """One pool for each source that shares at least two items with the target; lists need two to compare."""
    found = []
    for source in sources:
        _, codes, _ = np.intersect1d(target.catalogue, source.catalogue, assume_unique=True, return_indices=True)
        if len(codes) >= 2:
            found.append(Pool(source.name, torch.from_numpy(codes.astype(np.int64)).to(device)))
    return found


def draw_lists(
    pool: torch.Tensor, positive: torch.Tensor, length: int, mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of one positive and `length` - 1 different items of the pool: codes and `absent`, (B, length) each.

    Every user reads a cyclic window, at a random place, of one random order of the pool: within a list items
    differ, and each item is as likely as any other. Entries that the user has (`mask` (B, n_items)) are absent, not
    drawn again; so is the positive where it comes up as its own negative. Places beyond the pool are absent.
    """
    items = torch.cat([positive[:, None], draw_windows(pool, len(positive), length - 1, generator)], dim=1)
    return items, absent_entries(items, mask, torch.tensor([len(pool)], device=pool.device))


def draw_windows(pool: torch.Tensor, users: int, wanted: int, generator: torch.Generator) -> torch.Tensor:
    """The negatives of `draw_lists`, (users, wanted). Beyond the pool's size they come again."""
    size = len(pool)
    shuffled = pool[torch.randperm(size, generator=generator, device=pool.device)]
    offset = torch.randint(size, (users, 1), generator=generator, device=pool.device)
    return shuffled.repeat(1 + -(-wanted // size)).unfold(0, wanted, 1).index_select(0, offset[:, 0])


def absent_entries(items: torch.Tensor, mask: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """What `draw_lists` calls absent, (B, S * L), of S lists (B, S * L) of L items from pools of `sizes` (S,)."""
    lists = items.view(len(items), len(sizes), -1)
    place = torch.arange(-1, lists.shape[2] - 1, device=items.device)
    absent = mask.gather(1, items).view_as(lists) | (lists == lists[..., :1]) | (place >= sizes[:, None])
    absent[..., 0] = False
    return absent.view_as(items)
