"""The network of CAT-SR: one transformer layer, asked at the last place only, with adapters on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch.nn import functional

from cmr_core.interfaces import MarketView
from cmr_core.models.pointwise import Layout
from cmr_core.models.towers import Parameters, apply_linear, dropout, table
from cmr_core.models.transformer import apply_norm, apply_rest, attend, layer, norm, split_heads
from cmr_core.spec import Frozen

Context = Literal["before", "others"]


class Network(Frozen):
    """Sizes of the network."""

    dimensions: int
    heads: int
    inner: int
    length: int
    dropout: float


def start(network: Network, n_items: int, generator: torch.Generator, *, adapters: bool) -> Parameters:
    """New parameters: (I + 1) d of `items`, the last row for an empty history, and 50 d + 4 (d^2 + d) + 2 inner d +
    inner + d + 6 d at length 50; 2 (d^2 + d) of adapters, which begin at zero."""
    d = network.dimensions
    weights: Parameters = {
        "items": table(n_items + 1, d, generator, deviation=0.1),
        "positions": table(network.length, d, generator, deviation=0.02),
    }
    weights |= norm("norm", d, generator.device) | layer("layer", d, network.inner, generator)
    if adapters:
        for part in ("query", "key"):
            weights[f"adapter.{part}.weight"] = torch.zeros((d, d), device=generator.device, requires_grad=True)
            weights[f"adapter.{part}.bias"] = torch.zeros(d, device=generator.device, requires_grad=True)
    return weights


def last_vectors(
    weights: Mapping[str, torch.Tensor],
    network: Network,
    codes: torch.Tensor,
    pad: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """(B, d): the layer's output at the last place of `codes` (B, L). Dropout where a generator is given.

    Only the last place asks, so that queries and all that follows cost B places and not B L. Of an empty history the
    last place is present, as `pad`.
    """
    rate = network.dropout
    x = functional.embedding(codes, weights["items"]) + weights["positions"][: codes.shape[1]].flip(0)
    x = dropout(apply_norm(weights, "norm", x), rate, generator)
    absent = codes == pad
    absent[:, -1] = False
    query = _adapted(weights, "query", apply_linear(weights, "layer.query", x[:, -1:]))
    key = _adapted(weights, "key", apply_linear(weights, "layer.key", x))
    query, key, value = (
        split_heads(part, network.heads) for part in (query, key, apply_linear(weights, "layer.value", x))
    )
    mixed = attend(query, key, value, absent, rate=rate, generator=generator)
    return apply_rest(weights, "layer", x[:, -1:], mixed, activation="gelu", rate=rate, generator=generator)[:, 0]


def popularity_weights(
    layout: Layout, views: Sequence[MarketView], weighting: str, alpha: float, beta: float
) -> torch.Tensor | None:
    """(n_items,) weights alpha - tanh(beta (f - 1)) of a pair with the item; None for `none`.

    f is the item's count in the markets' pairs or, `relative`, its share of the mean count. The published code takes
    counts; on 5-core data these are 5 or more, and all weights alike alpha - 1.
    """
    if weighting == "none":
        return None
    counted = np.zeros(layout.n_items)
    for view in views:
        counted[layout.items(view)] += np.bincount(view.train.item, minlength=view.n_items)
    if weighting == "relative":
        counted = counted / counted[counted > 0].mean()
    return torch.from_numpy((alpha - np.tanh(beta * (counted - 1))).astype(np.float32))


def svd_items(layout: Layout, dimensions: int, seed: int) -> np.ndarray:
    """(I + 1, D): right singular vectors of all markets' users x items, times the root of the singular values.

    Rows have a mean square norm of 1; dimensions beyond the matrix's are 0, as is the last row.
    """
    views = layout.views
    user = np.concatenate([layout.users(view)[view.train.user] for view in views])
    item = np.concatenate([layout.items(view)[view.train.item] for view in views])
    matrix = sp.csr_array((np.ones(len(user)), (user, item)), shape=(layout.n_users, layout.n_items))
    rank = min(dimensions, min(matrix.shape) - 1)
    _, size, right = svds(matrix, k=rank, v0=np.random.default_rng(seed).random(min(matrix.shape)))
    found = np.zeros((layout.n_items + 1, dimensions), dtype=np.float32)
    found[:-1, :rank] = right.T * np.sqrt(size)
    found /= np.sqrt((found[:-1] ** 2).sum(axis=1).mean())
    return found


def _adapted(weights: Mapping[str, torch.Tensor], part: str, x: torch.Tensor) -> torch.Tensor:
    name = f"adapter.{part}"
    if f"{name}.weight" not in weights:
        return x
    raised = apply_linear(weights, name, x)
    # ReLU with slope 1 at 0: the adapter begins at exactly 0, where PyTorch's ReLU has slope 0 and would stay there
    return x + torch.where(raised >= 0, raised, 0.0)
