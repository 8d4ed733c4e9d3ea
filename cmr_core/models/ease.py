"""EASE: a linear autoencoder over items, solved in closed form (Steck, WWW 2019, equations 4 and 8)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from cmr_core.interfaces import FloatArray, Run, Task
from cmr_core.models.base import ItemItem
from cmr_core.models.cooccurrence import Choice, Counts, choose, fit_once
from cmr_core.models.inverse import inverse
from cmr_core.models.registry import Config, register

REGULARISATIONS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class EASEConfig(Config):
    """Settings of EASE on the target market."""

    regularisation: float = Field(
        100.0, ge=0.1, le=1e6, description="L2 penalty on item weights; the starting point where `tune` is on"
    )
    tune: bool = Field(True, description="Choose on validation among 10, 30, 100, 300, 1000, 3000 and the given value")


class WeightedEASEConfig(Config):
    """Settings of EASE on the co-occurrences of all markets."""

    regularisation: float = Field(
        100.0, ge=0.1, le=1e6, description="L2 penalty on item weights; the starting point where `tune` is on"
    )
    source_weight: float = Field(
        0.3, ge=0, le=10, description="Weight of every source market's co-occurrences (target: 1); only without `tune`"
    )
    tune: bool = Field(
        True, description="Choose the penalty and one weight per source (0, 0.1, 0.3 or 1) on validation"
    )


@register(
    "ease",
    label="EASE",
    family="single-market",
    color="#54a24b",
    config=EASEConfig,
    deterministic=True,
    uses_sources=False,
)
class EASE:
    """Learns how much each item in a user's history speaks for each other item, in the target market alone.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. Closed form, no epochs.
    Cost: one inversion, n³ operations for n items at most; on sparse markets a tenth of it (about 1 s for 5,735 items
    on one core); with `tune` six or seven of them. Memory: 16 n² bytes while solving, 4 n² bytes kept.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where settings are chosen by NDCG@10.
    """

    def __init__(self, config: EASEConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem:
        """Solve for the item weights. Raises Cancelled between two inversions, TrainingError on a fault."""
        return _fit(task, run, Choice(self.config.regularisation), tune=self.config.tune, use_sources=False)


@register(
    "ease-weighted",
    label="EASE, weighted markets",
    family="cross-market",
    color="#2f6b2a",
    config=WeightedEASEConfig,
    deterministic=True,
)
class WeightedEASE:
    """EASE on the co-occurrences of all markets, each source market with a weight of its own chosen on validation.

    Inverts X_t'X_t + sum of w_m X_m'X_m over the items that the target sells; users are scored by their
    target history. Cost: one inversion per candidate, n³ operations for n items at most; with `tune` about
    10 + 2 per source. Memory: 16 n² bytes while solving, 8 n² bytes kept during the search.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where settings are chosen by NDCG@10.
    """

    def __init__(self, config: WeightedEASEConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem:
        """Solve for the item weights. Raises Cancelled between two inversions, TrainingError on a fault."""
        weights = {view.name: self.config.source_weight for view in task.sources}
        return _fit(task, run, Choice(self.config.regularisation, weights), tune=self.config.tune, use_sources=True)


def item_weights(gram: sp.csr_array, regularisation: float) -> FloatArray:
    """B = I - P diag(1/diag P) with P = (gram + regularisation I)^-1: float32 (n, n), zero diagonal.

    `gram` is symmetric, float64, sparse. Cost: see `inverse`. Raises TrainingError where it has no inverse.
    """
    p = inverse(sp.csr_array(gram + regularisation * sp.eye_array(gram.shape[0])))
    p /= -p.diagonal()
    np.fill_diagonal(p, 0.0)
    return p.astype(np.float32)


def _solve(counts: Counts, choice: Choice) -> FloatArray:
    return item_weights(counts.weighted(choice.weights), choice.strength)


def _fit(task: Task, run: Run, first: Choice, *, tune: bool, use_sources: bool) -> ItemItem:
    solve = partial(_solve, Counts(task, use_sources=use_sources))
    if not tune:
        return replace(fit_once(task, run, solve, first), details=first.details("regularisation"))
    strengths = sorted({*REGULARISATIONS, first.strength})
    fitted, choice, value = choose(task, run, solve, first, strengths)
    return replace(fitted, details={**choice.details("regularisation"), "validation": value})
