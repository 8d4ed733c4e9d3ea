"""Prompts on the features of a frozen graph network (DCMPT, Zhang et al., AAAI 2026), and their fast propagation.

A node with features x gets the prompt psi = alpha P with alpha = softmax(x A'): M bases P, M attention vectors A.
The network is linear in its features: H(X + alpha P) = H(X) + H(alpha) P. H(X) is computed once; a training step
propagates the N x M matrix alpha instead of N x D features. Nothing here holds for dropout on edges, for a
non-linearity between layers, or for attention over features that already carry prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

Parameters = dict[str, torch.Tensor]
Init = Literal["zero", "glorot"]


@dataclass(frozen=True)
class PromptShape:
    """How many prompts there are. `sets`: 1 shared by all nodes, 2 for users and items. `layers`: prompted layers."""

    prompts: int
    dimensions: int
    sets: int = 1
    layers: int = 1
    bias: bool = False

    @property
    def width(self) -> int:
        """Columns of the attention matrix."""
        return self.sets * self.prompts

    @property
    def count(self) -> int:
        """Trained scalars: layers x sets x M x (2 D + bias)."""
        return self.layers * self.width * (2 * self.dimensions + self.bias)


def initial(shape: PromptShape, init: Init, generator: torch.Generator) -> Parameters:
    """`attention` and `basis` (layers, sets, M, D) and, with a bias, `bias` (layers, sets, M).

    Attention is Glorot uniform. Bases are zero, so that training starts at the backbone, or Glorot uniform too.
    """
    size = (shape.layers, shape.sets, shape.prompts, shape.dimensions)
    bound = math.sqrt(6 / (shape.prompts + shape.dimensions))

    def glorot() -> torch.Tensor:
        return torch.rand(size, generator=generator, device=generator.device).mul_(2 * bound).sub_(bound)

    parameters = {"attention": glorot()}
    parameters["basis"] = glorot() if init == "glorot" else torch.zeros(size, device=generator.device)
    if shape.bias:
        parameters["bias"] = torch.zeros(size[:-1], device=generator.device)
    return {name: value.requires_grad_() for name, value in parameters.items()}


def attention(features: torch.Tensor, parameters: Parameters, layer: int, n_users: int) -> torch.Tensor:
    """Rows of weights that sum to 1, (N, sets * M), of N nodes with frozen `features` (N, D), users first.

    With two sets a user's row is zero in the columns of the items' set, and the other way round.
    """
    weights = parameters["attention"][layer]
    bias = parameters["bias"][layer] if "bias" in parameters else weights.new_zeros(weights.shape[:2])
    if len(weights) == 1:
        return torch.softmax(torch.addmm(bias[0], features, weights[0].T), dim=1)
    users, items = (
        torch.softmax(torch.addmm(bias[side], part, weights[side].T), dim=1)
        for side, part in enumerate((features[:n_users], features[n_users:]))
    )
    result: torch.Tensor = torch.block_diag(users, items)  # type: ignore[no-untyped-call]
    return result


def basis(parameters: Parameters, layer: int) -> torch.Tensor:
    """The bases of a layer, (sets * M, D), in the order of the attention's columns."""
    return parameters["basis"][layer].flatten(0, 1)


@torch.no_grad()
def describe(features: torch.Tensor, parameters: Parameters, n_users: int) -> dict[str, float]:
    """How far layer-0 prompts tell nodes apart: attention entropy (1: uniform) and mean norm of the centred prompt.

    Where every node gets the same prompt, rankings hardly change, whatever the norm of the bases.
    """
    weights = attention(features, parameters, 0, n_users)
    n_prompts = parameters["attention"].shape[2]
    entropy = -torch.xlogy(weights, weights).sum(1).mean() / math.log(n_prompts) if n_prompts > 1 else torch.zeros(())
    prompt = weights @ basis(parameters, 0)
    centred = (prompt - prompt.mean(0)).norm(dim=1).mean()
    return {"attention entropy": float(entropy), "centred prompt norm": float(centred)}
