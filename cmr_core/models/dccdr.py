"""DCCDR (Zhang et al., DASFAA 2023): two domains, each with an invariant and a specific half of every vector."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import IntArray, ParameterCount, Recommender, Run, Task
from cmr_core.models.contrast import different, info_nce
from cmr_core.models.embedding import Training, Views, best_details, factors_from_embedding, fit_embedding, random_start
from cmr_core.models.graph import Graph, build_graph
from cmr_core.models.lightgcn import BPRConfig
from cmr_core.models.negatives import Triples
from cmr_core.models.registry import register


class DCCDRConfig(BPRConfig):
    """Settings of DCCDR."""

    dimensions: int = Field(
        64, ge=2, le=4096, multiple_of=2, description="Length of each vector: one half invariant, the other specific"
    )
    layers: int = Field(3, ge=0, le=8, description="Propagation steps on each domain's graph")
    contrast_weight: float = Field(1e-3, ge=0, le=100, description="Weight of the contrast beside both domains' BPR")
    temperature: float = Field(0.1, gt=0, le=10, description="Divides the cosines that are compared; small is sharp")
    bridge: int = Field(1024, ge=1, le=100_000, description="Shared items of a batch that are compared, at most")
    epoch_by: Literal["target", "source"] = Field(
        "target", description="The domain whose training pairs make one pass; the other one keeps step with it"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size")
    batch_size: int = Field(1024, ge=16, le=1_000_000, description="Training pairs of each domain per step")
    epochs: int = Field(100, ge=1, le=5000, description="Passes over the training pairs at most")
    eval_every: int = Field(3, ge=1, le=100, description="Passes between two looks at validation")
    patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")

    def training(self) -> Training:
        """What `fit_embedding` takes: batches hold both domains' pairs, half and half."""
        return super().training().model_copy(update={"batch_size": 2 * self.batch_size})


class Domains:
    """The source domain (all source markets as one) and the target in one graph without an edge between them.

    Nodes: source users market by market, target users, source items, target items. An item of both domains has a node
    in each.
    """

    def __init__(self, task: Task, device: str) -> None:
        target, sources = task.target, task.sources
        sold = np.unique(np.concatenate([view.catalogue for view in sources]))
        n_source, n_users = sum(v.n_users for v in sources), sum(v.n_users for v in sources) + target.n_users
        self.n_nodes = n_users + len(sold) + target.n_items
        self.users: IntArray = np.arange(n_source, n_users)
        self.items: IntArray = np.arange(n_users + len(sold), self.n_nodes)
        global_item = np.full(task.n_items, -1, dtype=np.int64)
        global_item[sold] = n_users + np.arange(len(sold))
        _, in_source, in_target = np.intersect1d(sold, target.catalogue, assume_unique=True, return_indices=True)
        self.bridge = torch.from_numpy(np.stack([n_users + in_source, self.items[in_target]])).to(device)  # (2, S)
        number = np.full(self.n_nodes, -1, dtype=np.int64)
        number[self.bridge.cpu().numpy()] = np.arange(len(in_source))
        self.bridge_number = torch.from_numpy(number).to(device)  # (N,) column of `bridge`, -1 for other nodes
        # the nodes of each domain's own triples, in the numbering of all
        self.source_nodes = torch.from_numpy(np.concatenate([np.arange(n_source), global_item])).to(device)
        self.target_nodes = torch.from_numpy(np.concatenate([self.users, self.items])).to(device)
        starts = np.cumsum([0, *(view.n_users for view in sources)])
        user = [v.train.user.astype(np.int64) + start for v, start in zip(sources, starts, strict=False)]
        item = [global_item[v.catalogue[v.train.item]] for v in sources]
        self.graph: Graph = build_graph(
            np.concatenate([*user, self.users[target.train.user]]),
            np.concatenate([*item, self.items[target.train.item]]),
            self.n_nodes,
            device,
        )


