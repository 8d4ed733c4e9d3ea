"""SimGCL (Yu et al., SIGIR 2022): LightGCN with a contrast between two noisy propagations of one graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field

from cmr_core.interfaces import ParameterCount, Recommender, Run, Task
from cmr_core.models.contrast import batch_contrast, noisy_layers
from cmr_core.models.embedding import Views, best_details, factors_from_embedding, fit_embedding, random_start
from cmr_core.models.graph import Graph, market_graph
from cmr_core.models.lightgcn import BPRConfig, market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.models.registry import register


class SimGCLConfig(BPRConfig):
    """Settings of SimGCL. The paper has temperature 0.2, contrast weight 0.5, learning rate 1e-3, L2 1e-4, batch 2048.

    With the paper's values the start was not beaten on the smallest markets; lighter contrasts did better there.
    """

    layers: int = Field(2, ge=1, le=8, description="Propagation steps on the graph; layer 0 is left out of their mean")
    noise: float = Field(0.1, ge=0, le=10, description="Length of the random vector added to every layer's vectors")
    temperature: float = Field(0.5, gt=0, le=10, description="Divides the cosines that are compared; small is sharp")
    contrast_weight: float = Field(0.01, ge=0, le=100, description="Weight of the contrast beside BPR")


MakeViews = Callable[[Graph, torch.Generator], Views]


@register(
    "simgcl",
    label="SimGCL",
    family="single-market",
    color="#17becf",
    config=SimGCLConfig,
    uses_sources=False,
)
class SimGCL:
    """Graph neighbours of the target market, trained so that small random changes to vectors hardly matter.

    SimGCL (Yu et al., "Are Graph Augmentations Necessary?", SIGIR 2022): LightGCN without layer 0, BPR, and InfoNCE
    between two propagations with noise, among the users and among the items of each batch.
    Cost of a step: 4 * layers sparse products (LightGCN: 2 * layers) and B² * D for the contrast of B nodes.
    Memory: (users + items) x D, twice for Adam and twice for the noise; B² for the contrast.
    Leave-one-out among 99 sampled items, NDCG@10 in uk: 0.556 (popularity 0.438); ca was not measured.
    """

    def __init__(self, config: SimGCLConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        return fit_contrasted("simgcl", self.config, task, run, self._views)

    def _views(self, graph: Graph, generator: torch.Generator) -> Views:
        config = self.config

        def views(table: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            clean = graph.mean_neighbours(table, config.layers)
            one, two = (clean + self._shift(graph, table, clean, generator) for _ in range(2))
            return clean, config.contrast_weight * batch_contrast(one, two, batch, config.temperature)

        return views

    def _shift(
        self, graph: Graph, table: torch.Tensor, clean: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """What noise adds to the final vectors. Constant for the gradient, as signs are: one backward serves all."""
        with torch.no_grad():
            layers = noisy_layers(graph, table, self.config.layers, self.config.noise, generator)
            return torch.stack(layers).mean(0) - clean


def fit_contrasted(stage: str, config: SimGCLConfig, task: Task, run: Run, make: MakeViews) -> Recommender:
    """Train vectors of the target's nodes on the views that `make` gives; score without noise."""
    target, graph = task.target, market_graph(task.target, run.device)
    generator = torch.Generator(device=run.device).manual_seed(run.seed)

    def propagate(table: torch.Tensor) -> torch.Tensor:
        return graph.mean_neighbours(table, config.layers)

    arrays = fit_embedding(
        stage,
        random_start(graph.n_nodes, config.dimensions, generator),
        propagate,
        Triples([target], run.device, catalogues=False),
        generator,
        config.training(),
        run,
        {target.name: market_nodes(target)},
        views=make(graph, generator),
    )
    return factors_from_embedding(
        graph,
        arrays["embedding"],
        config.layers,
        *market_nodes(target),
        ParameterCount(trainable=arrays["embedding"].size),
        own=False,
        details=best_details(stage, arrays),
    )
