"""Pointwise training: pairs with negatives of their own market, and the steps of an epoch, for all that learn so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Arrays, IntArray, MarketView, ParameterCount, Run
from cmr_core.models.negatives import Negatives, Stacked
from cmr_core.models.neural import Live, NeuralScorer, Tensors
from cmr_core.models.registry import Config
from cmr_core.models.towers import Parameters
from cmr_core.spec import Frozen
from cmr_core.training.checkpoint import Trainable, adam
from cmr_core.training.loop import Schedule, mean_known, train, train_along
from cmr_core.training.replay import Replayed

B = TypeVar("B")


class Steps(Frozen):
    """How a stage is trained. `batch_size` counts examples: positives and negatives."""

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    eval_every: int
    patience: int
    patience_reset: bool = True

    @property
    def schedule(self) -> Schedule:
        """For the epoch loop."""
        return Schedule(self.epochs, self.eval_every, self.patience, resets=self.patience_reset)


class StepsConfig(Config):
    """Settings of one training by `fit_steps`."""

    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size")
    weight_decay: float = Field(1e-6, ge=0, le=1, description="Adam's weight decay on all parameters")
    batch_size: int = Field(2048, ge=2, le=1_000_000, description="Positives and negatives per step")
    epochs: int = Field(50, ge=1, le=5000, description="Passes over the training pairs at most")
    eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")
    valid_users: int = Field(500, ge=10, le=1_000_000, description="Users per market that a look asks at most")

    def steps(self) -> Steps:
        """What `fit_steps` takes."""
        return Steps(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
            eval_every=self.eval_every,
            patience=self.patience,
        )


class PointwiseConfig(StepsConfig):
    """Settings of every method that is trained on single pairs with a label."""

    negatives: int = Field(4, ge=1, le=1000, description="Items that the user does not have, drawn per training pair")


class Layout:
    """Rows of the tables that several markets share: users stacked market by market, items of all catalogues once."""

    def __init__(self, views: Sequence[MarketView]) -> None:
        self.views = tuple(views)
        offsets = np.cumsum([0, *(view.n_users for view in views)])
        self._first = {view.name: int(offset) for view, offset in zip(views, offsets, strict=False)}
        self.items_known = np.unique(np.concatenate([view.catalogue for view in views]))  # global codes, ascending
        self.n_users, self.n_items = int(offsets[-1]), len(self.items_known)

    def users(self, view: MarketView) -> IntArray:
        """Rows of the market's users, in local order."""
        return self._first[view.name] + np.arange(view.n_users)

    def items(self, view: MarketView) -> IntArray:
        """Rows of the market's catalogue, in local order."""
        return np.searchsorted(self.items_known, view.catalogue)


class Batch(NamedTuple):
    """P training pairs with k negatives each: rows of a layout. Column 0 of `item` is the positive."""

    user: torch.Tensor  # (P,)
    item: torch.Tensor  # (P, 1 + k)
    market: torch.Tensor  # (P,) index into the layout's views


