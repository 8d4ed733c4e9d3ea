"""Pieces of networks as functions of named tensors: tables of vectors, linear layers, towers, dropout.

Names carry the layout: `user.*` has one row per user, `item.*` one per item, everything else belongs to the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn import functional

Parameters = dict[str, torch.Tensor]
_LOW, _HIGH = -(2**63), 2**63 - 1  # all of an int64 but one value


def table(rows: int, dimensions: int, generator: torch.Generator, *, deviation: float = 0.01) -> torch.Tensor:
    """(rows, dimensions) from N(0, deviation), a leaf with gradient on the generator's device."""
    drawn = torch.randn((rows, dimensions), generator=generator, device=generator.device).mul_(deviation)
    return drawn.requires_grad_()


def lookup(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows of a table: (..., dimensions) for `rows` of shape (...)."""
    return functional.embedding(rows, vectors)


def linear(name: str, inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True) -> Parameters:
    """`name.weight` (outputs, inputs), Glorot uniform (Glorot and Bengio 2010), and `name.bias` (outputs,), zero."""
    found = {f"{name}.weight": _uniform((outputs, inputs), (6 / (inputs + outputs)) ** 0.5, generator)}
    if bias:
        found[f"{name}.bias"] = torch.zeros(outputs, device=generator.device, requires_grad=True)
    return found


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return drawn.mul_(2 * bound).sub_(bound).requires_grad_()


def linear_of_torch(name: str, inputs: int, outputs: int, generator: torch.Generator) -> Parameters:
    """As `linear`, drawn as torch.nn.Linear draws: weights and biases uniform within 1 / sqrt(inputs)."""
    shapes = {"weight": (outputs, inputs), "bias": (outputs,)}
    return {f"{name}.{part}": _uniform(shape, inputs**-0.5, generator) for part, shape in shapes.items()}


def tower(name: str, sizes: Sequence[int], generator: torch.Generator) -> Parameters:
    """Linear layers `name.0`, `name.1`, ... between the `sizes`."""
    found: Parameters = {}
    for at, (inputs, outputs) in enumerate(pairwise(sizes)):
        found |= linear(f"{name}.{at}", inputs, outputs, generator)
    return found


def apply_linear(weights: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """The layer `name` on (..., inputs)."""
    return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def apply_pair(weights: Mapping[str, torch.Tensor], name: str, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """The layer `name` on [user; item], whose leading shapes broadcast: (B, 1, d) and (1, I, d) give (B, I, outputs).

    W [u; i] = W_u u + W_i i, so that B + I rows are multiplied and not B * I.
    """
    weight, width = weights[f"{name}.weight"], user.shape[-1]
    own = functional.linear(user, weight[:, :width], weights.get(f"{name}.bias"))
    return own + functional.linear(item, weight[:, width:])


def apply_tower(
    weights: Mapping[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    *,
    first: int = 0,
    rate: float = 0.0,
    generator: torch.Generator | None = None,
    last_relu: bool = True,
) -> torch.Tensor:
    """Layers `name.first`, ... one after the other, each with ReLU (the last one as `last_relu` says) and dropout."""
    at = first
    while f"{name}.{at}.weight" in weights:
        x = apply_linear(weights, f"{name}.{at}", x)
        at += 1
        if last_relu or f"{name}.{at}.weight" in weights:
            x = dropout(functional.relu(x), rate, generator)
    return x


class Noise(NamedTuple):
    """Dropout at `rate`, drawn from `generator`; None as generator is scoring, without dropout."""

    rate: float = 0.0
    generator: torch.Generator | None = None


SILENT = Noise()


def dropout(x: torch.Tensor, rate: float, generator: torch.Generator | None) -> torch.Tensor:
    """Entries set to 0 at `rate`, to 1 / 65536, and the others scaled up; unchanged without a generator, as in scoring.

    PyTorch's own dropout draws from the global generator, which a checkpoint does not hold; its `bernoulli_` takes five
    times as long as comparing 16 bits of a random word for each entry.
    """
    factors = kept(x, rate, generator)
    return x if factors is None else x * factors


def kept(x: torch.Tensor, rate: float, generator: torch.Generator | None) -> torch.Tensor | None:
    """What `dropout` multiplies entries of the shape and type of `x` with: 0 or 1 / (1 - rate); None: nothing."""
    if generator is None or rate == 0:
        return None
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()].view(x.shape)
    limit = min(round(rate * 2**16), 2**16 - 1)
    return (bits >= limit - 2**15).to(x.dtype).mul_(2**16 / (2**16 - limit))
