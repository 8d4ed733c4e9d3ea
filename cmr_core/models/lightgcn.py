"""LightGCN (He et al., SIGIR 2020) on one market or on all, as a method and as a stage of other methods.

`backbone` and `teacher` are shared stages: whoever asks for the same data, rule, settings and seed gets the same
arrays, trained once. The methods `lightgcn` and `lightgcn-all` are these stages and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field

from cmr_core.interfaces import Arrays, IntArray, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import Training, best_details, factors_from_embedding, fit_embedding, random_start
from cmr_core.models.graph import Graph, combined_graph, market_graph
from cmr_core.models.negatives import Triples
from cmr_core.models.registry import Config, register
from cmr_core.training.monitor import device_kind, shared_key


class SpaceConfig(Config):
    """The vectors that all stages of a method share."""

    dimensions: int = Field(64, ge=2, le=4096, description="Length of each user's and item's vector")
    layers: int = Field(3, ge=0, le=8, description="Propagation steps on the graph; 0 is plain matrix factorisation")


class BPRConfig(SpaceConfig):
    """Settings of one training with BPR, for methods that have no other stage to tell it from."""

    learning_rate: float = Field(5e-3, gt=0, le=1, description="Adam's step size")
    l2: float = Field(1e-3, ge=0, le=1, description="Weight decay on the vectors of each batch")
    batch_size: int = Field(512, ge=16, le=1_000_000, description="Training pairs of the target per step")
    epochs: int = Field(100, ge=1, le=5000, description="Passes over the target's training pairs at most")
    eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    patience: int = Field(8, ge=1, le=1000, description="Looks without improvement before it stops")

    def training(self) -> Training:
        """What `fit_embedding` takes."""
        return Training(
            dimensions=self.dimensions,
            layers=self.layers,
            learning_rate=self.learning_rate,
            l2=self.l2,
            batch_size=self.batch_size,
            epochs=self.epochs,
            eval_every=self.eval_every,
            patience=self.patience,
        )


class BackboneConfig(SpaceConfig):
    """Settings of the backbone, a LightGCN trained on all markets. Methods with equal settings share it."""

    backbone_learning_rate: float = Field(2e-2, gt=0, le=1, description="Adam's step size for the backbone")
    backbone_l2: float = Field(4e-3, ge=0, le=1, description="Weight decay on the backbone's vectors of each batch")
    backbone_batch: int = Field(8192, ge=16, le=1_000_000, description="Training pairs per step of the backbone")
    backbone_epochs: int = Field(100, ge=1, le=5000, description="Passes over all markets' training pairs at most")
    backbone_eval_every: int = Field(5, ge=1, le=100, description="Passes between two looks at validation")
    backbone_patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")

    def backbone(self) -> Training:
        """What `lightgcn.backbone` takes."""
        return Training(
            dimensions=self.dimensions,
            layers=self.layers,
            learning_rate=self.backbone_learning_rate,
            l2=self.backbone_l2,
            batch_size=self.backbone_batch,
            epochs=self.backbone_epochs,
            eval_every=self.backbone_eval_every,
            patience=self.backbone_patience,
        )


class TeacherConfig(SpaceConfig):
    """Settings of the single-market LightGCN, alone or as a teacher. Methods with equal settings share it."""

    teacher_learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size for the target's LightGCN")
    teacher_l2: float = Field(1e-3, ge=0, le=1, description="Weight decay on its vectors of each batch")
    teacher_batch: int = Field(2048, ge=16, le=1_000_000, description="Training pairs of the target per step")
    teacher_epochs: int = Field(200, ge=1, le=5000, description="Passes over the target's training pairs at most")
    teacher_eval_every: int = Field(5, ge=1, le=100, description="Passes between two looks at validation")
    teacher_patience: int = Field(10, ge=1, le=1000, description="Looks without improvement before it stops")

    def teacher(self) -> Training:
        """What `lightgcn.teacher` takes."""
        return Training(
            dimensions=self.dimensions,
            layers=self.layers,
            learning_rate=self.teacher_learning_rate,
            l2=self.teacher_l2,
            batch_size=self.teacher_batch,
            epochs=self.teacher_epochs,
            eval_every=self.teacher_eval_every,
            patience=self.teacher_patience,
        )


def backbone(task: Task, run: Run, training: Training) -> Arrays:
    """LightGCN on the training pairs of all of the task's markets, judged by their mean validation metric.

    Returns `embedding` (users + items, D), layer 0 in the node order of `combined_graph`, and `best` (2,), its
    epoch and validation value. Depends on the target only through `task.digest`: targets share it.
    """
    key = shared_key("backbone", task.digest, run.validate.digest, training.digest(), run.seed, device_kind(run.device))

    def build() -> Arrays:
        whole = combined_graph(task, run.device)
        triples = Triples(task.markets, run.device, catalogues=True)
        nodes = {market.name: (whole.users(market), whole.items(market)) for market in task.markets}
        return _from_scratch("backbone", whole.graph, triples, training, run, nodes)

    return run.monitor.shared(key, build)


def teacher(task: Task, run: Run, training: Training) -> Arrays:
    """LightGCN on the target's own training pairs, judged by the target's validation metric.

    Returns `embedding` (n_users + n_items, D), layer 0 in the node order of `market_graph`, and `best` as above.
    """
    target = task.target
    key = shared_key(
        "teacher", task.target_digest, run.validate.digest, training.digest(), run.seed, device_kind(run.device)
    )

    def build() -> Arrays:
        nodes = {target.name: market_nodes(target)}
        triples = Triples([target], run.device, catalogues=False)
        return _from_scratch("teacher", market_graph(target, run.device), triples, training, run, nodes)

    return run.monitor.shared(key, build)


def market_nodes(view: MarketView) -> tuple[IntArray, IntArray]:
    """User and item nodes of `market_graph`, in local order."""
    return np.arange(view.n_users), view.n_users + np.arange(view.n_items)


@register(
    "lightgcn",
    label="LightGCN, target only",
    family="single-market",
    color="#4c78a8",
    config=TeacherConfig,
    uses_sources=False,
    published={"teacher_learning_rate": 1e-3, "teacher_l2": 1e-4, "teacher_epochs": 1000},
)
class LightGCN:
    """Graph neighbours of the target market alone, without any other market.

    LightGCN (He et al., SIGIR 2020): vectors are averaged over propagation steps on the user-item graph and
    trained with BPR. It is the same stage as the teacher of other methods. Memory: (users + items) x D, twice for Adam.
    An epoch: pairs / `teacher_batch` steps, each 2 * layers sparse products of the graph with the vectors, pairs x D
    operations apiece, and Adam on all vectors.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        arrays = teacher(task, run, self.config.teacher())
        count = ParameterCount(trainable=arrays["embedding"].size)
        return factors_from_embedding(
            market_graph(task.target, run.device),
            arrays["embedding"],
            self.config.layers,
            *market_nodes(task.target),
            count,
            details=best_details("teacher", arrays),
        )


