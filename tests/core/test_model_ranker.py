"""The boosted ranker: what is held back, and that it learns whom to believe."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import SpecError, TrainingError
from cmr_core.interfaces import Fitted, IntArray, Monitor, Pairs, ParameterCount, Recommender, Run, Task
from cmr_core.models import blended, ranker
from cmr_core.models.base import Factors
from cmr_core.models.registry import get
from cmr_core.spec import SplitSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, Blind, checkerboard


@pytest.fixture
def usable() -> None:
    try:
        blended.lightgbm()
    except SpecError as error:
        pytest.skip(str(error))


def pairs(user: IntArray, item: IntArray) -> Pairs:
    return Pairs(user.astype(np.int32), item.astype(np.int32), np.zeros(len(user), dtype=np.int32))


def test_one_item_of_each_user_who_has_three_is_held_back() -> None:
    train = pairs(np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 1, 2, 0, 1, 0, 1, 2, 3]))
    nothing = pairs(np.array([]), np.array([]))
    split = Split(
        SplitSpec(), "0" * 64, 4, {"a": MarketSplit("a", 3, np.arange(4, dtype=np.int32), train, nothing, nothing)}
    )
    task = split.task("a", ())
    inner, user, item = ranker.hold_back(task, np.random.default_rng(0))
    assert user.tolist() == [0, 2]
    before = set(zip(train.user.tolist(), train.item.tolist(), strict=True))
    after = set(zip(inner.target.train.user.tolist(), inner.target.train.item.tolist(), strict=True))
    assert before - after == set(zip(user.tolist(), item.tolist(), strict=True))
    assert inner.digest != task.digest, "stages of the whole task must not be taken for stages of this one"
    assert inner.target_digest != task.target_digest
    few = Split(
        SplitSpec(),
        "0" * 64,
        4,
        {"a": MarketSplit("a", 3, np.arange(4, dtype=np.int32), pairs(np.array([0]), np.array([0])), nothing, nothing)},
    )
    with pytest.raises(TrainingError, match="none can be held back"):
        ranker.hold_back(few.task("a", ()), np.random.default_rng(0))


def test_trees_believe_the_member_that_knows(usable: None) -> None:
    """One member likes items of the user's parity, the other one those of the other parity, and louder."""
    size = 30
    own = (np.arange(size)[:, None] % 2 == np.arange(size)[None] % 2).astype(np.float32)

    def member(label: str, scores: np.ndarray) -> Fitted:
        fitted = Factors(ParameterCount(closed_form=1), scores.astype(np.float32), np.eye(size, dtype=np.float32))

        def refit(task: Task, monitor: Monitor) -> Recommender:
            assert len(task.target.train) < len(checkerboard().markets[TARGET].train)
            return fitted

        return Fitted(label, fitted, refit)

    members = (member("right", own), member("wrong", 5 * (1 - own)))
    task = checkerboard().task(TARGET, SOURCES)
    info = get("ranker")
    fitted = info.create({"tree_epochs": 30}).fit(task, Run(0, "cpu", Blind(), QuietMonitor(), members))
    scores = fitted.score(np.arange(size))
    assert (scores.argmax(axis=1) % 2 == np.arange(size) % 2).all()


def test_a_held_back_item_that_no_member_favours_does_not_turn_the_order_round(usable: None) -> None:
    """The member is right on the whole, but most held-back items lie below its favourites."""
    users, items = 300, 400
    rng = np.random.default_rng(0)
    liking = rng.normal(size=(users, items)).astype(np.float32)
    chance = np.exp(0.7 * liking)
    had = [rng.choice(items, 5, replace=False, p=row / row.sum()) for row in chance]
    train = pairs(np.repeat(np.arange(users), 5), np.concatenate(had))
    nothing = pairs(np.array([]), np.array([]))
    market = MarketSplit("a", users, np.arange(items, dtype=np.int32), train, nothing, nothing)
    task = Split(SplitSpec(), "0" * 64, items, {"a": market}).task("a", ())
    fitted = Factors(ParameterCount(closed_form=1), liking, np.eye(items, dtype=np.float32))
    members = (Fitted("weak but right", fitted, lambda task, monitor: fitted),)
    scores = get("ranker").create({}).fit(task, Run(0, "cpu", Blind(), QuietMonitor(), members)).score(np.arange(users))
    order = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(scores, liking, strict=True)])
    assert order > 0.5


def test_a_missing_package_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(SpecError, match="needs the package lightgbm"):
        get("ranker").create({}).fit(checkerboard().task(TARGET, SOURCES), Run(0, "cpu", Blind(), QuietMonitor()))
