"""Contrast between two views of the same nodes, and the noise that makes views of a graph."""

from __future__ import annotations

import torch
from torch.nn import functional

from cmr_core.models.graph import Graph


def info_nce(
    one: torch.Tensor, two: torch.Tensor, temperature: float, further: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over i of -log(exp(c_ii / t) / (sum_j exp(c_ij / t) + sum_k exp(f_ik / t))), c_ij = cos(one_i, two_j).

    van den Oord et al. 2018; `one` and `two` are (n, D), n at least 1; `further` (n, K) holds cosines of more
    negatives. The positive stands once in the denominator. Memory: n * (n + K) numbers.
    """
    cosines = functional.normalize(one, dim=1) @ functional.normalize(two, dim=1).T
    if further is not None:
        cosines = torch.cat([cosines, further], dim=1)
    return functional.cross_entropy(cosines / temperature, torch.arange(len(one), device=one.device))


def batch_contrast(one: torch.Tensor, two: torch.Tensor, batch: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE among the batch's users plus that among its positive items, each node once (Yu et al. 2022, eq. 3).

    `one` and `two` (N, D) are views of all nodes; `batch` (3, B) is users, positives and negatives.
    """
    among_users, among_items = (
        info_nce(functional.embedding(nodes, one), functional.embedding(nodes, two), temperature)
        for nodes in (different(batch[0]), different(batch[1]))
    )
    return among_users + among_items


def different(nodes: torch.Tensor) -> torch.Tensor:
    """Each number once, ascending."""
    result: torch.Tensor = nodes.unique()  # type: ignore[no-untyped-call]
    return result


def perturbed(x: torch.Tensor, length: float, generator: torch.Generator) -> torch.Tensor:
    """Each row with a random vector of `length` added that lies in the row's own orthant (Yu et al. 2022, eq. 7).

    The gradient passes as through the identity, for the sign of x has none.
    """
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    return x + functional.normalize(noise, dim=1).mul_(x.detach().sign()).mul_(length)


def noisy_layers(
    graph: Graph, x: torch.Tensor, layers: int, length: float, generator: torch.Generator
) -> list[torch.Tensor]:
    """Layers 1 to `layers` (N, D) of a propagation with noise on every layer; differentiable (Yu et al. 2022, eq. 8).

    Costs `layers` sparse products forward and as many backward.
    """
    result = []
    for _ in range(layers):
        x = perturbed(graph.propagate(x), length, generator)
        result.append(x)
    return result
