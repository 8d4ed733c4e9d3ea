"""Popularity: the floor that every personalised method must clear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmr_core.errors import Cancelled
from cmr_core.interfaces import FloatArray, MarketView, ParameterCount, Progress, Run, Task
from cmr_core.models.base import Factors
from cmr_core.models.registry import Config, register


class PopularityConfig(Config):
    """Popularity has no settings."""


@register(
    "popularity",
    label="Popularity",
    family="reference",
    color="#9d9d9d",
    config=PopularityConfig,
    deterministic=True,
    uses_sources=False,
)
class Popularity:
    """Recommends to everybody what most users of the target market have had.

    Score of an item: its distinct training users in the target market. No parameters. O(interactions).
    """

    def __init__(self, config: PopularityConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Factors:
        """Count users per item. Raises Cancelled when somebody asked the run to stop."""
        return _fit(task, run, [task.target])


@register(
    "popularity-all",
    label="Popularity, all markets",
    family="reference",
    color="#5f5f5f",
    config=PopularityConfig,
    deterministic=True,
)
class PopularityAll:
    """Recommends to everybody what most users of all markets together have had, among what the target sells.

    Score of an item: its distinct training users in target and sources. No parameters. O(interactions).
    """

    def __init__(self, config: PopularityConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Factors:
        """Count users per item. Raises Cancelled when somebody asked the run to stop."""
        return _fit(task, run, task.markets)


def users_per_item(view: MarketView, n_items: int) -> FloatArray:
    """Distinct training users of each item, by global code: float32 (n_items,)."""
    pairs = np.unique(np.stack([view.train.user, view.train.item]), axis=1)
    return np.bincount(view.catalogue[pairs[1]], minlength=n_items).astype(np.float32)


def _fit(task: Task, run: Run, views: Sequence[MarketView]) -> Factors:
    if run.monitor.cancelled():
        raise Cancelled("The run was stopped on request.")
    total = np.sum([users_per_item(view, task.n_items) for view in views], axis=0)
    run.monitor.report(Progress("fit", 1, 1))
    nothing = np.zeros((task.target.n_users, 1), dtype=np.float32)
    return Factors(
        ParameterCount(),
        user=nothing,
        item=np.zeros((task.target.n_items, 1), dtype=np.float32),
        bias=total[task.target.catalogue],
    )
