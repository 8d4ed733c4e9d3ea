"""A gradient-boosted ranker over the scores of several methods (LightGBM, an optional package)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from cmr_core.errors import Cancelled, SpecError, TrainingError
from cmr_core.interfaces import (
    FloatArray,
    IntArray,
    MarketView,
    Pairs,
    ParameterCount,
    Progress,
    Recommender,
    Run,
    Task,
)
from cmr_core.models.base import shape_of
from cmr_core.models.blended import Boosted, features, lightgbm
from cmr_core.models.registry import Config, register
from cmr_core.training.monitor import PrefixedMonitor

FEWEST = 3  # training items of a user who gives one away


class RankerConfig(Config):
    """Settings of the ranker."""

    tree_epochs: int = Field(150, ge=1, le=5000, description="Trees that are grown one after the other")
    leaves: int = Field(15, ge=2, le=1024, description="Leaves of a tree")
    learning_rate: float = Field(0.05, gt=0, le=1, description="How much each tree changes")
    candidates: int = Field(
        200, ge=2, le=5000, description="Items per user that the trees learn from: the held-back one, others at random"
    )
    users: int = Field(3000, ge=10, le=1_000_000, description="Users that the trees learn from at most")


@register("ranker", label="Boosted ranker", family="combination", color="#00695c", config=RankerConfig, combines=True)
class Ranker:
    """Trees that learn from held-back purchases how to weigh what other methods say.

    One training item of each user is held back, the members are fitted without these, and LambdaMART (Burges 2010, by
    LightGBM) learns to rank the held-back item above others of the catalogue; then it ranks with members that know all
    training pairs. Winners of the WSDM Cup 2022 on this kind of data did so. The others are drawn uniformly: were they
    the members' favourites, a held-back item that no member favours would teach the trees that low scores are good.
    Validation rows decide nothing here but what they decide in the members. Cost: the members once more, and the trees.

    Memory: users x candidates x (2 members + 2).
    """

    def __init__(self, config: RankerConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Fit the members on less, grow the trees, and rank with the members that know all."""
        package = lightgbm()
        if not run.members:
            raise SpecError("A ranker needs members.", hint="Name the methods that it combines.")
        generator = np.random.default_rng(run.seed)
        inner, held_user, held_item = hold_back(task, generator)
        less = [
            member.refit(inner, PrefixedMonitor(run.monitor, f"held back {at}: "))
            for at, member in enumerate(run.members, start=1)
        ]
        chosen = np.sort(generator.permutation(len(held_user))[: self.config.users])
        x, y, sizes = self._examples(inner.target, less, held_user[chosen], held_item[chosen], generator, run)
        trees = self._grow(package, x, y, sizes, run)
        parts = tuple(member.recommender for member in run.members)
        count = ParameterCount(
            frozen=sum(part.parameters.trainable + part.parameters.frozen for part in parts),
            closed_form=sum(part.parameters.closed_form for part in parts)
            + 2 * self.config.leaves * self.config.tree_epochs,
        )
        model = np.frombuffer(trees.encode(), dtype=np.uint8)
        shapes = tuple(shape_of(part) for part in parts)
        return Boosted(count, model, *_activity(task.target), parts, shapes, {"held back": float(len(chosen))})

    def _examples(
        self,
        view: MarketView,
        less: list[Recommender],
        users: IntArray,
        items: IntArray,
        generator: np.random.Generator,
        run: Run,
    ) -> tuple[FloatArray, IntArray, list[int]]:
        """Features and labels of each user's held-back item and of others, and the size of each user's list."""
        known = {user: view.train.item[view.train.user == user] for user in users.tolist()}
        popularity, activity = _activity(view)
        rows, labels, sizes = [], [], []
        for start in range(0, len(users), 64):
            if run.monitor.cancelled():
                raise Cancelled("Stopped on request while examples were made.")
            block, wanted = users[start : start + 64], items[start : start + 64]
            found = features(less, popularity, activity, block)
            for at, user in enumerate(block.tolist()):
                others = np.setdiff1d(np.arange(view.n_items), [*known[user], wanted[at]])
                drawn = generator.permutation(others)[: self.config.candidates - 1]
                rows.append(found[at, [wanted[at], *drawn]])
                labels.append(np.arange(1 + len(drawn)) == 0)
                sizes.append(1 + len(drawn))
        return np.concatenate(rows), np.concatenate(labels).astype(np.int32), sizes

    def _grow(self, package: Any, x: FloatArray, y: IntArray, sizes: list[int], run: Run) -> str:
        c = self.config
        run.monitor.report(Progress("trees", 0, c.tree_epochs))

        def look(environment: Any) -> None:
            if run.monitor.cancelled():
                raise Cancelled("Stopped on request while trees were grown.")
            run.monitor.report(Progress("trees", environment.iteration + 1, c.tree_epochs))

        settings = {
            "objective": "lambdarank",
            "num_leaves": c.leaves,
            "learning_rate": c.learning_rate,
            "min_data_in_leaf": max(1, min(20, len(sizes) // 4)),
            "seed": run.seed,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        data = package.Dataset(x, label=y, group=sizes)
        booster = package.train(settings, data, num_boost_round=c.tree_epochs, callbacks=[look])
        return str(booster.model_to_string())


def hold_back(task: Task, generator: np.random.Generator) -> tuple[Task, IntArray, IntArray]:
    """The task without one random training item of each user who has three, and these users (n,) and items (n,).

    Raises TrainingError where nobody has.
    """
    train = task.target.train
    order = np.lexsort((generator.random(len(train)), train.user))
    user = train.user[order]
    first = np.flatnonzero(np.diff(user, prepend=-1))
    giving = first[np.diff(np.append(first, len(user))) >= FEWEST]
    if not len(giving):
        raise TrainingError(
            f"No user of {task.target.name} has {FEWEST} training items, so none can be held back.",
            hint="Choose a market with more interactions, or a blend.",
        )
    given = order[giving]
    kept = np.setdiff1d(np.arange(len(train)), given)
    less = Pairs(train.user[kept], train.item[kept], train.day[kept])
    mark = hashlib.sha256(np.ascontiguousarray(given).tobytes()).hexdigest()
    inner = replace(
        task,
        target=replace(task.target, train=less),
        digest=hashlib.sha256(f"{task.digest} without {mark}".encode()).hexdigest(),
        target_digest=hashlib.sha256(f"{task.target_digest} without {mark}".encode()).hexdigest(),
    )
    return inner, train.user[given], train.item[given]


def _activity(view: MarketView) -> tuple[FloatArray, FloatArray]:
    """Logarithms of 1 + training users of each item, and of 1 + training items of each user."""
    item, user = (
        np.bincount(codes, minlength=size)
        for codes, size in ((view.train.item, view.n_items), (view.train.user, view.n_users))
    )
    return np.log1p(item).astype(np.float32), np.log1p(user).astype(np.float32)
