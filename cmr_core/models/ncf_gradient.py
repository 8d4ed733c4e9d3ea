"""Loss and gradient of GMF, MLP and NeuMF on pairs with negatives, written out: those of `ncf` with `pointwise.bce`.

PyTorch's own differentiation gives the same up to rounding and takes longer for networks this small: it fills gradients
of whole tables, asks for products in shapes that the processor's libraries are slow at, and keeps its books.

Vectors come as rows (n + (1 + k) n, D): n users, then their positives, then their first negatives, and so on. Columns
are the branches of the network in alphabetical order: [gmf; mlp] for NeuMF.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from cmr_core.models.neural import Tensors

Kind = Literal["gmf", "mlp", "neumf"]
NARROW = 8  # columns of a product up to which its transpose takes a quarter of the time


def loss_and_gradients(
    kind: Kind, weights: Tensors, rows: torch.Tensor, pairs: int, market: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Mean binary cross-entropy, its gradient by the rows, and by all weights that are no table of users or items.

    `market` (pairs,): rows of the tables `market.*`, which multiply the items' vectors.
    """
    if market is None:
        return _plain(kind, weights, rows, pairs)
    tables = {name: weights[name] for name in sorted(weights) if name.startswith("market.")}
    factors = torch.cat([table.index_select(0, market) for table in tables.values()], dim=1)
    scaled, given = rows.clone(), _by_place(rows[pairs:], pairs)
    _by_place(scaled[pairs:], pairs).mul_(factors)
    loss, slope, gradients = _plain(kind, weights, scaled, pairs)
    items = _by_place(slope[pairs:], pairs)
    by_pair = (items * given).sum(0)
    items.mul_(factors)
    for (name, table), part in zip(tables.items(), by_pair.chunk(len(tables), dim=1), strict=True):
        gradients[name] = torch.zeros_like(table).index_put_((market,), part, accumulate=True)
    return loss, slope, gradients


def _plain(
    kind: Kind, weights: Tensors, rows: torch.Tensor, pairs: int
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    slope, gradients = torch.empty_like(rows), dict[str, torch.Tensor]()
    width = rows.shape[1] // (2 if kind == "neumf" else 1)
    shallow, deep = slice(0, width), slice(-width, None)
    out, inner = weights["out.weight"][0], 0 if kind == "gmf" else weights["out.weight"].shape[1] - width
    inner = len(out) if kind == "mlp" else inner
    logits = weights["out.bias"]
    if kind != "gmf":
        layers = _tower(weights, rows[:, deep], pairs)
        logits = torch.addmv(logits, layers[-1], out[:inner]).view(-1, pairs)
    if kind != "mlp":
        own, other = rows[:pairs, shallow], _by_place(rows[pairs:, shallow], pairs)
        weighted = own * out[inner:]
        logits = torch.mul(weighted, other).sum(-1).add_(logits)
    loss, error = _cross_entropy(logits)
    parts = []
    if kind != "gmf":
        parts.append(layers[-1].t() @ error.view(-1))
        _tower_back(weights, layers, torch.outer(out[:inner], error.view(-1)).t(), rows, slope, pairs, deep, gradients)
    if kind != "mlp":
        torch.mul(error[..., None], weighted, out=_by_place(slope[pairs:, shallow], pairs))
        carried = (error[..., None] * other).sum(0)
        torch.mul(carried, out[inner:], out=slope[:pairs, shallow])
        parts.append(carried.mul_(own).sum(0))
    gradients["out.weight"], gradients["out.bias"] = torch.cat(parts)[None], error.sum().view(1)
    return loss, slope, gradients


def _tower(weights: Tensors, vectors: torch.Tensor, pairs: int) -> list[torch.Tensor]:
    """The outputs of each layer: (examples, units). The first one multiplies users once, and not for each example."""
    weight, width = weights["tower.0.weight"], vectors.shape[1]
    own = torch.addmm(weights["tower.0.bias"], vectors[:pairs], weight[:, :width].t())
    layer = product(vectors[pairs:], weight[:, width:].t())
    _by_place(layer, pairs).add_(own)
    layers = [layer.relu_()]
    while (name := f"tower.{len(layers)}.weight") in weights:
        layers.append(affine(layers[-1], weights[name].t(), weights[f"tower.{len(layers)}.bias"]).relu_())
    return layers


def _tower_back(
    weights: Tensors,
    layers: list[torch.Tensor],
    change: torch.Tensor,
    rows: torch.Tensor,
    slope: torch.Tensor,
    pairs: int,
    deep: slice,
    gradients: dict[str, torch.Tensor],
) -> None:
    """From the gradient `change` of the last layer to those of all layers and of the vectors, which go into `slope`."""
    for at in range(len(layers) - 1, -1, -1):
        change = torch.ops.aten.threshold_backward(change, layers[at], 0)  # what ReLU has set to 0 has no gradient
        if at:
            gradients[f"tower.{at}.weight"] = product(change.t(), layers[at - 1])
            gradients[f"tower.{at}.bias"] = change.sum(0)
            change = product(change, weights[f"tower.{at}.weight"])
    width = slope[:, deep].shape[1]
    weight, own = weights["tower.0.weight"], _by_place(change, pairs).sum(0)
    sides = [product(own.t(), rows[:pairs, deep]), product(change.t(), rows[pairs:, deep])]
    gradients["tower.0.weight"], gradients["tower.0.bias"] = torch.cat(sides, dim=1), own.sum(0)
    slope[:pairs, deep] = product(own, weight[:, :width])
    slope[pairs:, deep] = product(change, weight[:, width:])


def _cross_entropy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pointwise.bce` of logits (1 + k, n), positives first, and its gradient."""
    scale = 1 / logits.numel()
    loss = functional.softplus(logits).sum().sub_(logits[0].sum()).mul_(scale)  # softplus(-x) = softplus(x) - x
    error = torch.sigmoid(logits)
    error[0] -= 1
    return loss, error.mul_(scale)


def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """one @ other, of matrices of which one is long."""
    if other.shape[1] <= NARROW < one.shape[0]:
        return (other.t() @ one.t()).t()
    return one @ other


def affine(one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """one @ other + bias, as `product`."""
    if other.shape[1] <= NARROW < one.shape[0]:
        return torch.addmm(bias[:, None], other.t(), one.t()).t()
    return torch.addmm(bias, one, other)


def _by_place(examples: torch.Tensor, pairs: int) -> torch.Tensor:
    """(1 + k, pairs, D)"""
    return examples.view(-1, pairs, examples.shape[1])
