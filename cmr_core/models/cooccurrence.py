"""What item-item methods share: co-occurrence counts in the target's catalogue, and the choice of source weights.

Only counts between items that the target sells are kept. Keeping unsold items until the matrix is inverted changed
EASE's NDCG@10 on the XMarket files by less than .01 either way (jp and in, two splits, five weights), and its matrix
is up to eighteen times as wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from cmr_core.errors import Cancelled, TrainingError
from cmr_core.interfaces import FloatArray, IntArray, MarketView, ParameterCount, Progress, Run, Task
from cmr_core.models.base import ItemItem

WEIGHTS = (0.0, 0.1, 0.3, 1.0)
Details = dict[str, float | str]


@dataclass(frozen=True)
class Choice:
    """A strength (regularisation or shrinkage) and one weight per source market."""

    strength: float
    weights: Mapping[str, float] = field(default_factory=dict)
    global_strength: float = 0.0  # of a part that all targets share; 0 where a method has none

    @property
    def numbers(self) -> tuple[float, ...]:
        """What tells one candidate from another."""
        return (self.strength, self.global_strength, *self.weights.values())

    def details(self, name: str) -> Details:
        """As entries of `Recommender.details`."""
        whole = {f"global {name}": self.global_strength} if self.global_strength else {}
        weights = {f"weight of {market}": weight for market, weight in self.weights.items()}
        return {name: self.strength, **whole, **weights}


def histories(view: MarketView) -> sp.csr_array:
    """Binary (n_users, n_items) float32 matrix of the market's training pairs; repeats count once."""
    ones = np.ones(len(view.train), dtype=np.float32)
    matrix = sp.csr_array((ones, (view.train.user, view.train.item)), shape=(view.n_users, view.n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def counts(view: MarketView, catalogue: IntArray) -> sp.csr_array:
    """X'X (n, n) of the market's training pairs among the n items of `catalogue` (global codes, ascending).

    The diagonal holds how many users had the item. O(sum of squared history lengths).
    """
    shared, here, there = np.intersect1d(view.catalogue, catalogue, assume_unique=True, return_indices=True)
    select = sp.csr_array((np.ones(len(shared), np.float32), (here, there)), shape=(view.n_items, len(catalogue)))
    known = histories(view) @ select
    return sp.csr_array(known.T @ known)


class Counts:
    """Counts of the target and of each source, and their weighted sum. Memory: sparse, once per market."""

    def __init__(self, task: Task, *, use_sources: bool) -> None:
        self.target = counts(task.target, task.target.catalogue)
        views = task.sources if use_sources else ()
        self.sources = {view.name: counts(view, task.target.catalogue) for view in views}

    def weighted(self, weights: Mapping[str, float]) -> sp.csr_array:
        """Float64 (n, n): target + sum of weight x source; sources of weight 0 leave no trace in its pattern."""
        total = self.target.astype(np.float64)
        for name, weight in weights.items():
            total = total + weight * self.sources[name] if weight else total
        return sp.csr_array(total)


class Search:
    """Fits candidates, keeps the best by the validation metric, reports each and stops when asked to.

    Memory: at most two weight matrices of 4 n² bytes beside what `solve` needs.
    """

    def __init__(self, task: Task, run: Run, solve: Callable[[Choice], FloatArray], total: int) -> None:
        self.run, self.solve, self.total = run, solve, total
        self.market, self.history = task.target.name, histories(task.target)
        self.done = 0
        self.best: tuple[float, Choice, ItemItem] | None = None
        self.tried: dict[tuple[float, ...], float] = {}

    def fit(self, choice: Choice) -> ItemItem:
        """One candidate. Raises Cancelled when somebody asked the run to stop."""
        if self.run.monitor.cancelled():
            raise Cancelled("The run was stopped on request.")
        return item_item(self.solve(choice), self.history)

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """Report one step more."""
        self.done += 1
        self.run.monitor.report(Progress("fit", self.done, self.total, metrics or {}))

    def consider(self, choice: Choice) -> None:
        """Fit and judge a candidate, unless it was judged before. Raises TrainingError without validation rows."""
        key = choice.numbers
        if key not in self.tried:
            fitted = self.fit(choice)
            value = self.tried[key] = self.run.validate(self.market, fitted.score)
            if np.isnan(value):
                raise TrainingError(
                    f"Market {self.market!r} has no validation rows to choose settings on.",
                    hint="Turn the setting `tune` off, or choose another split.",
                )
            if self.best is None or value > self.best[0]:
                self.best = (value, choice, fitted)
        self.advance({"valid": self.tried[key]})


def choose(
    task: Task, run: Run, solve: Callable[[Choice], FloatArray], first: Choice, strengths: Sequence[float]
) -> tuple[ItemItem, Choice, float]:
    """The best of: a common source weight, then the strength, then each source's own weight, largest source first.

    Each pass starts from the best so far. Candidates: 4 + len(strengths) + 2 per source with sources,
    len(strengths) without. Returns the fitted shape, the choice and its validation metric.
    """
    by_size = sorted(task.sources, key=lambda view: (-len(view.train), view.name))
    names = [view.name for view in by_size if view.name in first.weights]
    common = len(WEIGHTS) if names else 0
    search = Search(task, run, solve, common + len(strengths) + 2 * len(names))
    for weight in WEIGHTS[:common]:
        search.consider(Choice(first.strength, dict.fromkeys(names, weight)))
    weights = _best(search)[1].weights if names else {}
    for strength in strengths:
        search.consider(Choice(strength, weights))
    for name in names:
        now = _best(search)[1]
        for weight in _others(now.weights[name]):
            search.consider(Choice(now.strength, {**now.weights, name: weight}))
    value, choice, fitted = _best(search)
    return fitted, choice, value


def fit_once(task: Task, run: Run, solve: Callable[[Choice], FloatArray], choice: Choice) -> ItemItem:
    """The candidate as given, without looking at validation rows."""
    search = Search(task, run, solve, total=1)
    fitted = search.fit(choice)
    search.advance()
    return fitted


def item_item(weight: FloatArray, history: sp.csr_array, details: Mapping[str, float | str] | None = None) -> ItemItem:
    """The shape of weights (n, n) and target histories; all n² weights count as solved for."""
    parameters = ParameterCount(closed_form=weight.size)
    indptr, indices = history.indptr.astype(np.int32), history.indices.astype(np.int32)
    return ItemItem(parameters, weight, indptr, indices, details=details or {})


def _best(search: Search) -> tuple[float, Choice, ItemItem]:
    assert search.best is not None, "a search without candidates"
    return search.best


def _others(weight: float) -> tuple[float, float]:
    """Two other values of the grid: off, and the next one (for the largest the one below, for off the two above)."""
    return {0.0: (0.1, 0.3), 0.1: (0.0, 0.3), 0.3: (0.0, 1.0), 1.0: (0.0, 0.3)}[weight]
