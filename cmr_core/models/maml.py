"""MAML over markets (Finn et al., ICML 2017; for markets Bonab et al., CIKM 2021), as a method and as FOREC's stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field

from cmr_core.interfaces import Arrays, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import best_details
from cmr_core.models.ncf import neumf
from cmr_core.models.ncf_training import FOREC_CODE, OrderConfig, Plan, Scope, TowerConfig, trained
from cmr_core.models.neural import NeuralScorer, Tensors
from cmr_core.models.pointwise import Batch, Layout, Rows, Steps, bce, count, cut, fit_steps, judge_by
from cmr_core.models.registry import register
from cmr_core.models.towers import lookup
from cmr_core.spec import Frozen
from cmr_core.training.monitor import device_kind, shared_key

TABLES = ("user.gmf", "item.gmf", "user.mlp", "item.mlp")


class Meta(Frozen):
    """Everything that decides the meta-training, beside NeuMF's plan, data, rule, seed and device."""

    steps: Steps  # batch_size counts examples of a support, and of a query
    inner_rate: float
    first_order: bool
    serving_batches: int
    serving_steps: int = 1


class MetaConfig(TowerConfig, OrderConfig):
    """Settings of NeuMF on all markets, and of the meta-training that goes on from it."""

    inner_rate: float = Field(0.1, gt=0, le=10, description="Step size of the one step that adapts to a market")
    first_order: bool = Field(
        False, description="Leave out the second derivatives, which is faster and no longer quite MAML"
    )
    meta_learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size in meta-training; published: .01")
    meta_weight_decay: float = Field(1e-7, ge=0, le=1, description="Adam's weight decay in meta-training")
    meta_batch: int = Field(
        512, ge=2, le=1_000_000, description="Examples of a market's support, and of its query; published: 20"
    )
    meta_epochs: int = Field(25, ge=1, le=5000, description="Passes over the largest market's pairs at most")
    meta_eval_every: int = Field(1, ge=1, le=100, description="Passes between two looks at validation")
    meta_patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")
    serving_batches: int = Field(
        16, ge=1, le=10_000, description="Supports whose gradients make the step that serves a market; published: 1"
    )

    def meta(self) -> Meta:
        """What `meta_trained` takes."""
        return Meta(
            steps=Steps(
                learning_rate=self.meta_learning_rate,
                weight_decay=self.meta_weight_decay,
                batch_size=self.meta_batch,
                epochs=self.meta_epochs,
                eval_every=self.meta_eval_every,
                patience=self.meta_patience,
            ),
            inner_rate=self.inner_rate,
            first_order=self.first_order,
            serving_batches=self.serving_batches,
        )


class MAMLConfig(MetaConfig):
    """Settings of the meta-training, and of what serves a market after it."""

    serving_steps: int = Field(
        1,
        ge=1,
        le=1000,
        description="Inner steps in a row that serve a market, by the mean of the parameters after each",
    )

    def meta(self) -> Meta:
        """With the steps that serve a market."""
        return super().meta().model_copy(update={"serving_steps": self.serving_steps})


@register(
    "maml",
    label="MAML",
    family="cross-market",
    color="#ff7f0e",
    config=MAMLConfig,
    published=FOREC_CODE | {"learning_rate": 0.01, "pretrain": True, "meta_learning_rate": 0.01, "meta_batch": 20},
)
class MAML:
    """NeuMF on all markets, trained so that one step on a market's own pairs adapts it to that market.

    Finn et al. (ICML 2017) with markets as tasks, as in Bonab et al. (CIKM 2021): theta' = theta - a * grad L(support),
    and Adam on the mean over markets of L(query; theta'). It begins from NeuMF on all markets, and serves the target
    after one inner step on its training pairs (the public code steps on validation pairs), or with `serving_steps` by
    the mean of the parameters after each of several. All targets share the training. With the defaults, validation
    kept the start (NeuMF on all markets) in the one seed that was tried, so only the step at the end adapts. By default
    NeuMF begins from random vectors; published is GMF, then MLP, then both joined (`pretrain`). Memory:
    NeuMF's. A step: about six times NeuMF's on the same examples, half of them a support; an epoch reads the
    largest market's pairs once, and as many of every other market's.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: MAMLConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Meta-train on all markets, and adapt to the target."""
        scope, plan, meta = Scope.everybody(task), self.config.plan(), self.config.meta()
        arrays = meta_trained(scope, run, plan, meta)
        kept = {name: torch.from_numpy(value).to(run.device) for name, value in arrays.items() if name != "best"}
        rows = Rows(scope.layout, plan.negatives, run.device, views=[task.target])
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        adapted = serve(kept, rows, scope.layout, task.target, meta, generator)
        weights = {name: value.cpu().numpy() for name, value in adapted.items()}
        size = ParameterCount(trainable=count(arrays))
        return NeuralScorer(size, "neumf", weights, task.target.n_items, best_details("maml", arrays), run.device)


class Tasks(NamedTuple):
    """A batch of M markets: pairs with negatives to adapt on, and pairs with negatives to judge by; layout rows."""

    user: torch.Tensor  # (M, 2, P): support, query
    item: torch.Tensor  # (M, 2, P, 1 + k)


def meta_trained(scope: Scope, run: Run, plan: Plan, meta: Meta) -> Arrays:
    """NeuMF's parameters and `best` after meta-training, from NeuMF trained on the scope's markets."""
    stage, device = f"maml{scope.suffix}", device_kind(run.device)
    parts = (scope.digest, run.validate.digest, plan.digest(), meta.digest(), run.seed, device)
    return run.monitor.shared(shared_key(stage, *parts), lambda: _train(stage, scope, run, plan, meta))


