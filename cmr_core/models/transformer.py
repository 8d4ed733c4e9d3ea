"""Transformer encoder layers (Vaswani et al. 2017; norms after the sums) as functions of named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch.nn import functional

from cmr_core.models.towers import Parameters, apply_linear, dropout, linear, linear_of_torch

Activation = Literal["relu", "gelu"]


def norm(name: str, dimensions: int, device: str | torch.device) -> Parameters:
    """The 2 * dimensions scalars of a layer normalisation."""
    return {
        f"{name}.scale": torch.ones(dimensions, device=device, requires_grad=True),
        f"{name}.shift": torch.zeros(dimensions, device=device, requires_grad=True),
    }


def apply_norm(weights: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """Layer normalisation over the last dimension."""
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.scale"], weights[f"{name}.shift"])


def layer(name: str, dimensions: int, inner: int, generator: torch.Generator) -> Parameters:
    """One encoder layer: 4 d^2 + 4 d for attention, 2 d inner + d + inner for the two linear maps, 4 d for the norms.

    With inner = 4 d that is 12 d^2 + 13 d.
    """
    parts = [linear(f"{name}.{part}", dimensions, dimensions, generator) for part in ("query", "key", "value", "out")]
    parts.append(linear(f"{name}.up", dimensions, inner, generator))
    parts.append(linear(f"{name}.down", inner, dimensions, generator))
    parts += [norm(f"{name}.{part}", dimensions, generator.device) for part in ("norm1", "norm2")]
    return {key: value for part in parts for key, value in part.items()}


def layers(count: int, dimensions: int, inner: int, generator: torch.Generator) -> Parameters:
    """Encoder layers `layer.0`, `layer.1`, ..., each drawn by itself."""
    found: Parameters = {}
    for at in range(count):
        found |= layer(f"layer.{at}", dimensions, inner, generator)
    return found


def layers_of_torch(count: int, dimensions: int, inner: int, generator: torch.Generator) -> Parameters:
    """As `layers`, with the first weights of torch.nn.TransformerEncoder: one layer drawn, the others its copies.

    Beside Glorot's rule the maps back onto the sums are .58 (`out`) and .46 times (`down`) as large, so that a place
    keeps more of itself from layer to layer; queries, keys and values .71 times, `up` .91 times.
    """
    found: Parameters = {}
    drawn = layer("layer.0", dimensions, inner, generator)
    drawn |= linear_of_torch("layer.0.out", dimensions, dimensions, generator)
    drawn |= linear_of_torch("layer.0.up", dimensions, inner, generator)
    drawn |= linear_of_torch("layer.0.down", inner, dimensions, generator)
    with torch.no_grad():
        drawn["layer.0.out.bias"].zero_()
        for part in ("query", "key", "value"):  # Glorot's rule for the three as one map of 3 d outputs
            drawn[f"layer.0.{part}.weight"].mul_(0.5**0.5)
        for at in range(count):
            for name, value in drawn.items():
                found[name.replace("layer.0", f"layer.{at}", 1)] = value.clone().requires_grad_()
    return found


def apply_layer(
    weights: Mapping[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    *,
    activation: Activation = "relu",
    rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """One layer on (B, L, d); `absent` (B, L) bool marks places that nobody attends to, at least one must be present.

    O(B L d^2 + B L^2 d).
    """
    mixed = apply_attention(weights, name, x, absent, heads, rate=rate, generator=generator)
    return apply_rest(weights, name, x, mixed, activation=activation, rate=rate, generator=generator)


def apply_attention(
    weights: Mapping[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    *,
    rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The first half of a layer: what its heads bring to each place, (B, heads, L, d / heads)."""
    return attend(*heads_of(weights, name, x, heads), absent, rate=rate, generator=generator)


def heads_of(
    weights: Mapping[str, torch.Tensor], name: str, x: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of all heads, (B, heads, L, d / heads) each."""
    query, key, value = (split_heads(apply_linear(weights, f"{name}.{p}", x), heads) for p in ("query", "key", "value"))
    return query, key, value


def apply_rest(
    weights: Mapping[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    mixed: torch.Tensor,
    *,
    activation: Activation = "relu",
    rate: float = 0.0,
    generator: torch.Generator | None = None,
    inside: float | None = None,
) -> torch.Tensor:
    """The second half: places `x` (B, L, d) and what was brought to them, `mixed` (B, heads, L, d / heads).

    A last layer of which only some places are used pays for these only. `inside`: dropout between the inner maps,
    where it is another than `rate`.
    """
    out = apply_linear(weights, f"{name}.out", mixed.transpose(1, 2).flatten(2))
    x = apply_norm(weights, f"{name}.norm1", x + dropout(out, rate, generator))
    raised = apply_linear(weights, f"{name}.up", x)
    raised = functional.gelu(raised) if activation == "gelu" else functional.relu(raised)
    lowered = apply_linear(weights, f"{name}.down", dropout(raised, rate if inside is None else inside, generator))
    return apply_norm(weights, f"{name}.norm2", x + dropout(lowered, rate, generator))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    absent: torch.Tensor | None,
    *,
    rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Softmax attention of heads (B, heads, L, d / heads), with dropout on its weights; queries may be fewer."""
    if generator is None or rate == 0:
        mask = None if absent is None else ~absent[:, None, None, :]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return dropout(attention(query, key, absent), rate, generator) @ value


def attention(query: torch.Tensor, key: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """Attention weights (B, heads, L, L); rows sum to 1."""
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    if absent is not None:
        scores = scores.masked_fill(absent[:, None, None, :], -torch.inf)
    return torch.softmax(scores, dim=3)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, L, d) as (B, heads, L, d / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