class Rows:
    """One epoch: every training pair once, in random order, with fresh negatives of its own market.

    A pair and its negatives stay together, so that a network looks up, and multiplies, each user once and not 1 + k
    times. Pairs of users who have the whole catalogue have no negative and are left out. Raises TrainingError where no
    pair is left. Memory: O(pairs * (1 + k)).
    """

    def __init__(
        self, layout: Layout, negatives: int, device: str, *, views: Sequence[MarketView] | None = None
    ) -> None:
        chosen = layout.views if views is None else tuple(views)  # `views`: the epochs go through these markets only
        self.negatives = negatives
        self._draw = Negatives(chosen, device)
        pairs = Stacked(chosen, [layout.items(view) for view in chosen], self._draw)
        place = {view.name: at for at, view in enumerate(layout.views)}
        user = np.concatenate([layout.users(view) for view in chosen])[pairs.user]
        market = np.array([place[view.name] for view in chosen])[pairs.market]
        self._own, self._user, self._item, self._market, self._shift, self._table = (
            torch.from_numpy(array).to(device)
            for array in (pairs.user, user, pairs.item, market, pairs.shift, pairs.table)
        )

    def __len__(self) -> int:
        return len(self._user)

    def pairs(self, size: int) -> int:
        """Training pairs in a batch of `size` examples."""
        return max(1, size // (1 + self.negatives))

    def batches(self, size: int, generator: torch.Generator, *, most: int | None = None) -> Iterator[Batch]:
        """One epoch in batches of `size` examples, or its first `most` pairs; O(pairs * k log)."""
        order = torch.randperm(len(self), device=self._user.device, generator=generator)[:most]
        own = self._own[order, None].expand(-1, self.negatives).contiguous()
        drawn = self._table[self._shift[order, None] + self._draw.draw(own, generator)]
        item = torch.cat([self._item[order, None], drawn], dim=1)
        step = self.pairs(size)
        parts = (torch.split(array, step) for array in (self._user[order], item, self._market[order]))
        return (Batch(*part) for part in zip(*parts, strict=True))


def endless(rows: Rows, size: int, generator: torch.Generator, *, most: int | None = None) -> Iterator[Batch]:
    """Batches of one epoch after the other; of each the first `most` pairs."""
    while True:
        yield from rows.batches(size, generator, most=most)


def together(
    rows: Sequence[Rows], size: int, generator: torch.Generator, *, most: int | None = None
) -> Iterator[tuple[Batch, ...]]:
    """One batch of each, as long as the first one's epoch lasts; the others begin again where they end.

    `most` cuts the others' epochs to that many pairs, so that no more are drawn than the first one's epoch needs.
    """
    others = [endless(each, size, generator, most=most) for each in rows[1:]]
    for first in rows[0].batches(size, generator):
        yield first, *(next(other) for other in others)


def bce(logits: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of logits (P, 1 + k) whose column 0 is labelled 1 and the others 0."""
    return (functional.softplus(-logits[:, 0]).sum() + functional.softplus(logits[:, 1:]).sum()) / logits.numel()


def fit_steps(
    stage: str,
    parameters: Parameters,
    batches: Callable[[], Iterator[B]],
    loss: Callable[[B], torch.Tensor],
    validate: Callable[[], float],
    generator: torch.Generator,
    steps: Steps,
    run: Run,
    *,
    rates: Mapping[str, float] | None = None,
    clip: float | None = None,
    along: str | None = None,
    replayed: bool = False,
) -> Arrays:
    """Adam on the mean `loss` of each batch of an epoch; everything random comes from `generator`.

    `clip` bounds the norm of the whole gradient. `along`: the key of `training.loop.train_along`, where runs that are
    judged differently train alike. `replayed`: on a GPU record the steps, if `loss` allows it (`training.replay`).
    Returns the parameters at the best validation value, and `best` (2,), its epoch and value. Raises as
    `training.loop.train`.
    """
    model = adam(parameters, steps.learning_rate, generator, weight_decay=steps.weight_decay, rates=rates)
    values = list(parameters.values())

    def step(batch: B) -> torch.Tensor:
        found = loss(batch)
        model.optimizer.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(values, clip)
        model.optimizer.step()
        return found.detach()

    if replayed and run.device != "cpu":
        return fit(stage, model, batches, Replayed(step, model), validate, steps, run, along=along)
    return fit(stage, model, batches, step, validate, steps, run, along=along)


def fit(
    stage: str,
    model: Trainable,
    batches: Callable[[], Iterator[B]],
    step: Callable[[B], torch.Tensor],
    validate: Callable[[], float],
    steps: Steps,
    run: Run,
    *,
    along: str | None = None,
) -> Arrays:
    """As `fit_steps`, with a `step` that changes the parameters itself and returns its loss."""

    def epoch() -> dict[str, float]:
        return {"loss": float(torch.stack([step(batch) for batch in batches()]).mean())}

    if along is None:
        trained = train(stage, model, epoch, validate, run.monitor, steps.schedule)
    else:
        trained = train_along(stage, model, epoch, validate, run.monitor, steps.schedule, along)
    best = np.array([trained.best_epoch, trained.best_value], dtype=np.float64)
    return {name: value.cpu().numpy() for name, value in trained.best.items()} | {"best": best}


def judge(
    run: Run,
    network: str,
    weights: Mapping[str, torch.Tensor],
    layout: Layout,
    views: Sequence[MarketView],
    users: int | None,
) -> float:
    """Mean validation value of a network over markets; nan where none has validation rows.

    Each market is asked with its own rows of the `user.*` and `item.*` tables, at most `users` of its users.
    """
    return judge_by(run, network, lambda view: cut(weights, layout, view), views, users)


def judge_by(
    run: Run, network: str, weights: Callable[[MarketView], Tensors], views: Sequence[MarketView], users: int | None
) -> float:
    """As `judge`, with the weights that each market's scores are computed from, once per call."""
    found = []
    for view in views:
        own = weights(view)
        live = Live(network, lambda own=own: own, view.n_items, run.device)  # type: ignore[misc]
        found.append(run.validate(view.name, live, users=users))
    return mean_known(found)


def cut(weights: Mapping[str, torch.Tensor], layout: Layout, view: MarketView) -> dict[str, torch.Tensor]:
    """The weights with the market's rows of the `user.*` and `item.*` tables only, in local order."""
    rows = {"user": layout.users(view), "item": layout.items(view)}
    return {name: _rows_of(name, value, rows) for name, value in weights.items()}


def fitted(
    network: str,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    view: MarketView,
    parameters: ParameterCount,
    run: Run,
    details: Mapping[str, float | str],
) -> NeuralScorer:
    """The stored model of one market: its rows of the tables, and the network."""
    kept = {name: torch.from_numpy(value) for name, value in arrays.items() if name != "best"}
    weights = {name: value.numpy() for name, value in cut(kept, layout, view).items()}
    return NeuralScorer(parameters, network, weights, view.n_items, details, run.device)


def count(arrays: Mapping[str, np.ndarray]) -> int:
    """Scalars in the arrays of `fit_steps`."""
    return sum(value.size for name, value in arrays.items() if name != "best")


def _rows_of(name: str, value: torch.Tensor, rows: Mapping[str, IntArray]) -> torch.Tensor:
    kind = name.partition(".")[0]
    if kind not in rows:
        return value.detach()
    return value.detach()[torch.from_numpy(rows[kind]).to(value.device)]