def _train(stage: str, scope: Scope, run: Run, plan: Plan, meta: Meta) -> Arrays:
    start = trained("neumf", scope, run, plan)
    parameters = {
        name: torch.tensor(value, device=run.device, requires_grad=True)
        for name, value in start.items()
        if name != "best"
    }
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    rows = [Rows(scope.layout, plan.negatives, run.device, views=[view]) for view in scope.views]

    def validate() -> float:
        # the same supports at each look: only the parameters should move its value
        fixed = torch.Generator(device=run.device).manual_seed(run.seed)

        def of(view: MarketView) -> Tensors:
            return serve(parameters, rows[scope.views.index(view)], scope.layout, view, meta, fixed)

        return judge_by(run, "neumf", of, scope.views, plan.valid_users)

    return fit_steps(
        stage,
        parameters,
        lambda: tasks(rows, meta.steps.batch_size, generator),
        lambda batch: meta_loss(parameters, batch, meta.inner_rate, first_order=meta.first_order),
        validate,
        generator,
        meta.steps,
        run,
    )


def tasks(rows: list[Rows], size: int, generator: torch.Generator) -> Iterator[Tasks]:
    """One epoch: the largest market's pairs once, half of them support, half query; small markets again and again."""
    pairs = min(max(1, size // (1 + rows[0].negatives)), max(1, max(map(len, rows)) // 2))
    steps = max(1, max(map(len, rows)) // (2 * pairs))
    drawn = [_cycled(of, 2 * pairs * steps, generator) for of in rows]
    user = torch.stack([batch.user for batch in drawn]).view(len(rows), steps, 2, pairs)
    item = torch.stack([batch.item for batch in drawn]).view(len(rows), steps, 2, pairs, -1)
    return (Tasks(user[:, at], item[:, at]) for at in range(steps))


def meta_loss(weights: Tensors, batch: Tasks, inner_rate: float, *, first_order: bool = False) -> torch.Tensor:
    """Mean over markets of L(query; theta - inner_rate * grad L(support; theta)).

    Each market gets copies of the rows that its pairs read, and nothing else of the tables: all markets at once.
    """
    markets, _, pairs = batch.user.shape
    user = batch.user.reshape(markets, -1)
    item = batch.item.reshape(markets, -1)
    codes = {"user": _first(user).view(markets, 2, pairs, 1), "item": _first(item).view(batch.item.shape)}
    rows = {"user": user, "item": item}
    network = {name: value for name, value in weights.items() if name not in TABLES}
    copies = {name: lookup(weights[name], rows[name[:4]]) for name in TABLES}  # (M, n, d)

    def loss(own: dict[str, torch.Tensor], users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return bce(neumf(own, users, items))

    def market(tables: dict[str, torch.Tensor], users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        theta = {**network, **tables}
        gradient = torch.func.grad(loss)(theta, users[0], items[0])
        if first_order:
            gradient = {name: value.detach() for name, value in gradient.items()}
        return loss({name: theta[name] - inner_rate * gradient[name] for name in theta}, users[1], items[1])

    losses: torch.Tensor = torch.func.vmap(market)(copies, codes["user"], codes["item"])
    return losses.mean()


def serve(
    weights: Tensors, rows: Rows, layout: Layout, view: MarketView, meta: Meta, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The market's own weights: the mean of those after each of the inner steps, which follow one another.

    theta_k = theta_(k-1) - a * the mean gradient over some supports of the market's pairs, drawn anew for each step.
    Memory: some copies of the weights. Cost: forward and backward on `serving_steps` x `serving_batches` supports.
    """
    size = max(1, meta.steps.batch_size // (1 + rows.negatives)) * meta.serving_batches
    theta = mean = {name: value.detach() for name, value in weights.items()}
    for step in range(1, meta.serving_steps + 1):
        theta = _step(theta, _cycled(rows, size, generator), meta.inner_rate)
        mean = {name: torch.lerp(value, theta[name], 1 / step) for name, value in mean.items()}
    return cut(mean, layout, view)


def _step(weights: Tensors, support: Batch, inner_rate: float) -> dict[str, torch.Tensor]:
    theta = {name: value.detach().requires_grad_() for name, value in weights.items()}
    loss = bce(neumf(theta, support.user[:, None], support.item))
    gradient = torch.autograd.grad(loss, list(theta.values()))
    return {n: torch.add(v.detach(), g, alpha=-inner_rate) for (n, v), g in zip(theta.items(), gradient, strict=True)}


def _cycled(rows: Rows, n: int, generator: torch.Generator) -> Batch:
    """`n` pairs in random order, from as many epochs as that takes."""
    found: list[Batch] = []
    while sum(len(batch.user) for batch in found) < n:
        found += rows.batches(len(rows) * (1 + rows.negatives), generator)
    return Batch(*(torch.cat(parts)[:n] for parts in zip(*found, strict=True)))


def _first(codes: torch.Tensor) -> torch.Tensor:
    """Where each row's code (M, n) occurs first in the row."""
    order = codes.argsort(dim=1, stable=True)
    ascending = codes.gather(1, order)
    new = torch.ones_like(ascending, dtype=torch.bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    places = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
    begin = torch.where(new, places, 0).cummax(dim=1).values
    return torch.empty_like(codes).scatter_(1, order, order.gather(1, begin))
