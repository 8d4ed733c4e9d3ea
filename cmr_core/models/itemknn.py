"""Item neighbours by damped cosine similarity of co-occurrence counts (METHODS: S_ij = c_ij / (sqrt(c_i c_j) + h))."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from pydantic import Field

from cmr_core.interfaces import FloatArray, Run, Task
from cmr_core.models.base import ItemItem
from cmr_core.models.cooccurrence import Choice, Counts, choose, fit_once
from cmr_core.models.registry import Config, register

SHRINKAGES = (0.0, 10.0, 50.0)


class ItemKNNConfig(Config):
    """Settings of item neighbours in the target market."""

    neighbours: int = Field(100, ge=1, le=100_000, description="Most similar items kept for each item")
    shrinkage: float = Field(
        10.0, ge=0, le=1e4, description="Damps similarities that rest on few users; the starting point with `tune`"
    )
    tune: bool = Field(True, description="Choose the shrinkage on validation among 0, 10, 50 and the given value")


class WeightedItemKNNConfig(Config):
    """Settings of item neighbours from all markets."""

    neighbours: int = Field(100, ge=1, le=100_000, description="Most similar items kept for each item")
    shrinkage: float = Field(
        10.0, ge=0, le=1e4, description="Damps similarities that rest on few users; the starting point with `tune`"
    )
    source_weight: float = Field(
        0.3, ge=0, le=10, description="Weight of every source market's co-occurrences (target: 1); only without `tune`"
    )
    tune: bool = Field(
        True, description="Choose the shrinkage and one weight per source (0, 0.1, 0.3 or 1) on validation"
    )


@register(
    "itemknn",
    label="ItemKNN",
    family="single-market",
    color="#9c755f",
    config=ItemKNNConfig,
    deterministic=True,
    uses_sources=False,
)
class ItemKNN:
    """Recommends what is most often bought together with the user's items, in the target market alone.

    Damped cosine similarity as in Sarwar et al., WWW 2001, and Bell & Koren, 2007. Cost: O(n²) for n items,
    seconds. Memory: 12 n² bytes while computing, 4 n² bytes kept.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where settings are chosen by NDCG@10.
    """

    def __init__(self, config: ItemKNNConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem:
        """Count and damp. Raises Cancelled between two candidates, TrainingError without validation rows."""
        return _fit(task, run, self.config, Choice(self.config.shrinkage), use_sources=False)


@register(
    "itemknn-weighted",
    label="ItemKNN, weighted markets",
    family="cross-market",
    color="#6b4c3a",
    config=WeightedItemKNNConfig,
    deterministic=True,
)
class WeightedItemKNN:
    """Item neighbours from all markets' co-occurrences, each source market with a weight chosen on validation.

    The strongest simple way to borrow from other markets. Cost: O(n²) per candidate, about 7 + 2 per source
    candidates with `tune`. Memory: 12 n² bytes while computing, 8 n² bytes kept during the search.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where settings are chosen by NDCG@10.
    """

    def __init__(self, config: WeightedItemKNNConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem:
        """Count and damp. Raises Cancelled between two candidates, TrainingError without validation rows."""
        weights = {view.name: self.config.source_weight for view in task.sources}
        return _fit(task, run, self.config, Choice(self.config.shrinkage, weights), use_sources=True)


def similarities(counts: FloatArray, shrinkage: float, neighbours: int) -> FloatArray:
    """c_ij / (sqrt(c_i c_j) + shrinkage): float32 (n, n), zero diagonal, the `neighbours` largest of each column.

    `counts` (n, n) holds each item's own count on its diagonal. Column i holds what speaks for item i. Of equal
    similarities at the limit all are kept: no item wins by its position.
    """
    root = np.sqrt(counts.diagonal())
    scale = np.outer(root, root) + shrinkage
    similarity = np.divide(counts, scale, out=np.zeros_like(scale), where=scale > 0).astype(np.float32)
    np.fill_diagonal(similarity, 0.0)
    if neighbours < len(similarity):
        limit = np.partition(similarity, -neighbours, axis=0)[-neighbours]
        similarity[similarity < limit] = 0.0
    return similarity


def _solve(counts: Counts, neighbours: int, choice: Choice) -> FloatArray:
    return similarities(counts.weighted(choice.weights).toarray(), choice.strength, neighbours)


def _fit(
    task: Task, run: Run, config: ItemKNNConfig | WeightedItemKNNConfig, first: Choice, *, use_sources: bool
) -> ItemItem:
    solve = partial(_solve, Counts(task, use_sources=use_sources), config.neighbours)
    if not config.tune:
        return replace(fit_once(task, run, solve, first), details=first.details("shrinkage"))
    strengths = sorted({*SHRINKAGES, first.strength})
    fitted, choice, value = choose(task, run, solve, first, strengths)
    return replace(fitted, details={**choice.details("shrinkage"), "validation": value})