@register(
    "lightgcn-all",
    label="LightGCN, all markets",
    family="cross-market",
    color="#72b7b2",
    config=BackboneConfig,
    pretrains=True,
    published={"backbone_learning_rate": 1e-3, "backbone_l2": 1e-4, "backbone_batch": 2048, "backbone_epochs": 1000},
)
class LightGCNAll:
    """Graph neighbours of all markets together; items are shared, users are not. The backbone of other methods.

    LightGCN (He et al., SIGIR 2020) on the union of the markets' graphs, negatives from each row's own market.

    Memory: (users + items of all markets) x D, twice for Adam. An epoch: pairs / `backbone_batch` steps, each 2 *
    layers sparse products of the graph with the vectors, pairs x D operations apiece, and Adam on all vectors.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets and keep the target's part."""
        arrays = backbone(task, run, self.config.backbone())
        whole = combined_graph(task, run.device)
        count = ParameterCount(trainable=arrays["embedding"].size)
        return factors_from_embedding(
            whole.graph,
            arrays["embedding"],
            self.config.layers,
            whole.users(task.target),
            whole.items(task.target),
            count,
            details=best_details("backbone", arrays),
        )


def _from_scratch(
    stage: str,
    graph: Graph,
    triples: Triples,
    training: Training,
    run: Run,
    nodes: Mapping[str, tuple[IntArray, IntArray]],
) -> Arrays:
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    start = random_start(graph.n_nodes, training.dimensions, generator)

    def propagate(table: torch.Tensor) -> torch.Tensor:
        return graph.mean_layers(table, training.layers)

    return fit_embedding(stage, start, propagate, triples, generator, training, run, nodes)
