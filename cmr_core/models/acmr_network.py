"""ACMR's network (Hu et al., Information Systems 2024): attention over a user's items and one candidate.

The histories that it reads, its parameters, its forward pass in training, and the registered function that scores.
Sequences are as long as their histories: those of equal length go through the layers together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from cmr_core.interfaces import Arrays, IntArray, MarketView
from cmr_core.models.columns import apply_first_layer, apply_layer, joint
from cmr_core.models.neural import Tensors, network
from cmr_core.models.pointwise import Batch, Layout, cut
from cmr_core.models.towers import SILENT, Noise, Parameters, dropout, linear, linear_of_torch, table
from cmr_core.models.transformer import apply_norm, apply_rest, attention, heads_of, layers_of_torch, norm
from cmr_core.models.transformer import layers as glorot_layers

NAME = "acmr"
PLACES = 3072  # places of sequences at once: what a layer makes of them stays within a processor's second cache
TRAINED = 10_000  # the same in training, where each group of sequences has costs of its own
ON_GPU = 256  # times as many are worth the launches of a group on a GPU: 1.3 GB for the longest histories' attention
EXACT = 12  # histories up to this length are never padded; longer ones by a sixth at most


class Histories:
    """Training items per user, each once, at most `length`: of longer histories a random part, the same for all epochs.

    `user` and `item` are codes of any kind; `n_items` of them. Memory: O(pairs).
    """

    def __init__(
        self, user: IntArray, item: IntArray, n_users: int, n_items: int, length: int, generator: torch.Generator
    ) -> None:
        keys = np.unique(user.astype(np.int64) * n_items + item)
        owner = keys // n_items
        chance = torch.rand(len(keys), dtype=torch.float64, generator=generator, device=generator.device).cpu().numpy()
        order = np.lexsort((chance, owner))
        first = np.searchsorted(owner, np.arange(n_users))
        kept = np.sort(keys[order[np.arange(len(keys)) - first[owner] < length]])
        start = np.searchsorted(kept, np.arange(n_users + 1) * n_items)
        self.n_items = n_items
        self.items = torch.from_numpy(kept % n_items).to(generator.device)
        self.start = torch.from_numpy(start).to(generator.device)
        self._keys = torch.from_numpy(kept).to(generator.device)

    @staticmethod
    def of(layout: Layout, length: int, generator: torch.Generator) -> Histories:
        """Of all users of a layout, in its rows."""
        user = np.concatenate([layout.users(view)[view.train.user] for view in layout.views])
        item = np.concatenate([layout.items(view)[view.train.item] for view in layout.views])
        return Histories(user, item, layout.n_users, layout.n_items, length, generator)

    def place(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Where the item (P,) stands among the user's, and -1 where it does not: (P,)."""
        key = user * self.n_items + item
        at = torch.searchsorted(self._keys, key).clamp_(max=len(self._keys) - 1)
        return torch.where(self._keys[at] == key, at - self.start[user], -1)

    def arrays(self, layout: Layout, view: MarketView) -> Arrays:
        """A market's histories in its local codes: `history.items` and `history.start` (n_users + 1,)."""
        local = np.full(layout.n_items, -1)
        local[layout.items(view)] = np.arange(view.n_items)
        rows = layout.users(view)
        start = self.start.cpu().numpy()[rows[0] : rows[-1] + 2]
        items = local[self.items.cpu().numpy()[start[0] : start[-1]]]
        return {"history.items": items, "history.start": start - start[0]}


class Slots(NamedTuple):
    """Histories of P users in n slots: (n, P) item codes, and which slots are empty; None where none is."""

    items: torch.Tensor
    absent: torch.Tensor | None


def slots(
    items: torch.Tensor, start: torch.Tensor, count: torch.Tensor, skip: torch.Tensor | None, width: int, nothing: int
) -> Slots:
    """`count` (P,) items each from `start` (P,) of `items` on, without the one at place `skip` (-1: none).

    A history of no items is the one item `nothing`, which stands for that.
    """
    slot = torch.arange(width, device=items.device)[:, None]
    read = start + slot
    if skip is not None:
        read = read + ((skip >= 0) & (slot >= skip)).long()
    found = items[read.clamp_(max=len(items) - 1)].masked_fill_(slot >= count, nothing)
    absent = slot >= count.clamp(min=1)
    return Slots(found, absent if _on_gpu(absent) or bool(absent.any()) else None)  # to ask would make a GPU wait