class JointTriples:
    """Triples of the source and of the target in turn, so that every even slice holds as many of each.

    An epoch is one pass over the leading domain; of the other one it takes as many, from further passes where needed.
    """

    def __init__(self, task: Task, domains: Domains, device: str, epoch_by: Literal["target", "source"]) -> None:
        self._parts = (
            (Triples(task.sources, device, catalogues=True), domains.source_nodes),
            (Triples([task.target], device, catalogues=False), domains.target_nodes),
        )
        self._pairs = len(self._parts[epoch_by == "target"][0])

    def __len__(self) -> int:
        return 2 * self._pairs

    def epoch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """User, positive and negative nodes, (2 n,) each: source, target, source, target ..."""
        both = torch.stack([self._draw(*part, generator) for part in self._parts], dim=2)
        user, positive, negative = both.flatten(1)
        return user, positive, negative

    def _draw(self, triples: Triples, nodes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        passes = -(-self._pairs // len(triples))
        drawn = torch.cat([torch.stack(triples.epoch(generator)) for _ in range(passes)], dim=1)
        return nodes[drawn[:, : self._pairs]]


@register(
    "dccdr",
    label="DCCDR",
    family="cross-domain",
    color="#bcbd22",
    config=DCCDRConfig,
    published={"learning_rate": 1e-3, "l2": 0.0, "epochs": 200},
)
class DCCDR:
    """Separate graphs of target and sources; one half of each shared item's vector is drawn to agree in both.

    DCCDR (Zhang et al., DASFAA 2023): LightGCN per domain with BPR in both, and InfoNCE between the invariant halves of
    shared items, with specific halves and other items' invariant halves as negatives. The paper's domains share
    users; here items are the bridge, adjacency is normalised, and all sources are one domain.

    Cost of a step: 2 * layers sparse products over both graphs, and the contrast; an epoch has as many steps as the
    leading domain's pairs fill batches. Memory: (users + items of both domains) x D,
    twice for Adam; the square of the number of compared items.

    On XMarket electronics under leave-one-out with sampled-market candidates it is above popularity on all seven
    markets, by NDCG@10 and by recall@10 (figures: its page and docs/results.md).
    """

    def __init__(self, config: DCCDRConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train both domains together and keep the target's part."""
        config, domains = self.config, Domains(task, run.device)
        generator = torch.Generator(device=run.device).manual_seed(run.seed)

        def propagate(table: torch.Tensor) -> torch.Tensor:
            return domains.graph.mean_layers(table, config.layers)

        arrays = fit_embedding(
            "dccdr",
            random_start(domains.n_nodes, config.dimensions, generator),
            propagate,
            JointTriples(task, domains, run.device, config.epoch_by),
            generator,
            config.training(),
            run,
            {task.target.name: (domains.users, domains.items)},
            views=self._views(domains, generator),
        )
        return factors_from_embedding(
            domains.graph,
            arrays["embedding"],
            config.layers,
            domains.users,
            domains.items,
            ParameterCount(trainable=arrays["embedding"].size),
            details=best_details("dccdr", arrays),
        )

    def _views(self, domains: Domains, generator: torch.Generator) -> Views:
        config = self.config
        # a batch's BPR is the mean of both domains' and not their sum
        weight = config.contrast_weight / 2

        def views(table: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            layers = [table]
            for _ in range(config.layers):
                layers.append(domains.graph.propagate(layers[-1]))
            chosen = bridge_of_batch(domains, batch, config.bridge, generator)
            rows = functional.embedding(domains.bridge[:, chosen], layers[-1])
            return torch.stack(layers).mean(0), weight * contrast(rows[0], rows[1], config.temperature)

        return views


def bridge_of_batch(domains: Domains, batch: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Columns of `domains.bridge` for the shared items among the batch's positives, `most` of them at random."""
    shared = different(domains.bridge_number[batch[1]])
    shared = shared[shared >= 0]
    return shared[torch.randperm(len(shared), generator=generator, device=shared.device)[:most]]


def contrast(source: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """DCCDR's InfoNCE over n shared items, from their last-layer vectors (n, D) in both domains; 0 where n = 0.

    With halves inv and spec of each: positive (inv_s, inv_t) of the same item; negatives (inv_s, spec_s),
    (inv_t, spec_t) and (spec_s, spec_t) of the same item, and (inv_s, inv_t) with the inv_t of another one.
    """
    if not len(source):
        return source.sum()
    (inv_s, spec_s), (inv_t, spec_t) = source.chunk(2, dim=1), target.chunk(2, dim=1)
    pairs = ((inv_s, spec_s), (inv_t, spec_t), (spec_s, spec_t))
    further = torch.stack([functional.cosine_similarity(one, two, dim=1) for one, two in pairs], dim=1)
    return info_nce(inv_s, inv_t, temperature, further)
