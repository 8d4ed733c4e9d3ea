"""Scores of a step's users for the whole catalogue, of which the losses read few.

All scores are needed to rank, without a gradient: one dense product. A loss reads some entries of a row; its
gradient is a matrix with as many entries, so the backward pass multiplies a sparse matrix, not a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

_WORTH_SPARSE = 5
"""A sparse product takes about five times as long per entry as a dense one, measured on CPUs."""


@dataclass(frozen=True)
class Scores:
    """Inner products of B users with I items."""

    user: torch.Tensor  # (B, D), with gradient
    item: torch.Tensor  # (I, D), with gradient
    table: torch.Tensor  # (B, I), without

    @staticmethod
    def of(user: torch.Tensor, item: torch.Tensor) -> Scores:
        """Of these vectors. O(B I D)."""
        return Scores(user, item, user.detach() @ item.detach().T)

    def at(self, items: torch.Tensor) -> torch.Tensor:
        """Scores of K items per user, (B, K) codes; differentiable. Backward: O(B K D)."""
        start = torch.arange(len(items) + 1, device=items.device) * items.shape[1]
        return self.pairs(start, items.flatten()).view(items.shape)

    def pairs(self, start: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of `items` (n,), user by user, those of user b from start[b] to start[b + 1]; differentiable."""
        found: torch.Tensor = _Entries.apply(self.user, self.item, self.table, start, items)  # type: ignore[no-untyped-call]
        return found

    def whole(self) -> torch.Tensor:
        """(B, I), with a dense gradient."""
        return self.user @ self.item.T


def flat(start: torch.Tensor, items: torch.Tensor, n_items: int) -> torch.Tensor:
    """Places (n,) of entries in a flattened table with `n_items` columns; `start` as in `Scores.pairs`."""
    first = torch.arange(len(start) - 1, device=items.device) * n_items
    return torch.repeat_interleave(first, start.diff(), output_size=len(items)) + items


class _Entries(torch.autograd.Function):
    """Reads entries of user @ item.T that lie in `table`; the backward is that of the products."""

    @staticmethod
    def forward(
        ctx: Any, user: torch.Tensor, item: torch.Tensor, table: torch.Tensor, start: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        places = flat(start, items, table.shape[1])
        ctx.save_for_backward(user, item, start, items, places)
        return table.view(-1).index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        user, item, start, items, places = ctx.saved_tensors
        (gradient,) = gradients
        shape = len(user), len(item)
        if gradient.is_cuda or _WORTH_SPARSE * len(items) > shape[0] * shape[1]:
            whole = gradient.new_zeros(shape[0] * shape[1]).index_add_(0, places, gradient).view(shape)
            return whole @ item, whole.T @ user, None, None, None
        parts = gradient.numpy(), items.numpy().astype(np.int32), start.numpy().astype(np.int32)
        sparse = sp.csr_array(parts, shape=shape)
        by_user, by_item = (torch.from_numpy(g) for g in (sparse @ item.numpy(), sparse.T @ user.numpy()))
        return by_user, by_item, None, None, None
