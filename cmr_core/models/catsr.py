"""CAT-SR (Wang et al., KDD 2024): attention learned on other markets, carried over to the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from cmr_core.errors import SpecError
from cmr_core.interfaces import Arrays, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors
from cmr_core.models.catsr_config import CatSrConfig, Pretraining
from cmr_core.models.catsr_network import Context, Network, last_vectors, popularity_weights, start, svd_items
from cmr_core.models.embedding import best_details
from cmr_core.models.pointwise import Layout, Steps, count, fit_steps
from cmr_core.models.registry import register
from cmr_core.models.sequences import Competitors, Sequences, Softmax, alike, encode_users, judge_sequences
from cmr_core.models.towers import Parameters
from cmr_core.training.monitor import device_kind, shared_key

CARRIED = tuple(f"layer.{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias"))


class Guess(NamedTuple):
    """n training pairs: what is known of their users, and the item to guess."""

    codes: torch.Tensor  # (n, L) item rows, `pad` on the left
    target: torch.Tensor  # (n,) item rows
    market: torch.Tensor  # (n,) index into the layout's views


class Reader:
    """The layout of all markets, their sequences, and the training of a network on some of them."""

    def __init__(self, task: Task, network: Network, context: Context, run: Run, users: int) -> None:
        self.layout = Layout(task.markets)
        self.sequences = Sequences(self.layout, network.length, run.seed, run.device)
        self.network, self._context, self._run, self._users = network, context, run, users

    def generator(self, stage: int) -> torch.Generator:
        """A new one, of the run's seed and the stage: what stage 2 draws is not what stage 1 began with."""
        drawn = np.random.SeedSequence((self._run.seed, stage)).generate_state(1)
        return torch.Generator(device=self._run.device).manual_seed(int(drawn[0]))

    def encode(self, weights: Mapping[str, torch.Tensor], users: torch.Tensor) -> torch.Tensor:
        """(B, D): vectors of users from all their training items."""
        codes = self.sequences.last(users, self.sequences.count[users])
        return last_vectors(weights, self.network, codes, self.sequences.pad)

    def batches(self, views: Sequence[MarketView], size: int, generator: torch.Generator) -> Iterator[Guess]:
        """One epoch: every training pair of the markets once."""
        sequences = self.sequences
        users = torch.from_numpy(np.concatenate([self.layout.users(view) for view in views])).to(self._run.device)
        owner = users.repeat_interleave(sequences.count[users])
        ends = sequences.count[users].cumsum(0)
        place = torch.arange(len(owner), device=owner.device) - (ends - sequences.count[users]).repeat_interleave(
            sequences.count[users]
        )
        known = place if self._context == "before" else sequences.count[owner] - 1
        for batch in alike(known.clamp(max=self.network.length), size, generator):
            own, at = owner[batch], place[batch]
            without = None if self._context == "before" else at
            codes = sequences.last(own, known[batch], without=without)
            yield Guess(codes, sequences.items[sequences.start[own] + at], sequences.market[own])

    def fit(
        self,
        stage: str,
        parameters: Parameters,
        frozen: Mapping[str, torch.Tensor],
        views: Sequence[MarketView],
        softmax: Softmax,
        steps: Steps,
        generator: torch.Generator,
        weight: torch.Tensor | None = None,
    ) -> Arrays:
        """Cross-entropy on the markets' pairs, weighted by item where `weight` (n_items,) is given.

        Changes `parameters` and nothing of `frozen`; returns the former at best validation, and `best`.
        """
        weights = {**frozen, **parameters}
        items = weights["items"][: self.layout.n_items]
        competitors = Competitors(self.layout, softmax, self._run.device)

        def loss(batch: Guess) -> torch.Tensor:
            vectors = last_vectors(weights, self.network, batch.codes, self.sequences.pad, generator)
            own = None if weight is None else weight[batch.target]
            offered = weights["items"][: self.layout.n_items]
            return competitors.loss(vectors, offered, None, batch.target, batch.market, own)

        def validate() -> float:
            return judge_sequences(
                self._run, lambda users: self.encode(weights, users), self.layout, views, items, None, self._users
            )

        return fit_steps(
            stage,
            parameters,
            lambda: self.batches(views, steps.batch_size, generator),
            loss,
            validate,
            generator,
            steps,
            self._run,
        )


