"""What one user would see, and why. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cmr_core.data.market import Corpus
from cmr_core.data.split import MarketSplit
from cmr_core.errors import NotFoundError
from cmr_core.explain.why import Explanation, explain
from cmr_core.interfaces import Recommender

ORDERS = {
    "disputed": "Where the runs differ most",
    "hardest": "Hardest users first",
    "easiest": "Easiest users first",
    "id": "By user id",
}


@dataclass(frozen=True)
class Shown:
    """A recommended item: is it one of the user's held-out items, and what speaks for it (None: no model is there)?"""

    rank: int
    item: int
    item_id: str
    score: float
    hit: bool
    why: Explanation | None


def users(tables: Mapping[str, pd.DataFrame], metric: str, order: str) -> pd.DataFrame:
    """Test users with their value of the metric in each run: user, user_id, n_train, mean, spread and a column per run.

    `tables`: the runs' per_user tables. Sorted as `order` says; ties by user id. Raises NotFoundError for a metric
    that a run does not have.
    """
    for table in tables.values():
        if metric not in table.columns:
            raise NotFoundError(f"A run has no metric {metric!r}.", hint="Choose another metric.")
    first = next(iter(tables.values()))[["user", "user_id", "n_train"]]
    values = pd.DataFrame({run: table.set_index("user")[metric] for run, table in tables.items()}).dropna()
    frame = first.set_index("user").join(values, how="inner").reset_index()
    numbers = frame[list(tables)]
    frame["mean"], frame["spread"] = numbers.mean(axis=1), numbers.max(axis=1) - numbers.min(axis=1)
    keys = {"hardest": ("mean", True), "easiest": ("mean", False), "disputed": ("spread", False)}
    column, ascending = keys.get(order, ("user_id", True))
    return frame.sort_values([column, "user_id"], ascending=[ascending, True], ignore_index=True)


def history(corpus: Corpus, market: MarketSplit, user: int) -> pd.DataFrame:
    """What the user has had, newest first: item_id, day (empty where unknown), part (training or validation)."""
    frames = []
    for part, pairs in (("training", market.train), ("validation", market.valid)):
        mine = pairs.user == user
        ids = corpus.items[market.catalogue[pairs.item[mine]]]
        frames.append(pd.DataFrame({"item_id": ids, "day": pairs.day[mine], "part": part}))
    frame = pd.concat(frames).sort_values(["day", "item_id"], ascending=[False, True], ignore_index=True)
    dates = pd.to_datetime(frame["day"].where(frame["day"] >= 0), unit="D").dt.strftime("%Y-%m-%d")
    return frame.assign(day=dates.fillna(""))


def held_out(tables: Mapping[str, pd.DataFrame], user: int) -> pd.DataFrame:
    """Rank of the user's held-out items: a row per run, a column per item. `tables`: the runs' held_out tables."""
    rows = {run: t[t["user"] == user].set_index("item_id")["rank"] for run, t in tables.items()}
    return pd.DataFrame(rows).T.rename_axis("run").reset_index()


def recommended(
    model: Recommender | None, market: MarketSplit, top: pd.DataFrame, held: pd.DataFrame, user: int, k: int
) -> list[Shown]:
    """The user's first k recommendations, each with its exact explanation, or with none where no model is there.

    `top`, `held`: the run's tables.
    """
    mine = top[(top["user"] == user) & (top["rank"] <= k)].sort_values("rank")
    wanted = set(held.loc[held["user"] == user, "item"])
    return [
        Shown(
            rank,
            item,
            item_id,
            score,
            item in wanted,
            None if model is None else explain(model, market.train, user, item),
        )
        for rank, item, item_id, score in zip(mine["rank"], mine["item"], mine["item_id"], mine["score"], strict=True)
    ]


def reason(why: Explanation, ids: Sequence[str], most: int = 2) -> str:
    """The strongest parts of an explanation in one line; `ids`: item ids by local code."""
    if nothing_exact(why):
        return "a network: no exact reason"
    size = sum(abs(part.value) for part in why.parts) or 1.0
    parts = sorted(why.parts, key=lambda part: -abs(part.value))[:most]
    said = [f"{part_name(part.kind, part.item, ids)} {part.value / size:+.0%}" for part in parts if part.value]
    return ", ".join(said) or "nothing speaks for it"


def part_name(kind: str, item: int | None, ids: Sequence[str]) -> str:
    """What a part of a score is, in words."""
    if item is not None:
        return f"had {ids[item]}"
    return {"own": "own taste", "item": "popular with all", "rest": "not traceable"}[kind]


def nothing_exact(why: Explanation) -> bool:
    """Whether no part of the score is traced to anything: networks."""
    return not why.exact and all(part.kind == "rest" for part in why.parts)


def exactness(why: Explanation) -> str:
    """How far the parts explain the score, in words."""
    if why.exact:
        return "The parts add up to the score exactly."
    if nothing_exact(why):
        return (
            "This method is a network: its layers mix everything with everything, so the score cannot be divided among "
            "the items that the user has had. No reason is shown rather than one that sounds right."
        )
    return "A part of the score cannot be traced to items: the explanation is not exact."


def parts_table(why: Explanation, ids: Sequence[str], most: int = 12) -> pd.DataFrame:
    """The parts of a score, largest first: part, value. Small ones are added up in one row: the sum is exact."""
    ordered = sorted(why.parts, key=lambda part: -abs(part.value))
    rows = [(part_name(part.kind, part.item, ids), part.value) for part in ordered[:most]]
    if len(ordered) > most:
        rows.append((f"{len(ordered) - most} smaller parts", float(np.sum([p.value for p in ordered[most:]]))))
    return pd.DataFrame(rows, columns=["part", "value"])
