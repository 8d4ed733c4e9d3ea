"""Users' training items in the order of their days, and what methods that read such sequences share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch.nn import functional

from cmr_core.interfaces import FloatArray, IntArray, MarketView, Run
from cmr_core.models.negatives import nothing_to_learn
from cmr_core.models.pointwise import Layout, StepsConfig
from cmr_core.training.loop import mean_known

Softmax = Literal["market", "vocabulary"]
Encode = Callable[[torch.Tensor], torch.Tensor]
"""Rows of a layout's users (B,) -> their vectors (B, D), without dropout."""
BLOCK = 512  # users encoded at once in scoring


class SequenceConfig(StepsConfig):
    """Settings of every method that reads such sequences with attention."""

    dimensions: int = Field(64, ge=2, le=1024, description="Length of each item's vector")
    heads: int = Field(2, ge=1, le=16, description="Attention heads; they divide the dimensions")
    length: int = Field(50, ge=1, le=1000, description="Latest items of a history that are read at most")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of values set to zero in training")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Adam's weight decay on all parameters")

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.dimensions % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.dimensions} dimensions")
        return self


class Sequences:
    """Histories of a layout's users: items by day, equal days in an order drawn from `seed`.

    Codes are the layout's item rows; `pad` stands for no item, `mask` for a hidden one. Memory: O(pairs). Raises
    TrainingError where no user has an item.
    """

    def __init__(self, layout: Layout, length: int, seed: int, device: str) -> None:
        draw = np.random.default_rng(seed)
        items, counts = [], []
        for view in layout.views:
            order = np.lexsort((draw.random(len(view.train)), view.train.day, view.train.user))
            items.append(layout.items(view)[view.train.item[order]])
            counts.append(np.bincount(view.train.user, minlength=view.n_users))
        count = np.concatenate(counts)
        if not count.any():
            raise nothing_to_learn(layout.views, "no training pair")
        self.length, self.pad, self.mask = length, layout.n_items, layout.n_items + 1
        market = np.repeat(np.arange(len(layout.views)), [view.n_users for view in layout.views])
        self.items, self.count, self.start, self.market = (
            torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
            for array in (np.concatenate(items), count, np.cumsum(count) - count, market)
        )

    def last(
        self, users: torch.Tensor, ends: torch.Tensor, *, places: int | None = None, without: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, W) codes: the last items before place `ends` (B,) of each user's sequence, `pad` on the left.

        W is what the longest of them needs: at least 1, at most `places` (`length` where it is not given). The place
        `without` (B,) is passed over; `ends` then counts the others.
        """
        most = self.length if places is None else places
        width = max(1, min(most, int(ends.max())))
        place = ends[:, None] - torch.arange(width, 0, -1, device=ends.device)
        there = place >= 0
        if without is not None:
            place = place + (place >= without[:, None]).long()
        index = torch.where(there, self.start[users][:, None] + place, 0)
        return torch.where(there, self.items[index], self.pad)


def alike(lengths: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices 0..n-1 once, in random batches of `size` whose members have near lengths, so that little is padding."""
    order = torch.randperm(len(lengths), device=lengths.device, generator=generator)
    order = order[lengths[order].argsort(stable=True)]
    batches = torch.split(order, size)
    for at in torch.randperm(len(batches), device=lengths.device, generator=generator).tolist():
        yield batches[at]


class Competitors:
    """Which items a softmax is taken over: the catalogue of the row's market, or all items of the layout."""

    def __init__(self, layout: Layout, softmax: Softmax, device: str) -> None:
        self._sold: list[tuple[torch.Tensor, torch.Tensor]] = []
        if softmax == "market" and len(layout.views) > 1:
            for view in layout.views:
                rows = layout.items(view)
                place = np.zeros(layout.n_items, dtype=np.int64)
                place[rows] = np.arange(len(rows))
                self._sold.append((torch.from_numpy(rows).to(device), torch.from_numpy(place).to(device)))

    def loss(
        self,
        vectors: torch.Tensor,
        items: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        market: torch.Tensor,
        weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean cross-entropy of vectors (n, D) whose items are `target` (n,), weighted by `weight` (n,).

        `items` (n_items, D) and `bias` (n_items,) are the layout's, `market` (n,) the places of the rows' markets.
        Memory: n * (items that compete).
        """
        parts = [(torch.arange(len(target), device=target.device), items, bias, target)]
        if self._sold:
            parts = []
            for at in torch.unique(market).tolist():
                rows, place = self._sold[at]
                own = (market == at).nonzero()[:, 0]
                parts.append((own, items[rows], None if bias is None else bias[rows], place[target[own]]))
        total = items.new_zeros(())
        for own, offered, shift, wanted in parts:
            logits = functional.linear(vectors[own], offered, shift)
            loss = functional.cross_entropy(logits, wanted, reduction="none" if weight is not None else "sum")
            total = total + (loss if weight is None else (loss * weight[own]).sum())
        return total / (len(target) if weight is None else weight.sum())


def encode_users(encode: Encode, layout: Layout, view: MarketView, users: IntArray, device: str) -> FloatArray:
    """Vectors (B, D) of the market's local users, in blocks."""
    rows = torch.from_numpy(layout.users(view)[users]).to(device)
    with torch.no_grad():
        blocks = [encode(block) for block in torch.split(rows, BLOCK)]
    return torch.cat(blocks).cpu().numpy() if blocks else np.zeros((0, 0), dtype=np.float32)


def judge_sequences(
    run: Run,
    encode: Encode,
    layout: Layout,
    views: Sequence[MarketView],
    items: torch.Tensor,
    bias: torch.Tensor | None,
    users: int | None,
) -> float:
    """Mean validation value over markets, nan where none has validation rows; at most `users` of each are asked."""
    values = []
    for view in views:
        rows = torch.from_numpy(layout.items(view)).to(items.device)
        offered = items.detach()[rows].cpu().numpy()
        shift = 0.0 if bias is None else bias.detach()[rows].cpu().numpy()

        def score(
            asked: IntArray, view: MarketView = view, offered: FloatArray = offered, shift: FloatArray | float = shift
        ) -> FloatArray:
            found: FloatArray = encode_users(encode, layout, view, asked, run.device) @ offered.T + shift
            return found

        values.append(run.validate(view.name, score, users=users))
    return mean_known(values)
