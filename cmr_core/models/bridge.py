"""Methods of two domains, the target and its sources as one, for markets: shared items are the bridge, users disjoint.

Each domain has a table of its users and one of its items; an item of both domains has a row in each, its mate. Every
step takes a batch of either domain. A method says what its vectors become (`Form`); training, validation and the
stored model all go through the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.errors import SpecError
from cmr_core.interfaces import IntArray, MarketView, ParameterCount, Run, Task
from cmr_core.models.embedding import best_details
from cmr_core.models.neural import NeuralScorer, Tensors
from cmr_core.models.pointwise import (
    Batch,
    Layout,
    PointwiseConfig,
    Rows,
    bce,
    count,
    fit_steps,
    fitted,
    judge,
    together,
)
from cmr_core.models.towers import Parameters, table
from cmr_core.spec import Name

Side = Literal["source", "target"]
OTHER: Mapping[Side, Side] = {"source": "target", "target": "source"}
_TABLES = ("own.user", "own.item", "other.user", "other.item")


class BridgeConfig(PointwiseConfig):
    """Settings of every method of two domains."""

    dimensions: int = Field(32, ge=1, le=4096, description="Length of each user's and item's vector")
    epoch_by: Literal["target", "source"] = Field(
        "target", description="The domain whose training pairs make one pass; the other one keeps step with it"
    )
    source: Name | None = Field(None, description="Learn from this one of the sources; empty: from all as one domain")


class Items(NamedTuple):
    """Items as a domain sees them: (..., d) each, and whether the other domain sells them too, (...) bool."""

    own: torch.Tensor
    mate: torch.Tensor  # the row in the other domain; zeros where there is none
    shared: torch.Tensor


@dataclass(frozen=True)
class Form:
    """What a method makes of the vectors. In its functions the weights of the domain at hand are called `own.*`, those
    of the other one `other.*`, whichever they are; others keep their names.

    `users` and `items` give all that depends on one user or one item alone, as `user.*` and `item.*`; in a stored model
    these are computed once. `logits` takes the weights with such parts, whose leading shapes broadcast; a generator
    says that this is training. `penalty` is added once per step, from the weights as the target sees them and the items
    of its batch. `fixed`: constants that a stored model needs. `clip` bounds the norm of the gradient.
    """

    network: str
    users: Callable[[Tensors, torch.Tensor], Parameters]
    items: Callable[[Tensors, Items], Parameters]
    logits: Callable[[Tensors, torch.Generator | None], torch.Tensor]
    penalty: Callable[[Tensors, Items], torch.Tensor] | None = None
    fixed: Parameters = field(default_factory=dict)
    loss_weights: Mapping[Side, float] = field(default_factory=lambda: {"source": 1.0, "target": 1.0})
    clip: float | None = None


class Bridge:
    """Both domains' rows, and each item's row in the other domain. Memory: O(pairs * (1 + negatives))."""

    def __init__(self, task: Task, config: BridgeConfig, device: str) -> None:
        views: dict[Side, tuple[MarketView, ...]] = {"source": chosen_sources(task, config), "target": (task.target,)}
        self.layouts = {side: Layout(views[side]) for side in views}
        self._rows = {side: Rows(layout, config.negatives, device) for side, layout in self.layouts.items()}
        self._lead: Side = config.epoch_by
        self._size, self.device = config.batch_size, device
        self.mates = {side: torch.from_numpy(self._mates(side)).to(device) for side in self.layouts}

    def tables(self, dimensions: int, generator: torch.Generator, *, user_dimensions: int | None = None) -> Parameters:
        """`source.user`, `source.item`, `target.user`, `target.item`."""
        found: Parameters = {}
        for side, layout in self.layouts.items():
            found[f"{side}.user"] = table(layout.n_users, user_dimensions or dimensions, generator, deviation=0.1)
            found[f"{side}.item"] = table(layout.n_items, dimensions, generator, deviation=0.1)
        return found

    def batches(self, generator: torch.Generator) -> Iterator[dict[Side, Batch]]:
        """One pass over the leading domain, with a batch of the other one beside each of its own.

        The other domain is cut short, or gone through again, as needed.
        """
        lead, other = self._rows[self._lead], self._rows[OTHER[self._lead]]
        for own, beside in together([lead, other], self._size, generator, most=len(lead)):
            yield {self._lead: own, OTHER[self._lead]: beside}

    def items(self, weights: Tensors, side: Side, rows: torch.Tensor) -> Items:
        """The items in `rows` of the side's table; `weights` as the side sees them."""
        mates = self.mates[side][rows]
        shared = mates >= 0
        mate = functional.embedding(mates.clamp(min=0), weights["other.item"]) * shared[..., None]
        return Items(functional.embedding(rows, weights["own.item"]), mate, shared)

    def _mates(self, side: Side) -> IntArray:
        own, other = self.layouts[side].items_known, self.layouts[OTHER[side]].items_known
        at = np.searchsorted(other, own).clip(max=len(other) - 1)
        return np.where(other[at] == own, at, -1)


