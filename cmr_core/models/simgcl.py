"""SimGCL (Yu et al., SIGIR 2022): LightGCN with a contrast between two noisy propagations of one graph.

On one market or on all; XSimGCL trains through the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field

from cmr_core.interfaces import Arrays, IntArray, ParameterCount, Recommender, Run, Task
from cmr_core.models.contrast import batch_contrast, noisy_layers
from cmr_core.models.embedding import Views, best_details, factors_from_embedding, fit_embedding, random_start
from cmr_core.models.graph import Graph, combined_graph, market_graph
from cmr_core.models.lightgcn import BPRConfig, market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.models.registry import Config, register
from cmr_core.training.monitor import device_kind, shared_key


class SimGCLConfig(BPRConfig):
    """Settings of SimGCL."""

    layers: int = Field(2, ge=1, le=8, description="Propagation steps on the graph; layer 0 is left out of their mean")
    noise: float = Field(0.1, ge=0, le=10, description="Length of the random vector added to every layer's vectors")
    temperature: float = Field(0.5, gt=0, le=10, description="Divides the cosines that are compared; small is sharp")
    contrast_weight: float = Field(0.01, ge=0, le=100, description="Weight of the contrast beside BPR")


class EveryMarketConfig(Config):
    """What changes where the pairs of all markets are trained on; before SimGCL's or XSimGCL's settings."""

    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size")
    batch_size: int = Field(2048, ge=16, le=1_000_000, description="Training pairs of all markets per step")
    epochs: int = Field(60, ge=1, le=5000, description="Passes over all markets' training pairs at most")
    eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")


class SimGCLAllConfig(EveryMarketConfig, SimGCLConfig):
    """Settings of SimGCL on all markets."""


MakeViews = Callable[[Graph, torch.Generator], Views]


@register(
    "simgcl",
    label="SimGCL",
    family="single-market",
    color="#17becf",
    config=SimGCLConfig,
    uses_sources=False,
    published={"learning_rate": 1e-3, "l2": 1e-4, "batch_size": 2048, "temperature": 0.2, "contrast_weight": 0.5},
)
class SimGCL:
    """Graph neighbours of the target market, trained so that small random changes to vectors hardly matter.

    SimGCL (Yu et al., "Are Graph Augmentations Necessary?", SIGIR 2022): LightGCN without layer 0, BPR, and InfoNCE
    between two propagations with noise, among the users and among the items of each batch. With the paper's values
    the start was not beaten on the smallest markets; lighter contrasts did better there.

    Cost of a step: 4 * layers sparse products (LightGCN: 2 * layers) and B² * D for the contrast of B nodes; an epoch
    has pairs / batch_size steps.
    Memory: (users + items) x D, twice for Adam and twice for the noise; B² for the contrast.

    On XMarket electronics under leave-one-out with sampled-market candidates it is above popularity on all seven
    markets, by NDCG@10 and by recall@10 (figures: its page and docs/results.md).
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


@register(
    "simgcl-all",
    label="SimGCL, all markets",
    family="cross-market",
    color="#3c3cf0",
    config=SimGCLAllConfig,
    published={"learning_rate": 1e-3, "l2": 1e-4, "temperature": 0.2, "contrast_weight": 0.5},
)
class SimGCLAll(SimGCL):
    """Graph neighbours of all markets together, trained so that small random changes to vectors hardly matter.

    SimGCL (Yu et al., SIGIR 2022) on the union of the markets' graphs: items are shared, users are not, and negatives
    come from each row's own market. One training, judged by the markets' mean validation, serves all targets.

    Cost of a step and memory as `simgcl`, with the users and items of all markets. The training settings are those of
    XSimGCL on all markets. Leave-one-out among 99 items of the market (three seeds, test NDCG@10 as the mean of
    seven markets): .542 (popularity .416, SimGCL on the target alone .546), above popularity in every market; by
    recall@10 it is below popularity on ca, where training stops by NDCG@10.
    """

    config: SimGCLAllConfig

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets, once for all targets, and keep the target's part."""
        return fit_contrasted_all("simgcl-all", self.config, task, run, self._views)


def fit_contrasted(stage: str, config: SimGCLConfig, task: Task, run: Run, make: MakeViews) -> Recommender:
    """Train vectors of the target's nodes on the views that `make` gives; score without noise."""
    target, graph = task.target, market_graph(task.target, run.device)
    triples, nodes = Triples([target], run.device, catalogues=False), market_nodes(target)
    arrays = _train(stage, config, graph, triples, {target.name: nodes}, run, make)
    return _served(stage, config, graph, arrays, *nodes)


def fit_contrasted_all(stage: str, config: SimGCLConfig, task: Task, run: Run, make: MakeViews) -> Recommender:
    """The same with the nodes of all of the task's markets, judged by their mean validation: a shared stage."""
    whole, kind = combined_graph(task, run.device), device_kind(run.device)
    key = shared_key(stage, task.digest, run.validate.digest, config.digest(), run.seed, kind)

    def build() -> Arrays:
        triples = Triples(task.markets, run.device, catalogues=True)
        nodes = {market.name: (whole.users(market), whole.items(market)) for market in task.markets}
        return _train(stage, config, whole.graph, triples, nodes, run, make)

    arrays = run.monitor.shared(key, build)
    return _served(stage, config, whole.graph, arrays, whole.users(task.target), whole.items(task.target))


def _train(
    stage: str,
    config: SimGCLConfig,
    graph: Graph,
    triples: Triples,
    nodes: Mapping[str, tuple[IntArray, IntArray]],
    run: Run,
    make: MakeViews,
) -> Arrays:
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    start = random_start(graph.n_nodes, config.dimensions, generator)

    def propagate(table: torch.Tensor) -> torch.Tensor:
        return graph.mean_neighbours(table, config.layers)

    views = make(graph, generator)
    return fit_embedding(stage, start, propagate, triples, generator, config.training(), run, nodes, views=views)


def _served(
    stage: str, config: SimGCLConfig, graph: Graph, arrays: Arrays, users: IntArray, items: IntArray
) -> Recommender:
    return factors_from_embedding(
        graph,
        arrays["embedding"],
        config.layers,
        users,
        items,
        ParameterCount(trainable=arrays["embedding"].size),
        own=False,
        details=best_details(stage, arrays),
    )
