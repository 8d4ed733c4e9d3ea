"""What the conformance tests stand on: a corpus with one right answer, small settings, and fits made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import SpecError
from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Fitted, FloatArray, IntArray, Monitor, Pairs, Recommender, Run, Task, Validator
from cmr_core.models.registry import MethodInfo, get
from cmr_core.spec import EvalSpec, Scalar, SplitSpec
from cmr_core.training.monitor import QuietMonitor

SIZE = 30  # users and items of the target
TARGET, SOURCES = "jp", ("ca", "de")
SMALL = {"epochs": 4, "dimensions": 8, "batch": 64, "eval_every": 1}


def small(info: MethodInfo, **sizes: int) -> dict[str, Scalar]:
    """Settings that make any method quick: every whole-numbered setting with such a word in its name, in its bounds."""
    result: dict[str, Scalar] = {}
    for name, schema in info.config.model_json_schema().get("properties", {}).items():
        for word, value in {**SMALL, **sizes}.items():
            if word in name and schema.get("type") == "integer":
                low, high = schema.get("minimum", value), schema.get("maximum", value)
                result[name] = min(max(value, low), high)
    return result


def checkerboard() -> Split:
    """Users have every second item, in all markets alike.

    User i misses item i (test) and item i + 2 (validation): the target's only right answers. The sources sell the same
    items in part, and items of their own.
    """
    markets = {TARGET: _market(TARGET, SIZE, np.arange(SIZE))}
    for number, name in enumerate(SOURCES):
        markets[name] = _market(name, 12, np.arange(2 * number, SIZE + 4 + 2 * number))
    return Split(SplitSpec(), "0" * 64, SIZE + 8, markets)


def fit(
    info: MethodInfo,
    split: Split,
    *,
    seed: int = 0,
    sources: tuple[str, ...] = SOURCES,
    monitor: QuietMonitor | None = None,
    judge: Validator | None = None,
    device: str = "cpu",
    **sizes: int,
) -> Recommender:
    """The method with small settings, fitted on the target."""
    judge = judge or Judge(split, EvalSpec())
    run = Run(seed, device, judge, monitor or QuietMonitor(), _members(split, seed, judge) if info.combines else ())
    try:
        return info.create(small(info, **sizes)).fit(split.task(TARGET, sources), run)
    except SpecError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


def _members(split: Split, seed: int, judge: Validator) -> tuple[Fitted, ...]:
    """What a combining method combines: one member that finds the answer, and one that no seed changes."""

    def member(name: str) -> Fitted:
        info = get(name)

        def refit(task: Task, monitor: Monitor) -> Recommender:
            return info.create(small(info, epochs=20)).fit(task, Run(seed, "cpu", judge, monitor))

        return Fitted(info.label, refit(split.task(TARGET, SOURCES), QuietMonitor()), refit)

    return member("lightgcn"), member("popularity")


class Fits:
    """Fits of this session by method and seed, so that each is made once."""

    def __init__(self) -> None:
        self.split = checkerboard()
        self._made: dict[tuple[str, int], tuple[Recommender, QuietMonitor]] = {}

    def get(self, info: MethodInfo, seed: int = 0) -> tuple[Recommender, QuietMonitor]:
        """Recommender and what its monitor saw."""
        key = (info.name, seed)
        if key not in self._made:
            monitor = QuietMonitor()
            self._made[key] = fit(info, self.split, seed=seed, monitor=monitor), monitor
        return self._made[key]


class Blind:
    """A judge that sees nothing: later is worse, whatever the scores."""

    digest = "blind"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, market: str, score: Callable[[IntArray], FloatArray], *, users: int | None = None) -> float:
        self.calls += 1
        return 1.0 - self.calls / 1e6


class Rising(Blind):
    """A judge that sees nothing: later is better, so that what is returned has been trained to the end."""

    digest = "rising"

    def __call__(self, market: str, score: Callable[[IntArray], FloatArray], *, users: int | None = None) -> float:
        return 1.0 - super().__call__(market, score, users=users)


def shifted(split: Split, *parts: str) -> Split:
    """The split with other items in the held-out `parts` of all markets, and everything else as it was."""

    def moved(market: MarketSplit, pairs: Pairs) -> Pairs:
        return Pairs(pairs.user, (pairs.item + 1) % len(market.catalogue), pairs.day)

    markets = {
        name: replace(market, **{part: moved(market, getattr(market, part)) for part in parts})
        for name, market in split.markets.items()
    }
    return replace(split, markets=markets)


def _market(name: str, n_users: int, sold: IntArray) -> MarketSplit:
    user, item = np.nonzero((np.arange(n_users)[:, None] + sold) % 2 == 0)
    gap = (sold[item] - user) % len(sold)
    train, valid, test = (_pairs(user[mask], item[mask]) for mask in ((gap != 0) & (gap != 2), gap == 2, gap == 0))
    return MarketSplit(name, n_users, sold.astype(np.int32), train, valid, test)


def _pairs(user: IntArray, item: IntArray) -> Pairs:
    return Pairs(user.astype(np.int32), item.astype(np.int32), np.full(len(user), 20_000, dtype=np.int32))
