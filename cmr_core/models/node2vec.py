"""node2vec (Grover and Leskovec, KDD 2016) with p = q = 1: vectors of a weighted graph's nodes from random walks.

All walks of an epoch's batch are trained at once: what a position predicts is a band of the walk's table of inner
products, and the negatives are drawn once for the batch. The objective is that of skip-gram with negative sampling
(Mikolov et al., NIPS 2013), with a hundredth of the memory traffic of pair after pair.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional

from cmr_core.interfaces import FloatArray, IntArray, Monitor
from cmr_core.spec import Frozen
from cmr_core.training.checkpoint import adam
from cmr_core.training.loop import Schedule, train

STAGE = "node2vec"
SHARED = 64  # negatives that the positions of a step share; a draw of five for each pair costs far more


class Walking(Frozen):
    """Everything that decides the vectors, beside graph, seed and device."""

    dimensions: int
    walks: int  # from each node
    length: int  # nodes per walk
    window: int  # steps before and after
    negatives: int  # per predicted node
    batch: int  # walks per step
    learning_rate: float
    epochs: int


def node2vec(graph: sp.csr_array, walking: Walking, generator: torch.Generator, monitor: Monitor) -> FloatArray:
    """Vectors (n, D) float32 of the nodes of a symmetric graph (n, n) with positive weights and an empty diagonal.

    Nodes without edges get zeros. Reports the stage `node2vec`; raises as `training.loop.train`. Cost of an epoch:
    walks x length x (length + SHARED) x D; memory: all walks, and per step batch x length x (length + SHARED).
    """
    n, device = graph.shape[0], generator.device
    known = np.flatnonzero(np.diff(graph.indptr))
    if not len(known):
        return np.zeros((n, walking.dimensions), dtype=np.float32)
    walks = random_walks(graph, np.repeat(known, walking.walks), walking.length, generator)
    noise = torch.bincount(walks.flatten(), minlength=n).double() ** 0.75
    inner = (torch.rand((n, walking.dimensions), generator=generator, device=device) - 0.5) / walking.dimensions
    outer = torch.zeros_like(inner)
    tables = {"inner": inner.requires_grad_(), "outer": outer.requires_grad_()}
    model = adam(tables, walking.learning_rate, generator)

    def step(batch: torch.Tensor) -> torch.Tensor:
        drawn = torch.multinomial(noise, SHARED, replacement=True, generator=generator)
        loss = skip_gram(inner, outer, batch, drawn, walking.window, walking.negatives)
        model.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        model.optimizer.step()
        return loss.detach() * len(batch)

    def epoch() -> dict[str, float]:
        order = torch.randperm(len(walks), generator=generator, device=device)
        losses = [step(walks[rows]) for rows in torch.split(order, walking.batch)]
        return {"loss": float(torch.stack(losses).sum()) / len(walks)}

    # nothing to judge by: all epochs are run
    trained = train(STAGE, model, epoch, lambda: float("nan"), monitor, Schedule(walking.epochs))
    vectors: FloatArray = trained.best["inner"].cpu().numpy()
    vectors[np.diff(graph.indptr) == 0] = 0
    return vectors


def random_walks(graph: sp.csr_array, starts: IntArray, length: int, generator: torch.Generator) -> torch.Tensor:
    """Nodes (len(starts), length) int64 of walks that take each edge in proportion to its weight.

    `graph` is square and symmetric, of positive weights; every start has an edge. Each step is one binary search in
    the running sum of all weights: O(walks log edges).
    """
    device = generator.device
    bounds = torch.from_numpy(graph.indptr.astype(np.int64)).to(device)
    target = torch.from_numpy(graph.indices.astype(np.int64)).to(device)
    running = torch.from_numpy(np.concatenate([[0.0], np.cumsum(graph.data, dtype=np.float64)])).to(device)
    walk = [torch.from_numpy(starts.astype(np.int64)).to(device)]
    for _ in range(length - 1):
        first, end = bounds[walk[-1]], bounds[walk[-1] + 1]
        share = torch.rand(len(first), dtype=torch.float64, generator=generator, device=device)
        edge = torch.searchsorted(running, torch.lerp(running[first], running[end], share), right=True) - 1
        walk.append(target[torch.clamp(edge, first, end - 1)])  # rounding never leads out of the row
    return torch.stack(walk, dim=1)


def skip_gram(
    inner: torch.Tensor, outer: torch.Tensor, walks: torch.Tensor, drawn: torch.Tensor, window: int, negatives: int
) -> torch.Tensor:
    """Mean of -log s(z c) - `negatives` x E[log s(-z c')], s the logistic function, over pairs of positions of a walk.

    The pairs are at most `window` steps apart. `walks` (b, l) and `drawn` (k,) are nodes; the mean over `drawn`
    stands for the expectation.
    """
    length = walks.shape[1]
    here, there = functional.embedding(walks, inner), functional.embedding(walks, outer)
    table = here @ there.mT
    steps = range(1, min(window, length - 1) + 1)
    seen = torch.cat([table.diagonal(sign * step, 1, 2) for step in steps for sign in (1, -1)], dim=1)
    place = torch.arange(length, device=walks.device)
    contexts = place.clamp(max=window) + place.flip(0).clamp(max=window)  # (l,) pairs that begin at each position
    unseen = functional.softplus(here @ functional.embedding(drawn, outer).T).mean(2) * contexts
    loss: torch.Tensor = (functional.softplus(-seen).sum() + negatives * unseen.sum()) / seen.numel()
    return loss
