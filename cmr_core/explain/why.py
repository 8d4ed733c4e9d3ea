"""Why this item for this user: exact contributions, because the fitted shapes are linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cmr_core.errors import SpecError
from cmr_core.interfaces import FloatArray, IntArray, Pairs, Recommender
from cmr_core.models.base import Factors, ItemItem
from cmr_core.models.blended import Blend, Boosted
from cmr_core.models.neural import NeuralScorer

PartKind = Literal["history", "own", "item", "rest"]


@dataclass(frozen=True)
class Part:
    """One summand of a score.

    `history`: an item of the user's training history (`item`: its local code). `own`: what the user's own learned
    vector adds. `item`: what the item gets whoever the user is. `rest`: what cannot be traced to single items.
    """

    kind: PartKind
    value: float
    item: int | None = None


@dataclass(frozen=True)
class Explanation:
    """Parts that add up to `total`, the score that ranks the item; history first, largest first.

    `prompt` is what the prompts changed (score minus the score without prompts; a part of `total`, not a summand
    beside the parts), None for methods without prompts. `exact`: nothing is left in a `rest` part.
    """

    total: float
    parts: tuple[Part, ...]
    prompt: float | None
    exact: bool


def explain(recommender: Recommender, train: Pairs, user: int, item: int) -> Explanation:
    """Contributions to the score of local `item` for local `user`, given the target's training pairs.

    They add up to the score within 1e-5 of its scale. O(history x D). Raises SpecError for a user or an item that
    does not exist, TypeError for a shape that is not linear.
    """
    if isinstance(recommender, ItemItem):
        check_codes(user, len(recommender.history_indptr) - 1, item, len(recommender.weight))
        return _item_item(recommender, user, item)
    if isinstance(recommender, Factors):
        check_codes(user, len(recommender.user), item, len(recommender.item))
        return _factors(recommender, np.unique(train.item[train.user == user]), user, item)
    if isinstance(recommender, NeuralScorer):
        # layers mix everything with everything: a sum over the history would be a story, not a reason
        total = float(recommender.listed(np.array([user]), np.array([[item]]))[0, 0])
        return Explanation(total, (Part("rest", total),), None, exact=False)
    if isinstance(recommender, Boosted):
        total = float(recommender.score(np.array([user]))[0, item])
        return Explanation(total, (Part("rest", total),), None, exact=False)
    if isinstance(recommender, Blend):
        return _blend(recommender, train, user, item)
    raise TypeError(f"{type(recommender).__name__} has no explanation")


def _blend(recommender: Blend, train: Pairs, user: int, item: int) -> Explanation:
    """Standardising divides by a user's deviation and takes a user's mean away: parts stay parts."""
    history: dict[int, float] = {}
    others: dict[PartKind, float] = {}
    for weight, part in zip(recommender.weight, recommender.parts, strict=True):
        if weight <= 0:
            continue
        scores = part.score(np.array([user]))[0].astype(np.float64)
        deviation = float(scores.std())
        if deviation <= 1e-12:
            continue
        share = float(weight) / deviation
        for piece in explain(part, train, user, item).parts:
            if piece.item is not None and piece.kind == "history":
                history[piece.item] = history.get(piece.item, 0.0) + share * piece.value
            else:
                others[piece.kind] = others.get(piece.kind, 0.0) + share * piece.value
        others["own"] = others.get("own", 0.0) - share * float(scores.mean())
    items = np.array(list(history), dtype=np.int64)
    parts = _history_parts(items, np.array(list(history.values())))
    return _explanation([*parts, *(Part(kind, value) for kind, value in others.items())], prompt=None)


def _item_item(recommender: ItemItem, user: int, item: int) -> Explanation:
    start, end = recommender.history_indptr[user], recommender.history_indptr[user + 1]
    history = recommender.history_indices[start:end]
    parts = _history_parts(history, recommender.weight[history, item])
    return _explanation(parts + _bias_parts(recommender.bias, item), prompt=None)


def _factors(recommender: Factors, history: IntArray, user: int, item: int) -> Explanation:
    vector = recommender.item[item].astype(np.float64)
    personal = float(recommender.user[user] @ vector)
    if recommender.user_base is None:
        parts = [Part("rest", personal)] if personal else []
    elif recommender.item_message is None:
        parts = [Part("own", personal)]
    else:
        seen = vector if recommender.user_scale is None else vector * recommender.user_scale[user]
        values = recommender.item_message[history] @ seen / np.sqrt(max(len(history), 1))
        parts = [*_history_parts(history, values), Part("own", float(recommender.user_base[user] @ seen))]
    return _explanation(parts + _bias_parts(recommender.bias, item), _prompt(recommender, personal, user, item))


def _prompt(recommender: Factors, personal: float, user: int, item: int) -> float | None:
    if recommender.user_plain is None or recommender.item_plain is None:
        return None
    return personal - float(recommender.user_plain[user] @ recommender.item_plain[item].astype(np.float64))


def _history_parts(history: IntArray, values: FloatArray) -> list[Part]:
    order = np.argsort(-values, kind="stable")
    return [Part("history", float(values[at]), int(history[at])) for at in order]


def _bias_parts(bias: FloatArray | None, item: int) -> list[Part]:
    return [] if bias is None else [Part("item", float(bias[item]))]


def _explanation(parts: list[Part], prompt: float | None) -> Explanation:
    total = float(sum(part.value for part in parts))
    return Explanation(total, tuple(parts), prompt, exact=all(part.kind != "rest" for part in parts))


def check_codes(user: int, n_users: int, item: int, n_items: int) -> None:
    """Raises SpecError for a user or an item that the market does not have."""
    if not 0 <= user < n_users:
        raise SpecError(f"There is no user number {user} in this market.", hint=f"It has users 0 to {n_users - 1}.")
    if not 0 <= item < n_items:
        raise SpecError(f"There is no item number {item} in this market.", hint=f"It has items 0 to {n_items - 1}.")