def pretrained(reader: Reader, task: Task, run: Run, given: Pretraining, source: str) -> Arrays:
    """Stage 1: item vectors (`items`, learned on all markets or singular vectors) and the network of the `source`.

    Where the source is all markets, vectors are learned with the network; elsewhere the network is trained on fixed
    vectors. Shared by all targets, with `sources` by the runs of one target. Raises SpecError on an unknown market.
    """
    views = _source_views(task, source)
    learns = given.vectors == "learned"
    items: np.ndarray | None
    if learns and len(views) < len(task.markets):
        items = pretrained(reader, task, run, given, "all")["items"]
    else:
        items = None if learns else svd_items(reader.layout, given.network.dimensions, run.seed)
    names = ",".join(view.name for view in views)
    key = shared_key(
        "cat-sr-pretrain" if items is not None else "cat-sr-vectors",
        task.digest,
        run.validate.digest,
        given.digest(),
        names,
        run.seed,
        device_kind(run.device),
    )

    def build() -> Arrays:
        generator = reader.generator(1)
        parameters = start(given.network, reader.layout.n_items, generator, adapters=False)
        frozen: Parameters = {}
        if items is not None:
            parameters.pop("items")
            frozen["items"] = torch.from_numpy(items).to(run.device)
        weight = popularity_weights(reader.layout, views, given.weighting, given.alpha, given.beta)
        stage = "cat-sr-vectors" if items is None else "cat-sr-pretrain"
        kept = None if weight is None else weight.to(run.device)
        arrays = reader.fit(stage, parameters, frozen, views, given.softmax, given.steps, generator, kept)
        return arrays if items is None else {**arrays, "items": items}

    return run.monitor.shared(key, build)


def tuning_start(
    checkpoint: Mapping[str, np.ndarray], config: CatSrConfig, n_items: int, generator: torch.Generator
) -> tuple[Parameters, Parameters]:
    """Stage 2 at step 0: what is trained, and what stays frozen.

    Item vectors come from stage 1, the maps to queries and keys too where they are carried; all else is new.
    """
    parameters = start(config.network(), n_items, generator, adapters=config.adapter == "residual")
    frozen: Parameters = {}
    for name in ("items", *(CARRIED if config.transfer == "attention" else ())):
        carried = torch.from_numpy(np.array(checkpoint[name])).to(generator.device)
        if name == "items" or config.freeze_qk:
            parameters.pop(name)
            frozen[name] = carried
        else:
            parameters[name] = carried.requires_grad_()
    return parameters, frozen


@register(
    "cat-sr",
    label="CAT-SR",
    family="cross-market",
    color="#006d2c",
    config=CatSrConfig,
    published={
        "context": "before",
        "weighting": "count",
        "pretrain_batch": 256,
        "pretrain_epochs": 200,
        "patience": 50,
    },
)
class CatSr:
    """Reads a user's history with attention that was learned on all markets and adapted to the target.

    CAT-SR (Wang et al., KDD 2024). Stage 1 learns item vectors and one transformer layer on all markets; stage 2
    keeps the vectors and the maps to queries and keys frozen, and trains the rest anew on the target, with adapters
    after both maps. Our reading: there is no text, and none is read, so vectors are learned; adapters are x + ReLU(W x
    + b) from zero, since the published form can never be the identity; maps are carried with their biases. Departures:
    attention is learned on all markets, the target among them (`source`; one other market as published, `sources` for
    the union of the others). Not compared with what they depart from: items of a history are guessed from all others
    (`context`), since the splits here hold out items from anywhere, where `before` is as published; `weighting`,
    published too, is off; and stage 1 has larger batches and fewer passes, patience fewer looks, by NDCG@10 and not
    MRR@10.

    On XMarket electronics under leave-one-out with sampled-market candidates it is above popularity by NDCG@10 on all
    seven markets, by recall@10 below on ca, where training stops by NDCG@10 (three seeds; figures: its page and
    docs/results.md). With ca as the only source it is level: mean NDCG@10 of the other six markets .541 and .540 with
    all markets, recall@10 .672 and .670 (one seed, no test). With jp as the only source, its NDCG@10 on the test of
    `in` was .500 (popularity .476).

    Memory: item vectors and network x 3 with Adam, and a step's pairs x items for the softmax, which costs an
    epoch pairs * items * D.
    """

    def __init__(self, config: CatSrConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Take stage 1 and train on the target's pairs."""
        config, target = self.config, task.target
        reader = Reader(task, config.network(), config.context, run, config.valid_users)
        checkpoint = pretrained(reader, task, run, config.pretraining(), config.source)
        generator = reader.generator(2)
        parameters, frozen = tuning_start(checkpoint, config, reader.layout.n_items, generator)
        arrays = reader.fit("cat-sr", parameters, frozen, [target], "market", config.steps(), generator)
        weights = {**frozen, **{name: torch.from_numpy(arrays[name]).to(run.device) for name in parameters}}
        user = encode_users(
            lambda users: reader.encode(weights, users), reader.layout, target, np.arange(target.n_users), run.device
        )
        return Factors(
            ParameterCount(trainable=count(arrays), frozen=sum(value.numel() for value in frozen.values())),
            user=user,
            item=frozen["items"].cpu().numpy()[reader.layout.items(target)],
            details=best_details("pretrain", checkpoint) | best_details("cat-sr", arrays),
        )


def _source_views(task: Task, source: str) -> list[MarketView]:
    if source == "all":
        return list(task.markets)
    if source == "sources":
        return sorted(task.sources, key=lambda view: view.name)
    found = [view for view in task.markets if view.name == source]
    if not found:
        raise SpecError(
            f"CAT-SR is to learn attention from {source!r}, which is no market of this task.",
            hint=f"all, sources, or one of {', '.join(view.name for view in task.markets)}.",
        )
    return found
