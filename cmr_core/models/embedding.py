"""Layer-0 vectors of a graph's nodes: training with BPR, and what becomes of them once they are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from cmr_core.interfaces import Arrays, IntArray, ParameterCount, Run
from cmr_core.models.base import Factors
from cmr_core.models.graph import Graph
from cmr_core.models.losses import bpr, l2
from cmr_core.spec import Frozen
from cmr_core.training.checkpoint import adam
from cmr_core.training.loop import Schedule, mean_known, train


class Training(Frozen):
    """Everything that decides a LightGCN's training, beside data, rule, seed and device."""

    dimensions: int
    layers: int
    learning_rate: float
    l2: float
    batch_size: int
    epochs: int
    eval_every: int
    patience: int

    @property
    def schedule(self) -> Schedule:
        """For the epoch loop."""
        return Schedule(self.epochs, self.eval_every, self.patience)


Views = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""What a step trains on: table (N, D) and batch (3, B) -> final vectors (N, D) for BPR, and a weighted loss to add."""


class Samples(Protocol):
    """Training pairs with negatives, an epoch at a time: `negatives.Triples` and what is made of it."""

    def __len__(self) -> int:
        """Triples of an epoch."""

    def epoch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """User, positive and negative nodes, (n,) each, in random order."""


def random_start(n_nodes: int, dimensions: int, generator: torch.Generator) -> torch.Tensor:
    """(n_nodes, dimensions) from N(0, 0.1), on the generator's device."""
    return torch.randn((n_nodes, dimensions), generator=generator, device=generator.device).mul_(0.1)


def fit_embedding(
    stage: str,
    start: torch.Tensor,
    propagate: Callable[[torch.Tensor], torch.Tensor],
    triples: Samples,
    generator: torch.Generator,
    training: Training,
    run: Run,
    nodes: Mapping[str, tuple[IntArray, IntArray]],
    *,
    views: Views | None = None,
) -> Arrays:
    """BPR on `triples` with Adam, from the layer-0 table `start` (N, D); one propagation of the graph per step.

    `propagate` maps the table to final vectors (N, D); `triples` and `nodes`, the user and item rows of each
    market to judge, number the table's rows. `views` puts other vectors in the place of `propagate`'s in training (not
    in validation) and adds a loss, whose curve is `contrast`; it draws from `generator` alone. Returns `embedding`,
    the table at best validation, and `best` (2,), its epoch and validation value. Raises as `training.loop.train`.
    Cost of an epoch: pairs / batch_size steps of 2 * layers sparse products each.
    """
    table = start.detach().clone().requires_grad_()
    model = adam({"embedding": table}, training.learning_rate, generator)

    def step(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        vectors, further = (propagate(table), None) if views is None else views(table, batch)
        final = functional.embedding(batch, vectors)
        loss = bpr((final[0] * final[1]).sum(1), (final[0] * final[2]).sum(1))
        total = loss + training.l2 * l2(functional.embedding(batch, table), batch.shape[1])
        curves = {"loss": loss.detach() * batch.shape[1]}
        if further is not None:
            total = total + further
            curves["contrast"] = further.detach() * batch.shape[1]
        model.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        model.optimizer.step()
        return curves

    def epoch() -> dict[str, float]:
        rows = torch.stack(triples.epoch(generator))
        steps = [step(batch) for batch in torch.split(rows, training.batch_size, dim=1)]
        return {name: float(torch.stack([curves[name] for curves in steps]).sum()) / len(triples) for name in steps[0]}

    def validate() -> float:
        with torch.no_grad():
            final = propagate(table).cpu().numpy()
        return mean_validation(run, final, nodes)

    trained = train(stage, model, epoch, validate, run.monitor, training.schedule)
    best = np.array([trained.best_epoch, trained.best_value], dtype=np.float64)
    return {"embedding": trained.best["embedding"].cpu().numpy(), "best": best}


def mean_validation(run: Run, final: np.ndarray, nodes: Mapping[str, tuple[IntArray, IntArray]]) -> float:
    """Mean of the validation metric over the markets that have validation rows; nan where none has.

    `final` (N, D) are propagated vectors.
    """
    return mean_known(
        [run.validate(name, inner_product(final[users], final[items])) for name, (users, items) in nodes.items()]
    )


def inner_product(user: np.ndarray, item: np.ndarray) -> Callable[[IntArray], np.ndarray]:
    """The scoring function of user (n_users, D) and item (n_items, D) vectors."""

    def score(users: IntArray) -> np.ndarray:
        scores: np.ndarray = user[users] @ item.T
        return scores

    return score


def factors_from_embedding(
    graph: Graph,
    embedding: np.ndarray,
    layers: int,
    users: IntArray,
    items: IntArray,
    parameters: ParameterCount,
    *,
    own: bool = True,
    plain: np.ndarray | None = None,
    details: Mapping[str, float | str] | None = None,
) -> Factors:
    """Propagated vectors of the target's nodes, with what an exact explanation needs.

    With z^l = A^l x and H = mean of z^0..z^L: H_u = x_u / (L+1) + sum_j A_uj m_j, where
    m = (z^0 + ... + z^(L-1)) / (L+1) and A_uj = 1 / sqrt(d_u d_j). So `user_base` = x_u / (L+1) and
    `item_message` = m_j / sqrt(d_j): user[u] = user_base[u] + sum_{j in train(u)} item_message[j] / sqrt(d_u).
    Without `own`, H is the mean of z^1..z^L: the base is 0 and m the mean of z^0..z^(L-1).
    `embedding` is layer 0 of all nodes of `graph`; `plain` is layer 0 without prompts, where there are any.
    """
    x = torch.from_numpy(embedding).to(graph.device)
    share = 1 / (layers + own)
    final = (graph.mean_layers(x, layers) if own else graph.mean_neighbours(x, layers)).cpu().numpy()
    below = graph.mean_layers(x, layers - 1).cpu().numpy() * (layers * share) if layers else np.zeros_like(embedding)
    message = below[items] / np.sqrt(np.maximum(graph.degree[items], 1))[:, None]
    bare = (
        graph.mean_layers(torch.from_numpy(plain).to(graph.device), layers).cpu().numpy() if plain is not None else None
    )
    return Factors(
        parameters,
        user=final[users],
        item=final[items],
        user_base=embedding[users] * np.float32(share * own),
        item_message=message.astype(np.float32),
        user_plain=None if bare is None else bare[users],
        item_plain=None if bare is None else bare[items],
        details=details or {},
    )


def best_details(stage: str, arrays: Arrays) -> dict[str, float | str]:
    """The epoch and the validation value that a stage's vectors were kept at; nothing where it had no validation."""
    epoch, value = (float(number) for number in arrays["best"])
    return {f"{stage} best epoch": epoch, f"{stage} best validation": value} if epoch >= 0 else {}