def by_length(count: torch.Tensor, most: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Rows (p,) of histories with `count` (P,) items that go together, and their width; at most `most` places each."""
    widths = torch.tensor(_widths(int(count.max())), device=count.device)
    kind = torch.searchsorted(widths, count.clamp(min=1))
    order = torch.argsort(kind, stable=True)
    sizes = torch.bincount(kind, minlength=len(widths)).tolist()
    for width, rows in zip(widths.tolist(), torch.split(order, sizes), strict=True):
        if len(rows):
            for part in torch.split(rows, max(1, most // (width + 1))):
                yield part, width


def _on_gpu(near: torch.Tensor) -> bool:
    return near.is_cuda


def _width(count: torch.Tensor) -> int:
    """The places of the longest of the histories with `count` items, rounded up."""
    return _widths(max(1, int(count.max())))[-1]


def _widths(longest: int) -> list[int]:
    found = list(range(1, EXACT + 1))
    while found[-1] < longest:
        found.append(-(-found[-1] * 7 // 6))
    return found


def start(
    generator: torch.Generator,
    n_items: int,
    markets: int,
    dimensions: int,
    layers: int,
    *,
    explicit_user: bool,
    deviation: float,
    torch_layers: bool = False,
) -> Parameters:
    """(I + 1) d + 7 d + 2 d + L (12 d^2 + 13 d) + 2 d + 1 scalars at seven markets; d less without explicit user.

    The row beside the items stands for a history without items. `markets` is 0 where there are no market vectors.
    `torch_layers`: layers and output as torch.nn draws them, and not by Glorot's rule.
    """
    found = {"item.vectors": table(n_items, dimensions, generator, deviation=deviation)}
    found["empty"] = table(1, dimensions, generator, deviation=deviation)
    if markets:
        found["markets"] = table(markets, dimensions, generator, deviation=deviation)
    found |= norm("norm", dimensions, generator.device)
    drawn, output = (layers_of_torch, linear_of_torch) if torch_layers else (glorot_layers, linear)
    found |= drawn(layers, dimensions, 4 * dimensions, generator)
    return found | output("output", dimensions * (2 if explicit_user else 1), 1, generator)


class Sized(NamedTuple):
    """A batch of training pairs, and the places of its longest history, rounded up so that few widths occur."""

    user: torch.Tensor  # (P,)
    item: torch.Tensor  # (P, 1 + k)
    market: torch.Tensor  # (P,)
    width: int


class Reader:
    """Logits of training batches, with dropout, from live parameters in the rows of a layout."""

    def __init__(
        self, histories: Histories, heads: int, noise: Noise, inner: Noise = SILENT, *, with_candidate: bool
    ) -> None:
        self.histories, self.heads, self.noise, self.inner = histories, heads, noise, inner
        self.with_candidate = with_candidate  # whether a history holds the positive that it is asked about

    def arrange(self, batches: Iterator[Batch], size: int, generator: torch.Generator) -> Iterator[Sized]:
        """Large batches as small ones of `size` examples, in random order, each of histories of about equal length."""
        for batch in batches:
            count = self._count(batch)[0]
            parts = torch.split(torch.argsort(count), max(1, size // batch.item.shape[1]))
            for at in torch.randperm(len(parts), generator=generator, device=generator.device).tolist():
                part = Batch(*(array[parts[at]] for array in batch))
                yield Sized(*part, _width(count[parts[at]]))

    def logits(self, weights: Tensors, batch: Sized) -> torch.Tensor:
        """(P, 1 + k). All candidates of a row see the same history, which goes through the first layer once."""
        history, nothing = self.histories, len(weights["item.vectors"])
        weights = joint(weights)
        vectors = torch.cat([weights["item.vectors"], weights["empty"]])
        begin = history.start[batch.user]
        count, skip = self._count(batch)
        rows, found = [], []
        for part, width in self._groups(batch, count):
            past = slots(history.items, begin[part], count[part], None if skip is None else skip[part], width, nothing)
            market = weights["markets"][batch.market[part]] if "markets" in weights else None
            read = embed(weights, vectors[past.items], market, self.noise)[:, :, None]
            asked = embed(weights, vectors[batch.item[part].t()], market, self.noise)
            absent = None if past.absent is None else past.absent[:, None]
            found.append(encode(weights, read, asked, absent, self.heads, self.noise, self.inner).t())
            rows.append(part)
        return found[0] if len(found) == 1 else torch.cat(found)[torch.argsort(torch.cat(rows))]

    def _groups(self, batch: Sized, count: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
        """`by_length`, or on a GPU all rows at once, padded: there a launch costs more than what it computes."""
        if _on_gpu(count):
            return iter([(torch.arange(len(count), device=count.device), batch.width)])
        return by_length(count, TRAINED // batch.item.shape[1])

    def _count(self, batch: Batch | Sized) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Items (P,) of the histories that are read, and the place (P,) of the one that is not."""
        count = self.histories.start[batch.user + 1] - self.histories.start[batch.user]
        if self.with_candidate:
            return count, None
        skip = self.histories.place(batch.user, batch.item[:, 0])
        return count - (skip >= 0).long(), skip


def embed(weights: Tensors, vectors: torch.Tensor, market: torch.Tensor | None, noise: Noise = SILENT) -> torch.Tensor:
    """(d, *places): norm of item vectors (*places, d) plus market vectors that broadcast to them (eq. 5)."""
    summed = vectors if market is None else vectors + market
    return dropout(apply_norm(weights, "norm", summed), *noise).movedim(-1, 0).contiguous()


def encode(
    weights: Tensors,
    history: torch.Tensor,
    candidate: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    noise: Noise = SILENT,
    inner: Noise = SILENT,
) -> torch.Tensor:
    """Logits (X, Y) of histories (d, n, *a) and candidates (d, *b), whose last two axes broadcast to (X, Y); eq. 6-8.

    `absent` (n, *a). Without explicit user modelling the last layer is computed for the candidate alone.
    """
    if _on_gpu(history):
        return encode_rows(weights, history, candidate, absent, heads, noise, inner)
    size, n = history.shape[:2]
    grid = torch.broadcast_shapes(history.shape[2:], candidate.shape[1:])  # type: ignore[no-untyped-call]
    explicit = weights["output.weight"].shape[1] == 2 * size
    layers = sum(name.endswith(".query.weight") for name in weights)
    x = apply_first_layer(weights, "layer.0", history, candidate, absent, heads, noise, inner)
    gone = None if absent is None else absent.expand(n, *grid).reshape(n, -1)
    hidden = None if gone is None else functional.pad(gone, (0, 0, 0, 1))
    for at in range(1, layers):
        alone = not explicit and at == layers - 1
        x = apply_layer(weights, f"layer.{at}", x, hidden, heads, noise, inner, last_only=alone)
    weight = weights["output.weight"][0]
    logits = weight[-size:] @ x[:, -1] + weights["output.bias"]
    if explicit:
        user = (weight[:size] @ x[:, :n].reshape(size, -1)).view(n, -1)
        logits = logits + (user.mean(0) if gone is None else user.masked_fill(gone, 0).sum(0) / (~gone).sum(0))
    return logits.view(grid)


def encode_rows(
    weights: Tensors,
    history: torch.Tensor,
    candidate: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    noise: Noise = SILENT,
    inner: Noise = SILENT,
) -> torch.Tensor:
    """As `encode`, by few large operations, each over all dimensions of all places, as a GPU wants it.

    In training a third of the operations of `encode`; on a processor several times as slow. O(n X Y d^2 + X Y n^2 d).
    """
    size, n = history.shape[:2]
    grid = torch.broadcast_shapes(history.shape[2:], candidate.shape[1:])  # type: ignore[no-untyped-call]
    parts = history.expand(size, n, *grid), candidate[:, None].expand(size, 1, *grid)
    x = torch.cat(parts, 1).reshape(size, n + 1, -1).permute(2, 1, 0).contiguous()
    gone = None if absent is None else absent.expand(n, *grid).reshape(n, -1).t()
    hidden = None if gone is None else functional.pad(gone, (0, 1))
    for at in range(sum(name.endswith(".query.weight") for name in weights)):
        # not torch's fused attention: it reads tiles of 64 places, and a history has some eight
        query, key, value = heads_of(weights, f"layer.{at}", x, heads)
        mixed = dropout(attention(query, key, hidden), *inner) @ value
        x = apply_rest(weights, f"layer.{at}", x, mixed, rate=noise.rate, generator=noise.generator, inside=inner.rate)
    weight = weights["output.weight"][0]
    logits = x[:, -1] @ weight[-size:] + weights["output.bias"]
    if len(weight) == 2 * size:
        user = x[:, :n] @ weight[:size]
        logits = logits + (user.mean(1) if gone is None else user.masked_fill(gone, 0).sum(1) / (~gone).sum(1))
    return logits.view(grid)


def serve(weights: Mapping[str, torch.Tensor], layout: Layout, view: MarketView, histories: Arrays) -> Parameters:
    """What the network needs to score for one market: its items, its market vector, its users' histories."""
    found = cut(weights, layout, view)
    markets = found.pop("markets", None)
    if markets is not None:
        found["market"] = markets[[one.name for one in layout.views].index(view.name)]
    return found | {name: torch.from_numpy(array).to(found["empty"].device) for name, array in histories.items()}


@network(NAME, costly=True)
def acmr(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Logits of users (B, 1) and items (1, I) or (B, C). O((n + 1) layers d^2) for each pair, n the user's history."""
    vectors = embed(weights, torch.cat([weights["item.vectors"], weights["empty"]]), weights.get("market"))
    weights, nothing, heads = joint(weights), len(weights["item.vectors"]), int(weights["heads"])
    begin = weights["history.start"][user[:, 0]]
    count = weights["history.start"][user[:, 0] + 1] - begin
    logits = vectors.new_empty(torch.broadcast_shapes(user.shape, item.shape))  # type: ignore[no-untyped-call]
    places = PLACES * (ON_GPU if _on_gpu(count) else 1)
    for part, width in by_length(count, places // item.shape[1]):
        past = slots(weights["history.items"], begin[part], count[part], None, width, nothing)
        absent = None if past.absent is None else past.absent[:, :, None]
        history = vectors[:, past.items, None]
        for columns in torch.split(torch.arange(item.shape[1], device=item.device), max(1, places // (width + 1))):
            asked = item[:, columns] if len(item) == 1 else item[part][:, columns]
            logits[part[:, None], columns] = encode(weights, history, vectors[:, asked], absent, heads)
    return logits


def history_of(weights: Arrays, user: int) -> IntArray:
    """The user's history in a stored model: local item codes, ascending; empty where there is none."""
    start_, stop = weights["history.start"][user : user + 2]
    found: IntArray = weights["history.items"][start_:stop]
    return found
