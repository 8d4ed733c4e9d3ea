"""Full fine-tuning: the obvious opponent of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from cmr_core.interfaces import ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import best_details, factors_from_embedding, fit_embedding
from cmr_core.models.graph import combined_graph, market_graph
from cmr_core.models.lightgcn import BackboneConfig, BPRConfig, backbone, market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.models.registry import register


class FinetuneConfig(BPRConfig, BackboneConfig):
    """The backbone's settings and those of its adaptation."""

    graph: Literal["target", "combined"] = Field(
        "target", description="Propagate on the target market's graph alone, or on that of all markets"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size during adaptation")
    l2: float = Field(1e-4, ge=0, le=1, description="Weight decay on the vectors of each batch")
    batch_size: int = Field(2048, ge=16, le=1_000_000, description="Training pairs of the target per step")
    patience: int = Field(10, ge=1, le=1000, description="Looks without improvement before it stops")


@register(
    "finetune",
    label="Backbone, fine-tuned",
    family="cross-market",
    color="#f58518",
    config=FinetuneConfig,
)
class Finetune:
    """The backbone's vectors of the target's users and items, trained further on the target alone.

    Full fine-tuning of layer 0 of a LightGCN trained on all markets (the comparison of Zhang et al., AAAI 2026); the
    vectors of everybody else stay as they are. Validation chooses the epoch, and no step at all is a choice.

    Memory: the backbone, and the target's rows twice for Adam. An epoch: the target's pairs / `batch_size` steps,
    each 2 * layers sparse products of the chosen graph with its vectors, its pairs x D operations apiece.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Take the backbone and train the target's rows."""
        target, layers = task.target, self.config.layers
        base = backbone(task, run, self.config.backbone())["embedding"]
        whole = combined_graph(task, run.device)
        users, items = whole.users(target), whole.items(target)
        rows = np.concatenate([users, items])
        if self.config.graph == "combined":
            graph, places = whole.graph, rows
            frozen = torch.from_numpy(base).to(run.device)
        else:
            graph, places = market_graph(target, run.device), np.arange(len(rows))
            frozen = torch.zeros((len(rows), base.shape[1]), device=run.device)
        propagate, spread = _among(graph.mean_layers, frozen, torch.from_numpy(places).to(run.device), layers)
        start = torch.from_numpy(base[rows]).to(run.device)
        tuned = fit_embedding(
            "finetune",
            start,
            propagate,
            Triples([target], run.device, catalogues=False),
            torch.Generator(device=run.device).manual_seed(run.seed),
            self.config.training(),
            run,
            {target.name: market_nodes(target)},
        )
        layer0 = spread(torch.from_numpy(tuned["embedding"]).to(run.device)).cpu().numpy()
        return factors_from_embedding(
            graph,
            layer0,
            layers,
            places[: target.n_users],
            places[target.n_users :],
            ParameterCount(trainable=start.numel(), frozen=base.size - start.numel()),
            details=best_details("finetune", tuned),
        )


def _among(
    mean_layers: Callable[[torch.Tensor, int], torch.Tensor], frozen: torch.Tensor, places: torch.Tensor, layers: int
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Two maps of the target's rows: to their final vectors, and to layer 0 of all nodes with them in their places."""

    def spread(table: torch.Tensor) -> torch.Tensor:
        return frozen.index_copy(0, places, table)

    def propagate(table: torch.Tensor) -> torch.Tensor:
        return mean_layers(spread(table), layers)[places]

    return propagate, spread
