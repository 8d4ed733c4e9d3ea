"""NATR (Gao et al., WWW 2019): item vectors of the sources, carried over to the target by attention on histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Arrays, MarketView, ParameterCount, Run, Task
from cmr_core.models.embedding import best_details
from cmr_core.models.histories import History
from cmr_core.models.losses import l2
from cmr_core.models.ncf import inner
from cmr_core.models.neural import NeuralScorer, Tensors, network
from cmr_core.models.pointwise import Batch, Layout, PointwiseConfig, Rows, Steps, bce, count, fit_steps, fitted, judge
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_linear, linear, table
from cmr_core.training.monitor import device_kind, shared_key


class NATRConfig(PointwiseConfig):
    """Settings of NATR: of the sources' vectors (`source_*`), and of the target's network."""

    dimensions: int = Field(64, ge=1, le=4096, description="Length of each user's and item's vector in the target")
    history: int = Field(100, ge=1, le=10_000, description="Latest items of a user that are attended to, at most")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Adam's weight decay on all parameters")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's step size in the target")
    l2: float = Field(1e-2, ge=0, le=1, description="Weight decay on the vectors of each batch, in both stages")
    source_dimensions: int = Field(64, ge=1, le=4096, description="Length of the vectors learned on the sources")
    source_learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's step size on the sources")
    source_epochs: int = Field(50, ge=1, le=5000, description="Passes over the sources' training pairs at most")

    def source_steps(self) -> Steps:
        """How the sources' vectors are trained: as the target's network, but for the step size and the passes."""
        own = {"learning_rate": self.source_learning_rate, "epochs": self.source_epochs}
        return self.steps().model_copy(update=own)


@register(
    "natr",
    label="NATR",
    family="cross-domain",
    color="#543005",
    config=NATRConfig,
    published={"learning_rate": 1e-3, "source_learning_rate": 1e-3, "l2": 1e-5, "epochs": 300, "source_epochs": 300},
)
class NATR:
    """Learns items on the sources first; then weighs, for each user and item, that knowledge against the target's own.

    NATR (Gao et al., WWW 2019), made for domains that share items and not users. Matrix factorisation on the union of
    the sources gives vectors, which stay as they are. With g_j = W q_j^s + b for the user's items j that the sources
    sell, attention a_j ~ exp(v1 ReLU(p * g_j)), s = sum of a_j g_j; a gate, the softmax beta of v2 ReLU(s * q) and
    v2 ReLU(p * q), gives the score (beta_1 s + beta_2 p) q. A pair that is learned is not in its own
    history; who has no history has z = p. The biases of v1 and v2 are counted, as in the published count, but a
    softmax does not feel them.

    Step sizes, `l2` and passes are ours, from short runs, and not the published ones; `l2` is 1,000 times as
    large.
    Where a history is longer than `history` and the cut falls among items of one day, those with lower numbers stay:
    the order of a day is not drawn. An item that a source sells, but whose pairs there are all held out, has a source
    vector that was only ever a negative; users attend to it all the same.

    On XMarket electronics it is above popularity under leave-one-out with sampled-market candidates on all seven
    markets, by NDCG@10 and by recall@10; with events split its NDCG@10 is below on ca and jp (three seeds; figures:
    its page and docs/results.md).

    Parameters: (users + items of the target) * d + d_s d + d + 2 (d + 1), and (users + items of the sources) * d_s
    frozen. Memory of a step: pairs * history * d. An epoch: twice pairs * history * d products for the attention,
    d_s d for each item of the target at every step, and Adam on the whole tables; on the sources pairs * (1 +
    negatives) * d_s. The first stage is shared among runs with the same target.
    """

    def __init__(self, config: NATRConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> NeuralScorer:
        """The sources' vectors, then the target's network."""
        config, target = self.config, task.target
        learned = source_vectors(task, run, config)
        transfer = Transfer.of(task, learned["item.source"], config.history, run.device)
        layout = Layout([target])
        rows = Rows(layout, config.negatives, run.device)
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        start = natr_start(target, config, generator)

        def loss(batch: Batch) -> torch.Tensor:
            found = bce(transfer.logits(start, batch.user, batch.item))
            used = (("user.p", batch.user), ("item.q", batch.item))
            return found + config.l2 * sum(
                l2(functional.embedding(at, start[name]), len(batch.user)) for name, at in used
            )

        def validate() -> float:
            return judge(run, "natr", transfer.served(start), layout, [target], config.valid_users)

        def batches() -> Iterator[Batch]:
            return rows.batches(config.batch_size, generator)

        arrays = fit_steps("natr", start, batches, loss, validate, generator, config.steps(), run)
        best = {name: torch.from_numpy(value).to(run.device) for name, value in arrays.items() if name != "best"}
        served = {name: value.cpu().numpy() for name, value in transfer.served(best).items()}
        parameters = ParameterCount(trainable=count(arrays), frozen=count(learned))
        details = best_details("natr-source", learned) | best_details("natr", arrays)
        return fitted("natr", served, layout, target, parameters, run, details)


def natr_start(target: MarketView, config: NATRConfig, generator: torch.Generator) -> Parameters:
    """(users + items) * d + d_s d + d + 2 (d + 1) parameters."""
    d = config.dimensions
    return {
        "user.p": table(target.n_users, d, generator, deviation=0.1),
        "item.q": table(target.n_items, d, generator, deviation=0.1),
        **linear("carry", config.source_dimensions, d, generator),
        **linear("attend", d, 1, generator),
        **linear("gate", d, 1, generator),
    }


def source_vectors(task: Task, run: Run, config: NATRConfig) -> Arrays:
    """Matrix factorisation with cross-entropy on the union of the sources, judged by their mean validation metric.

    Returns `user.source` (U_s, d_s), `item.source` (I_s, d_s), rows as in `Layout(task.sources)`, and `best` (2,).
    """
    steps, kind = config.source_steps(), device_kind(run.device)
    sizes = (config.source_dimensions, config.negatives, config.valid_users, config.l2)
    own = (task.digest, task.target.name, run.validate.digest, steps.digest(), *sizes)
    key = shared_key("natr-source", *own, run.seed, kind)
    return run.monitor.shared(key, lambda: _factorised(task.sources, run, config, steps))


def _factorised(sources: tuple[MarketView, ...], run: Run, config: NATRConfig, steps: Steps) -> Arrays:
    layout, d = Layout(sources), config.source_dimensions
    rows = Rows(layout, config.negatives, run.device)
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    start = {
        "user.source": table(layout.n_users, d, generator, deviation=0.1),
        "item.source": table(layout.n_items, d, generator, deviation=0.1),
    }

    def loss(batch: Batch) -> torch.Tensor:
        user = functional.embedding(batch.user[:, None], start["user.source"])
        item = functional.embedding(batch.item, start["item.source"])
        return bce(inner(user, item)) + config.l2 * (l2(user, len(user)) + l2(item, len(user)))

    def batches() -> Iterator[Batch]:
        return rows.batches(steps.batch_size, generator)

    def validate() -> float:
        return judge(run, "natr-source", start, layout, sources, config.valid_users)

    return fit_steps("natr-source", start, batches, loss, validate, generator, steps, run)


@dataclass(frozen=True)
class Transfer:
    """What the target's users take over: their histories among the sources' items, and those items' vectors."""

    history: History
    source: torch.Tensor  # (n_items, d_s) in the order of the target's catalogue; zeros, never read, for other items
    n_users: int

    @staticmethod
    def of(task: Task, vectors: np.ndarray, most: int, device: str) -> Transfer:
        """From the vectors of `source_vectors`; each user keeps the `most` latest items that a source sells."""
        target, sold = task.target, Layout(task.sources).items_known
        known = np.isin(target.catalogue, sold)
        source = np.zeros((target.n_items, vectors.shape[1]), dtype=np.float32)
        source[known] = vectors[np.searchsorted(sold, target.catalogue[known])]
        train = target.train
        use = np.flatnonzero(known[train.item])
        use = use[np.lexsort((-train.day[use], train.user[use]))]  # of each user, the latest first
        user = train.user[use]
        use = use[np.arange(len(use)) - np.searchsorted(user, user) < most]
        history = History(train.user[use], train.item[use], target.n_users, target.n_items, device)
        return Transfer(history, torch.from_numpy(source).to(device), target.n_users)

    def logits(self, weights: Tensors, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(P, 1 + k) for users (P,) and items (P, 1 + k): the histories behind column 0 are without its item."""
        own, item = functional.embedding(users, weights["user.p"]), functional.embedding(items, weights["item.q"])
        parts = {"item.q": item, "item.halves": halves(item)}
        columns = []
        for use, without in ((slice(0, 1), items[:, 0]), (slice(1, None), None)):
            taken, any_item = self.attended(weights, users, own, without)
            sides = {name: value[:, None] for name, value in user_parts(weights, own, taken, any_item).items()}
            columns.append(gated(sides | {name: value[:, use] for name, value in parts.items()}))
        return torch.cat(columns, dim=1)

    def attended(
        self, weights: Tensors, users: torch.Tensor, own: torch.Tensor, without: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """s (B, d) for users (B,) with vectors `own` (B, d), and whether there is any item behind it, (B,) bool.

        `without`: an item for each user that does not count, (B,).
        """
        row, item = self.history.pairs(users)
        if without is not None:
            kept = item != without[row]
            row, item = row[kept], item[kept]
        carried = functional.embedding(item, apply_linear(weights, "carry", self.source))
        strength = apply_linear(weights, "attend", functional.relu(functional.embedding(row, own) * carried))[:, 0]
        share = softmax_by_row(strength, row, len(users))
        taken = torch.zeros_like(own).index_add(0, row, share[:, None] * carried)
        return taken, torch.bincount(row, minlength=len(users)) > 0

    def served(self, weights: Tensors) -> dict[str, torch.Tensor]:
        """What a stored model needs: all that depends on a user or an item alone."""
        with torch.no_grad():
            users = torch.arange(self.n_users, device=self.source.device)
            parts = user_parts(weights, weights["user.p"], *self.attended(weights, users, weights["user.p"], None))
            return {**parts, "item.q": weights["item.q"], "item.halves": halves(weights["item.q"])}


def softmax_by_row(values: torch.Tensor, row: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Softmax of values (n,) among those with the same `row`."""
    top = torch.full((n_rows,), -torch.inf, device=values.device).scatter_reduce(0, row, values.detach(), "amax")
    raised = (values - top[row]).exp()
    return raised / torch.zeros(n_rows, device=values.device).index_add(0, row, raised)[row]


def halves(vectors: torch.Tensor) -> torch.Tensor:
    """(..., 2 d): the positive entries and, with the sign changed, the negative ones; zeros elsewhere.

    ReLU(x y) = x+ y+ + x- y-, so that v ReLU(s * q) is an inner product of what is the user's and what is the item's.
    """
    return torch.cat([functional.relu(vectors), functional.relu(-vectors)], dim=-1)


def user_parts(weights: Tensors, own: torch.Tensor, taken: torch.Tensor, any_item: torch.Tensor) -> Parameters:
    """p, s, the gate v2 (s+ - p+), v2 (s- - p-), and whether the gate may open."""
    gate = weights["gate.weight"].repeat(1, 2) * (halves(taken) - halves(own))
    return {"user.p": own, "user.s": taken, "user.gate": gate, "user.any": any_item[:, None].to(own.dtype)}


def gated(parts: Tensors) -> torch.Tensor:
    """(beta_1 s + beta_2 p) q from the parts of users (B, 1, .) and items (B or 1, C, .)."""
    opened = torch.sigmoid(inner(parts["user.gate"], parts["item.halves"])) * parts["user.any"][..., 0]
    return torch.lerp(inner(parts["user.p"], parts["item.q"]), inner(parts["user.s"], parts["item.q"]), opened)


@network("natr")
def natr(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Weights as `Transfer.served` gives them."""
    return gated({name: value[user if name.startswith("user.") else item] for name, value in weights.items()})


@network("natr-source")
def natr_source(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Inner products of the sources' vectors."""
    return inner(weights["user.source"][user], weights["item.source"][item])
