"""Training of GMF, MLP and NeuMF, on one market or on all, with or without market vectors: shared stages.

Whoever asks for the same data, rule, settings and seed gets the same arrays, trained once. Pre-training is that of He
et al. (section 3.4.1): GMF, then MLP from GMF's tables, then NeuMF from both, whose output weights are halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from cmr_core.errors import SpecError
from cmr_core.interfaces import Arrays, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors
from cmr_core.models.embedding import best_details
from cmr_core.models.ncf import Sizes, gmf_start, mlp_start, neumf_start
from cmr_core.models.ncf_gradient import Kind, loss_and_gradients
from cmr_core.models.neural import NeuralScorer, Tensors
from cmr_core.models.pointwise import (
    Batch,
    Layout,
    PointwiseConfig,
    Rows,
    Steps,
    count,
    cut,
    endless,
    fit,
    judge_by,
)
from cmr_core.models.registry import Config
from cmr_core.models.towers import Parameters
from cmr_core.spec import Frozen, Scalar
from cmr_core.training.checkpoint import Trainable
from cmr_core.training.monitor import device_kind, shared_key
from cmr_core.training.table_adam import TableAdam

Order = Literal["concat", "equal", "smallest"]
MarketVectors = Literal["none", "one", "each"]
START = {"gmf": gmf_start, "mlp": mlp_start, "neumf": neumf_start}


class Plan(Frozen):
    """Everything that decides a stage, beside data, rule, seed and device."""

    steps: Steps
    dimensions: int
    units: int
    negatives: int
    valid_users: int
    pretrain: bool
    order: Order
    market_vectors: MarketVectors

    def of(self, kind: Kind) -> Plan:
        """Without what does not matter to `kind`, so that stages are shared wherever they are equal."""
        if kind == "gmf":
            return self.model_copy(update={"units": 0, "pretrain": False, "market_vectors": self._one()})
        return self if kind == "neumf" else self.model_copy(update={"market_vectors": self._one()})

    def _one(self) -> MarketVectors:
        return "none" if self.market_vectors == "none" else "one"


# settings that FOREC's code, and that of the market-aware models, has for these networks, beside the step size
FOREC_CODE: dict[str, Scalar] = {"dimensions": 8, "weight_decay": 1e-7, "batch_size": 1024, "epochs": 25}


class GMFConfig(PointwiseConfig):
    """Settings of GMF on the target market."""

    dimensions: int = Field(64, ge=1, le=1024, description="Length of each user's and item's vector; published: 8")

    def plan(self) -> Plan:
        """What `trained` takes."""
        return Plan(
            steps=self.steps(),
            dimensions=self.dimensions,
            units=getattr(self, "units", 0),
            negatives=self.negatives,
            valid_users=self.valid_users,
            pretrain=getattr(self, "pretrain", False),
            order=getattr(self, "order", "concat"),
            market_vectors="none",
        )


class TowerConfig(GMFConfig):
    """Settings of MLP and NeuMF on the target market."""

    units: int = Field(64, ge=8, le=4096, description="Units of the tower's first layer; each of three more has half")
    pretrain: bool = Field(
        False, description="Train GMF first, then MLP from its vectors, then NeuMF from both, as published"
    )


class MLPConfig(TowerConfig):
    """Settings of MLP on the target market."""

    pretrain: bool = Field(True, description="Start from the vectors of GMF, trained first; better on ca and uk")


class OrderConfig(Config):
    """How the markets' pairs make an epoch."""

    order: Order = Field(
        "concat",
        description="concat: all pairs once; equal: one batch per market in turn, small markets again and again; "
        "smallest: in turn too, until the smallest market is through",
    )


@dataclass(frozen=True)
class Scope:
    """Whose pairs a stage trains on, and by whose validation it is judged."""

    layout: Layout  # rows of the tables
    views: tuple[MarketView, ...]  # markets to train on, all of them in the layout
    digest: str
    suffix: str

    @staticmethod
    def alone(task: Task) -> Scope:
        """The target market."""
        return Scope(Layout([task.target]), (task.target,), task.target_digest, "")

    @staticmethod
    def everybody(task: Task, *, without_target: bool = False) -> Scope:
        """All of the task's markets, and all of them judge; or all but the target. Raises SpecError without any."""
        if not without_target:
            return Scope(Layout(task.markets), task.markets, task.digest, "-all")
        if not task.sources:
            raise SpecError(
                "Without the target there is no market to train on.",
                hint="Name source markets, or pre-train with the target.",
            )
        views = tuple(view for view in task.markets if view is not task.target)
        return Scope(Layout(task.markets), views, f"{task.digest} without {task.target.name}", "-sources")

    def sizes(self, plan: Plan) -> Sizes:
        """Of the tables."""
        return Sizes(users=self.layout.n_users, items=self.layout.n_items, dimensions=plan.dimensions, units=plan.units)


def trained(kind: Kind, scope: Scope, run: Run, plan: Plan) -> Arrays:
    """The parameters of GMF, MLP or NeuMF at best mean validation, and `best`, as `fit_steps` gives them.

    With market vectors also `market.gmf`, `market.mlp` (markets of the layout, d), or one `market` for both branches.
    """
    plan, stage = plan.of(kind), kind + ("-ma" if plan.market_vectors != "none" else "") + scope.suffix
    key = shared_key(stage, scope.digest, run.validate.digest, plan.digest(), run.seed, device_kind(run.device))
    return run.monitor.shared(key, lambda: _train(kind, stage, scope, run, plan))


def epochs(views: Sequence[MarketView], layout: Layout, run: Run, plan: Plan) -> Epochs:
    """The batches of the plan's epochs."""
    each = [views] if plan.order == "concat" else [[view] for view in views]
    return Epochs([Rows(layout, plan.negatives, run.device, views=some) for some in each], plan)


