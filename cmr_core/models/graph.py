"""The user-item graph of one market or of several, and LightGCN's propagation on it.

The normalised adjacency A = D^-1/2 A D^-1/2 is symmetric, so P(A) = mean(I, A, ..., A^L) is symmetric too and
the gradient of P(A) x is P(A) applied to the incoming gradient: no transpose, nothing kept between the passes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional

from cmr_core.interfaces import FloatArray, IntArray, MarketView, Task

WIDE = 256  # columns beyond which a processor multiplies them in blocks that stay in its cache: 1.5 times as fast
BLOCK = 32
SEGMENT = 32  # entries of a row that a GPU adds up in one go; a row of 3,000 then takes 32 + 94 additions in order
CELLS = 1 << 27  # products held at once on a GPU: 512 MiB of float32


@dataclass(frozen=True)
class Graph:
    """A bipartite graph: user nodes first, item nodes after. Edges hold training pairs only, each once.

    Memory: 2 E values and indices, E the number of pairs.
    """

    matrix: torch.Tensor  # (N, N) sparse CSR float32, symmetric normalised, on its device
    degree: FloatArray  # (N,) float32, before normalisation

    @property
    def n_nodes(self) -> int:
        """Users and items."""
        return len(self.degree)

    @property
    def device(self) -> torch.device:
        """Where the matrix lies."""
        return self.matrix.device

    def propagate(self, x: torch.Tensor) -> torch.Tensor:
        """A x, (N, D); differentiable. One sparse product, O(E D)."""
        result: torch.Tensor = _Polynomial.apply(x, self, 1, False)  # type: ignore[no-untyped-call]
        return result

    def mean_layers(self, x: torch.Tensor, layers: int) -> torch.Tensor:
        """(x + A x + ... + A^layers x) / (layers + 1), (N, D); differentiable (LightGCN, He et al. 2020, eq. 8).

        `layers` sparse products forward and as many backward.
        """
        result: torch.Tensor = _Polynomial.apply(x, self, layers, True)  # type: ignore[no-untyped-call]
        return result

    def mean_neighbours(self, x: torch.Tensor, layers: int) -> torch.Tensor:
        """(A x + ... + A^layers x) / layers, (N, D), for one layer or more; differentiable.

        LightGCN without layer 0, as in SimGCL (Yu et al. 2022). `layers` sparse products forward and as many backward.
        """
        return self.propagate(self.mean_layers(x, layers - 1))

    def ordered_product(self, x: torch.Tensor) -> torch.Tensor:
        """A x, (N, D), each sum in the same order every time; what a GPU does.

        cuSPARSE's own product, which torch calls there, adds what its threads bring in the order in which they end: the
        same seed would give another model. Here a row's entries are added SEGMENT by SEGMENT, and then these sums.
        O(E D), in blocks of columns that hold CELLS numbers.
        """
        begin, first = self._segments
        values, column = self.matrix.values()[:, None], self.matrix.col_indices()
        result = torch.empty_like(x)
        width = max(1, CELLS // max(1, len(column)))
        for left in range(0, x.shape[1], width):
            block = slice(left, left + width)
            sums = torch.segment_reduce(values * x[column, block], "sum", offsets=begin, unsafe=True)
            result[:, block] = torch.segment_reduce(sums, "sum", offsets=first, unsafe=True)
        return result

    @cached_property
    def _segments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where segments begin among the entries, (S + 1,), and rows among the segments, (N + 1,)."""
        start = self.matrix.crow_indices().long()
        parts = -(-start.diff() // SEGMENT)
        first = functional.pad(parts.cumsum(0), (1, 0))
        row = torch.repeat_interleave(parts)
        begin = start[row] + SEGMENT * (torch.arange(len(row), device=row.device) - first[row])
        return functional.pad(begin, (0, 1), value=int(start[-1])), first


class _Polynomial(torch.autograd.Function):
    """x -> p(A) x for a symmetric A; the backward is the same map."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, graph: Graph, power: int, mean: bool) -> torch.Tensor:
        ctx.rule = (graph, power, mean)
        return _polynomial(x.detach(), graph, power, mean)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _polynomial(gradient[0].contiguous(), *ctx.rule), None, None, None


def _polynomial(x: torch.Tensor, graph: Graph, power: int, mean: bool) -> torch.Tensor:
    if power < 2 or x.shape[1] <= WIDE or x.device.type != "cpu":
        return _powers(x, graph, power, mean)
    result = torch.empty_like(x)
    for columns in range(0, x.shape[1], BLOCK):
        block = slice(columns, columns + BLOCK)
        result[:, block] = _powers(x[:, block].contiguous(), graph, power, mean)
    return result


def _powers(x: torch.Tensor, graph: Graph, power: int, mean: bool) -> torch.Tensor:
    layer = x
    for _ in range(power):
        if x.is_cuda:
            layer = graph.ordered_product(layer)
            layer = layer.add_(x) if mean else layer
        else:
            # The mean as x + A (x + A (x + ...)): the sum is made inside the product, without a pass of its own.
            layer = torch.addmm(x, graph.matrix, layer) if mean else graph.matrix @ layer
    if not mean:
        return layer
    return layer.div_(power + 1) if power else layer.clone()  # in place, unless it is the caller's own


def build_graph(user: IntArray, item: IntArray, n_nodes: int, device: str | torch.device) -> Graph:
    """The graph with edges user[e] - item[e], both given as node numbers. Nodes without edges get zero rows.

    A pair that occurs twice counts once.
    """
    row, column = np.concatenate([user, item]), np.concatenate([item, user])
    ones = np.ones(len(row), dtype=np.float32)
    adjacency = sp.csr_array((ones, (row, column)), shape=(n_nodes, n_nodes))
    adjacency.sum_duplicates()
    adjacency.data[:] = 1
    degree = np.diff(adjacency.indptr).astype(np.float32)
    scale = 1 / np.sqrt(np.maximum(degree, 1))
    values = scale[np.repeat(np.arange(n_nodes), np.diff(adjacency.indptr))] * scale[adjacency.indices]
    with warnings.catch_warnings():
        # Torch says once per process that its CSR layout is in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(adjacency.indptr.astype(np.int32)),
            torch.from_numpy(adjacency.indices.astype(np.int32)),
            torch.from_numpy(values.astype(np.float32)),
            (n_nodes, n_nodes),
            check_invariants=False,
        ).to(device)
    return Graph(matrix, degree)


def market_graph(view: MarketView, device: str | torch.device) -> Graph:
    """Nodes: the market's users, then its catalogue, both in local codes."""
    return build_graph(view.train.user, view.train.item + view.n_users, view.n_users + view.n_items, device)


@dataclass(frozen=True)
class CombinedGraph:
    """All markets of a task in one graph. Nodes: users market by market in name order, then all items."""

    graph: Graph
    markets: tuple[MarketView, ...]
    n_items: int

    @cached_property
    def user_offset(self) -> dict[str, int]:
        """Node of each market's user 0."""
        sizes = np.cumsum([0, *(market.n_users for market in self.markets)])
        return {market.name: int(start) for market, start in zip(self.markets, sizes, strict=False)}

    @property
    def item_offset(self) -> int:
        """Node of the global item 0; also the number of users."""
        return sum(market.n_users for market in self.markets)

    def users(self, market: MarketView) -> IntArray:
        """Nodes of the market's users, in local order."""
        return np.arange(market.n_users) + self.user_offset[market.name]

    def items(self, market: MarketView) -> IntArray:
        """Nodes of the market's catalogue, in local order."""
        return np.asarray(market.catalogue).astype(np.int64) + self.item_offset


def combined_graph(task: Task, device: str | torch.device) -> CombinedGraph:
    """The training pairs of the target and of all sources over the shared item vocabulary."""
    markets = task.markets
    offsets = np.cumsum([0, *(market.n_users for market in markets)])
    n_users = int(offsets[-1])
    user = np.concatenate([m.train.user.astype(np.int64) + o for m, o in zip(markets, offsets, strict=False)])
    item = np.concatenate([m.catalogue[m.train.item].astype(np.int64) + n_users for m in markets])
    return CombinedGraph(build_graph(user, item, n_users + task.n_items, device), markets, task.n_items)
