"""Multi-task training: one network, one task for the target and one or more for the sources, stepping together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from cmr_core.errors import TrainingError
from cmr_core.interfaces import Arrays, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import best_details
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
from cmr_core.models.towers import Noise, Parameters


class MultitaskConfig(PointwiseConfig):
    """Settings of every multi-task method."""

    learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's step size")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Adam's weight decay on all parameters")
    dimensions: int = Field(32, ge=1, le=1024, description="Length of each user's and item's vector")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of the units that are left out in training")
    tasks: Literal["target-and-sources", "each-market"] = Field(
        "target-and-sources", description="The sources are one task together, or each market is a task of its own"
    )
    source_weight: float = Field(1.0, ge=0, le=100, description="Weight of each source task's loss; the target's is 1")


Start = Callable[[Layout, int, torch.Generator], Parameters]
"""Layout, number of tasks, generator -> parameters."""
TaskLogits = Callable[[Parameters, torch.Tensor, torch.Tensor, int, Noise], torch.Tensor]
"""Weights, users (P, 1), items (P, 1 + k), task, noise -> logits (P, 1 + k)."""


def fit_tasks(
    network: str,
    config: MultitaskConfig,
    start: Start,
    logits: TaskLogits,
    task: Task,
    run: Run,
    *,
    rates: Callable[[Parameters], dict[str, float]] = lambda _: {},
    details: Callable[[Arrays, Layout], dict[str, float | str]] = lambda arrays, layout: {},
) -> Recommender:
    """Train on the target and its sources, judged by the target; task 0 is the target's.

    Every step takes one batch of each task and adds their losses. An epoch is one pass over the target's pairs, beside
    as many of each source task, drawn anew for each epoch. Raises as `training.loop.train`.
    """
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    layout = Layout(task.markets)
    groups = _groups(config, task)
    parameters = start(layout, len(groups), generator)
    rows = [Rows(layout, config.negatives, run.device, views=group) for group in groups]
    number = torch.zeros(1, dtype=torch.int64, device=run.device)

    def batches() -> Iterator[tuple[Batch, ...]]:
        return together(rows, config.batch_size, generator, most=len(rows[0]))

    def loss(step: tuple[Batch, ...]) -> torch.Tensor:
        noise = Noise(config.dropout, generator)
        found = [bce(logits(parameters, b.user[:, None], b.item, at, noise)) for at, b in enumerate(step)]
        return found[0] + config.source_weight * torch.stack(found[1:]).sum() if len(found) > 1 else found[0]

    def validate() -> float:
        return judge(run, network, parameters | {"task": number}, layout, [task.target], config.valid_users)

    arrays = fit_steps(
        network, parameters, batches, loss, validate, generator, config.steps(), run, rates=rates(parameters)
    )
    size = ParameterCount(trainable=count(arrays))
    told = best_details(network, arrays) | details(arrays, layout)
    return fitted(network, arrays | {"task": np.zeros(1, dtype=np.int64)}, layout, task.target, size, run, told)


def _groups(config: MultitaskConfig, task: Task) -> list[list[MarketView]]:
    """The markets of each task, the target first; sources without a pair to learn from are left out."""
    sources = [view for view in task.sources if len(view.train)]
    if not sources:
        raise TrainingError(
            "No source market has training pairs to learn a second task from.", hint="Choose other source markets."
        )
    return (
        [[task.target], sources] if config.tasks == "target-and-sources" else [[task.target], *([v] for v in sources)]
    )