class Epochs:
    """Batches of an epoch: of one set of rows, or of several in turn."""

    def __init__(self, rows: Sequence[Rows], plan: Plan) -> None:
        self.rows, self._order, self._size = rows, plan.order, plan.steps.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch."""
        if self._order == "concat":
            yield from self.rows[0].batches(self._size, generator)
            return
        most = max if self._order == "equal" else min
        rounds = most(math.ceil(len(rows) / rows.pairs(self._size)) for rows in self.rows)
        streams = [endless(rows, self._size, generator) for rows in self.rows]
        for _ in range(rounds):
            for stream in streams:
                yield next(stream)


def local(kind: Kind, weights: Tensors, layout: Layout, view: MarketView) -> dict[str, torch.Tensor]:
    """What the network of one market needs: its rows of the tables, items already multiplied by its market vector."""
    found = both(cut(weights, layout, view))
    at = [other.name for other in layout.views].index(view.name)
    for branch in ("gmf", "mlp"):
        table = found.pop(f"market.{branch}", None)
        if table is not None and f"item.{branch}" in found:
            found[f"item.{branch}"] = found[f"item.{branch}"] * table[at]
    return found


def both(weights: Tensors) -> dict[str, torch.Tensor]:
    """Where there is one `market` for both branches, under the names of both."""
    found = dict(weights)
    if "market" in found:
        found["market.gmf"] = found["market.mlp"] = found.pop("market")
    return found


def served(kind: Kind, arrays: Arrays, layout: Layout, task: Task, run: Run) -> Recommender:
    """The stored model of the target. GMF is an inner product of u and w ⊙ i ⊙ market, so it is stored as vectors."""
    kept = {name: torch.from_numpy(value) for name, value in arrays.items() if name != "best"}
    weights = {name: value.numpy() for name, value in local(kind, kept, layout, task.target).items()}
    size, details = ParameterCount(trainable=count(arrays)), best_details(kind, arrays)
    if kind != "gmf":
        return NeuralScorer(size, kind, weights, task.target.n_items, details, run.device)
    item = weights["item.gmf"] * weights["out.weight"]
    bias = weights["out.bias"].repeat(task.target.n_items)
    return Factors(size, weights["user.gmf"], item, bias, user_base=weights["user.gmf"], details=details)


def _train(kind: Kind, stage: str, scope: Scope, run: Run, plan: Plan) -> Arrays:
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    epoch = epochs(scope.views, scope.layout, run, plan)
    parameters = start(kind, scope, run, plan)
    aware = plan.market_vectors != "none"
    model, step = prepare(kind, parameters, generator, plan.steps, aware=aware)

    def validate() -> float:
        def of(view: MarketView) -> Tensors:
            return local(kind, model.parameters, scope.layout, view)

        return judge_by(run, kind, of, scope.views, plan.valid_users)

    def batches() -> Iterator[Batch]:
        return epoch.batches(generator)

    return fit(stage, model, batches, step, validate, plan.steps, run)


def prepare(
    kind: Kind, parameters: Parameters, generator: torch.Generator, steps: Steps, *, aware: bool = False
) -> tuple[Trainable, Callable[[Batch], torch.Tensor]]:
    """What `fit` takes to train the network: the model, which has copies of the parameters, and the step."""
    tables = TableAdam(parameters, steps.learning_rate, weight_decay=steps.weight_decay)
    weights = both(tables.parameters)

    def step(batch: Batch) -> torch.Tensor:
        rows = torch.cat([batch.user, batch.item.t().reshape(-1) + tables.first_item])
        market = batch.market if aware else None
        loss, slope, others = loss_and_gradients(kind, weights, tables.read(rows), len(batch.user), market)
        if "market" in tables.parameters:
            branches = [others.pop(name) for name in list(others) if name.startswith("market.")]
            others["market"] = torch.stack(branches).sum(0)
        tables.update(slope, others)
        return loss

    return Trainable(tables.parameters, tables, generator), step


def start(kind: Kind, scope: Scope, run: Run, plan: Plan) -> Parameters:
    """Random tables, or those of the pre-training; market vectors begin at 1, which changes nothing."""
    generator = torch.Generator(device=run.device).manual_seed(run.seed + 1)
    found = START[kind](scope.sizes(plan), generator)
    if plan.market_vectors != "none":
        names = {"one": ["market"], "each": ["market.gmf", "market.mlp"]}
        shape = (len(scope.layout.views), plan.dimensions)
        for name in [f"market.{kind}"] if kind != "neumf" else names[plan.market_vectors]:
            found[name] = torch.ones(shape, device=run.device, requires_grad=True)
    if plan.pretrain and kind != "gmf":
        given = _pretrained(kind, scope, run, plan)
        for name, value in found.items():
            if name in given:
                value.detach().copy_(given[name])
    return found


def _pretrained(kind: Kind, scope: Scope, run: Run, plan: Plan) -> dict[str, torch.Tensor]:
    def stage(which: Kind) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(value).to(run.device) for name, value in trained(which, scope, run, plan).items()
        }

    shallow = stage("gmf")
    if kind == "mlp":
        return {
            name.replace("gmf", "mlp"): value for name, value in shallow.items() if name[:4] in ("user", "item", "mark")
        }
    deep = stage("mlp")
    found = {**shallow, **deep, "market": deep.get("market.mlp", torch.empty(0))}
    found["out.weight"] = torch.cat([deep["out.weight"], shallow["out.weight"]], dim=1) / 2
    found["out.bias"] = (deep["out.bias"] + shallow["out.bias"]) / 2
    return found
