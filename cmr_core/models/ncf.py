"""Networks of neural collaborative filtering (He et al., WWW 2017): their parameters and their logits.

GMF: w · (p ⊙ q) + b. MLP: a tower over [p; q], then w · h + b. NeuMF: both, each with tables of its own, under one
output layer over [MLP; GMF]. Scores are logits: the sigmoid of He et al. changes no ranking and saturates.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from cmr_core.models.neural import Tensors, network
from cmr_core.models.towers import Parameters, apply_linear, apply_pair, apply_tower, linear, lookup, table, tower
from cmr_core.spec import Frozen

LAYERS = 4


class Sizes(Frozen):
    """Rows of the tables, length of the vectors, and units of the tower's first layer; each next layer has half."""

    users: int
    items: int
    dimensions: int
    units: int

    @property
    def tower(self) -> tuple[int, ...]:
        """Units from the input [p; q] to the tower's end, (2d, 64, 32, 16, 8) in the published form."""
        return (2 * self.dimensions, *(max(1, self.units >> at) for at in range(LAYERS)))


def gmf_start(sizes: Sizes, generator: torch.Generator) -> Parameters:
    """(users + items) * d + d + 1 parameters."""
    return {
        "user.gmf": table(sizes.users, sizes.dimensions, generator),
        "item.gmf": table(sizes.items, sizes.dimensions, generator),
        **linear("out", sizes.dimensions, 1, generator),
    }


def mlp_start(sizes: Sizes, generator: torch.Generator) -> Parameters:
    """(users + items) * d + 3,841 parameters at d = 8 and 64 units."""
    return {
        "user.mlp": table(sizes.users, sizes.dimensions, generator),
        "item.mlp": table(sizes.items, sizes.dimensions, generator),
        **tower("tower", sizes.tower, generator),
        **linear("out", sizes.tower[-1], 1, generator),
    }


def neumf_start(sizes: Sizes, generator: torch.Generator) -> Parameters:
    """2 * (users + items) * d + 3,849 parameters at d = 8 and 64 units."""
    return {
        **gmf_start(sizes, generator),
        **mlp_start(sizes, generator),
        **linear("out", sizes.tower[-1] + sizes.dimensions, 1, generator),
    }


@network("gmf")
def gmf(weights: Tensors, user: torch.Tensor, item: torch.Tensor, market: torch.Tensor | None = None) -> torch.Tensor:
    """`market`, of the shape of `user`: items' vectors are multiplied by that row of the table `market.gmf`."""
    own, other = vectors(weights, "gmf", user, item, market)
    return inner(own * weights["out.weight"], other) + weights["out.bias"]


@network("mlp")
def mlp(weights: Tensors, user: torch.Tensor, item: torch.Tensor, market: torch.Tensor | None = None) -> torch.Tensor:
    """`market` as in `gmf`, of the table `market.mlp`."""
    return apply_linear(weights, "out", mlp_hidden(weights, user, item, market)).squeeze(-1)


@network("neumf")
def neumf(weights: Tensors, user: torch.Tensor, item: torch.Tensor, market: torch.Tensor | None = None) -> torch.Tensor:
    """`market` as in `gmf` and `mlp`."""
    hidden = mlp_hidden(weights, user, item, market)
    width = hidden.shape[-1]
    weight = weights["out.weight"]
    deep = functional.linear(hidden, weight[:, :width], weights["out.bias"]).squeeze(-1)
    own, other = vectors(weights, "gmf", user, item, market)
    return deep + inner(own * weight[:, width:], other)


def mlp_hidden(
    weights: Tensors, user: torch.Tensor, item: torch.Tensor, market: torch.Tensor | None = None
) -> torch.Tensor:
    """What the tower makes of each pair: (..., last units)."""
    own, other = vectors(weights, "mlp", user, item, market)
    return apply_tower(weights, "tower", functional.relu(apply_pair(weights, "tower.0", own, other)), first=1)


def vectors(
    weights: Tensors, branch: str, user: torch.Tensor, item: torch.Tensor, market: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Users' and items' vectors of a branch: (..., d) each, for codes of shape (...)."""
    own, other = lookup(weights[f"user.{branch}"], user), lookup(weights[f"item.{branch}"], item)
    return own, other if market is None else other * lookup(weights[f"market.{branch}"], market)


def inner(user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Inner products (P, C) of (P, 1, d) with (P, C, d), or (B, I) of (B, 1, d) with (1, I, d)."""
    if len(item) == 1:
        return user[:, 0] @ item[0].T
    return (user * item).sum(-1)