def fit_form(
    form: Form, start: Parameters, bridge: Bridge, config: BridgeConfig, run: Run, generator: torch.Generator
) -> NeuralScorer:
    """Train the weights `start` (`source.*`, `target.*`, others) on both domains; stop on the target's validation.

    Returns the target's model. Raises as `training.loop.train`. Cost of an epoch: the network, and Adam on the whole
    tables, for each batch of the leading domain.
    """
    (target,), layout = bridge.layouts["target"].views, bridge.layouts["target"]

    def loss(batch: Mapping[Side, Batch]) -> torch.Tensor:
        losses = []
        for side, own in batch.items():
            weights = seen_from(start, side) | form.fixed
            items = bridge.items(weights, side, own.item)
            parts = _parts(form, weights, own.user[:, None], items)
            losses.append(form.loss_weights[side] * bce(form.logits(parts, generator)))
            if side == "target" and form.penalty is not None:
                losses.append(form.penalty(weights, items))
        return torch.stack(losses).sum()

    def validate() -> float:
        return judge(run, form.network, serve(form, start, bridge), layout, [target], config.valid_users)

    arrays = fit_steps(
        form.network,
        start,
        lambda: bridge.batches(generator),
        loss,
        validate,
        generator,
        config.steps(),
        run,
        clip=form.clip,
    )
    best = {name: torch.from_numpy(value).to(run.device) for name, value in arrays.items() if name != "best"}
    served = {name: value.cpu().numpy() for name, value in serve(form, best, bridge).items()}
    trainable = ParameterCount(trainable=count(arrays))
    return fitted(form.network, served, layout, target, trainable, run, best_details(form.network, arrays))


def serve(form: Form, weights: Tensors, bridge: Bridge) -> dict[str, torch.Tensor]:
    """What the target's model needs: the parts of all its users and items, and the network; no table of the sources."""
    layout = bridge.layouts["target"]
    users, items = (torch.arange(n, device=bridge.device) for n in (layout.n_users, layout.n_items))
    with torch.no_grad():
        seen = seen_from(weights, "target") | form.fixed
        parts = _parts(form, seen, users, bridge.items(seen, "target", items))
    return {name: value for name, value in parts.items() if name not in _TABLES}


def seen_from(weights: Tensors, side: Side) -> dict[str, torch.Tensor]:
    """`own.*` and `other.*` for the weights of the two domains."""
    role = {side: "own", OTHER[side]: "other"}
    found = {}
    for name, value in weights.items():
        kind, _, rest = name.partition(".")
        found[f"{role.get(kind, kind)}.{rest}"] = value  # type: ignore[call-overload]
    return found


def pick(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights with the rows of the `user.*` and `item.*` arrays that a network is asked for."""
    rows = {"user": user, "item": item}
    kinds = {name: name.partition(".")[0] for name in weights}
    return {name: value[rows[kinds[name]]] if kinds[name] in rows else value for name, value in weights.items()}


def chosen_sources(task: Task, config: BridgeConfig) -> tuple[MarketView, ...]:
    """The task's sources, or the one that is set. Raises SpecError where it is not among them."""
    found = tuple(view for view in task.sources if config.source in (None, view.name))
    if not found:
        names = ", ".join(view.name for view in task.sources)
        raise SpecError(f"Market {config.source!r} is no source of this run.", hint=f"Sources: {names}.")
    return found


def _parts(form: Form, weights: Tensors, users: torch.Tensor, items: Items) -> dict[str, torch.Tensor]:
    vectors = functional.embedding(users, weights["own.user"])
    return {**weights, **form.users(weights, vectors), **form.items(weights, items)}
