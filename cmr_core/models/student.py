"""The student of DCMPT: frozen features of a graph, changed by prompts (or freely, as an ablation), and propagated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp
import torch

from cmr_core.interfaces import IntArray
from cmr_core.models.graph import Graph
from cmr_core.models.prompts import Init, Parameters, PromptShape, attention, basis, describe, initial

Propagation = Literal["fast", "naive"]


@dataclass(frozen=True)
class Field:
    """A graph, its frozen layer-0 features, and the nodes that may be changed: a market's users, then its items."""

    graph: Graph
    features: torch.Tensor  # (N, D)
    users: IntArray  # nodes of the market's users, in local order
    items: IntArray  # nodes of the market's catalogue, in local order
    layers: int

    @property
    def nodes(self) -> torch.Tensor:
        """Users, then items: (n,)."""
        return torch.from_numpy(np.concatenate([self.users, self.items])).to(self.features.device)


class Student(Protocol):
    """Vectors of a market's users and items as a function of trained parameters."""

    n_users: int

    def initial(self, generator: torch.Generator) -> Parameters:
        """Parameters to start from."""

    def changes(self, parameters: Parameters) -> list[torch.Tensor]:
        """What is added at the input of each propagation step, to the market's nodes: (n, D) each."""

    def tables(self, parameters: Parameters, propagation: Propagation = "fast") -> torch.Tensor:
        """Propagated vectors of the market's users and items, (n, D); differentiable."""

    def describe(self, parameters: Parameters) -> dict[str, float]:
        """Figures that tell what the parameters do."""


class _Linear:
    """Propagation of changes on a field: H(X + C) = H(X) + H(C); H(X) is computed once.

    Only what reaches the market's nodes is kept: a path of L steps that begins and ends there never leaves their
    floor(L / 2) neighbourhood, so the changes are propagated on that part of the graph, with no loss.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.n_users = len(field.users)
        self.frozen = field.graph.mean_layers(field.features, field.layers)[field.nodes]
        self.inner = neighbourhood(field.graph, field.nodes.cpu().numpy(), field.layers // 2)

    def spread(self, change: torch.Tensor, layer: int) -> torch.Tensor:
        """What a change at the input of step `layer` + 1 adds to the result: (n, C) -> (n, C)."""
        steps = self.field.layers - layer
        padded = torch.cat([change, change.new_zeros(self.inner.n_nodes - len(change), change.shape[1])])
        result = self.inner.mean_layers(padded, steps)[: len(change)]
        return result if layer == 0 else result * ((steps + 1) / (self.field.layers + 1))

    def naive(self, changes: list[torch.Tensor]) -> torch.Tensor:
        """H(X + C) by propagating all features of the whole graph: the oracle of the fast way."""
        return torch.stack(layers(self.field, changes)).mean(0)[self.field.nodes]


class Prompted(_Linear):
    """Prompts on the market's nodes. A step costs O(E min(W, D)) per propagation, W the attention's width.

    Features of prompted layers above the first are A^l X without prompts, which keeps the map linear.
    """

    def __init__(self, field: Field, shape: PromptShape, init: Init) -> None:
        super().__init__(field)
        self.shape, self._init = shape, init
        self._inputs = [field.features[field.nodes]]
        current = field.features
        for _ in range(1, shape.layers):
            current = field.graph.propagate(current)
            self._inputs.append(current[field.nodes])

    def initial(self, generator: torch.Generator) -> Parameters:
        """As `prompts.initial`."""
        return initial(self.shape, self._init, generator)

    def changes(self, parameters: Parameters) -> list[torch.Tensor]:
        """One prompt per node and prompted layer."""
        return [
            attention(features, parameters, layer, self.n_users) @ basis(parameters, layer)
            for layer, features in enumerate(self._inputs)
        ]

    def attention(self, parameters: Parameters) -> torch.Tensor:
        """How much each user, then each item, takes of each prompt of the first layer: (n, W), rows sum to 1."""
        return attention(self._inputs[0], parameters, 0, self.n_users)

    def tables(self, parameters: Parameters, propagation: Propagation = "fast") -> torch.Tensor:
        """Propagates the attention where it is narrower than the features, else the prompts; equal up to rounding."""
        if propagation == "naive":
            return self.naive(self.changes(parameters))
        result = self.frozen
        for layer, features in enumerate(self._inputs):
            weights, bases = attention(features, parameters, layer, self.n_users), basis(parameters, layer)
            if self.shape.width < self.shape.dimensions:
                result = torch.addmm(result, self.spread(weights, layer), bases)
            else:
                result = result + self.spread(weights @ bases, layer)
        return result

    def describe(self, parameters: Parameters) -> dict[str, float]:
        """Attention entropy and norm of the centred prompt at layer 0."""
        return describe(self._inputs[0], parameters, self.n_users)


class Unfrozen(_Linear):
    """All features of the market's nodes are trained, beginning at the backbone's: full fine-tuning."""

    def initial(self, generator: torch.Generator) -> Parameters:
        """No change."""
        return {"shift": torch.zeros_like(self.field.features[self.field.nodes]).requires_grad_()}

    def changes(self, parameters: Parameters) -> list[torch.Tensor]:
        """The shift of layer 0."""
        return [parameters["shift"]]

    def tables(self, parameters: Parameters, propagation: Propagation = "fast") -> torch.Tensor:
        """Propagates the shift."""
        if propagation == "naive":
            return self.naive(self.changes(parameters))
        return self.frozen + self.spread(parameters["shift"], 0)

    def describe(self, parameters: Parameters) -> dict[str, float]:
        """Mean norm of the shift."""
        return {"shift norm": float(parameters["shift"].detach().norm(dim=1).mean())}


def layers(field: Field, changes: list[torch.Tensor]) -> list[torch.Tensor]:
    """z^0 .. z^L of all nodes, z^l = A z^(l-1) + c_l, with the changes c_l at the market's nodes. L N x D products."""
    found: list[torch.Tensor] = []
    for layer in range(field.layers + 1):
        current = field.features if layer == 0 else field.graph.propagate(found[-1])
        found.append(current.index_add(0, field.nodes, changes[layer]) if layer < len(changes) else current)
    return found


def neighbourhood(graph: Graph, nodes: IntArray, steps: int) -> Graph:
    """The part of the graph within `steps` of `nodes`, which come first, in their order; weights unchanged."""
    matrix = graph.matrix.cpu()
    parts = (matrix.values().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy())
    whole = sp.csr_array(parts, shape=tuple(matrix.shape))
    near = np.zeros(graph.n_nodes, dtype=np.float32)
    near[nodes] = 1
    for _ in range(steps):
        near = ((near + whole @ near) > 0).astype(np.float32)
    near[nodes] = 0
    kept = np.concatenate([nodes, np.flatnonzero(near)])
    inner = sp.csr_array(whole[kept][:, kept])
    inner.sort_indices()
    cut = torch.sparse_csr_tensor(
        torch.from_numpy(inner.indptr.astype(np.int32)),
        torch.from_numpy(inner.indices.astype(np.int32)),
        torch.from_numpy(inner.data),
        inner.shape,
        check_invariants=False,
    )
    return Graph(cut.to(graph.device), graph.degree[kept])
