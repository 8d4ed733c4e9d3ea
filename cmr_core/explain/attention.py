"""What ACMR's layers look at: the attention among a user's items and a candidate (figure 5 of Hu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cmr_core.errors import SpecError
from cmr_core.explain.why import check_codes
from cmr_core.interfaces import FloatArray, IntArray, Recommender
from cmr_core.models.acmr_network import NAME, embed, history_of
from cmr_core.models.neural import NeuralScorer
from cmr_core.models.towers import apply_linear
from cmr_core.models.transformer import apply_rest, attention, split_heads


@dataclass(frozen=True)
class Attention:
    """The items of one sequence and the attention among them.

    `weights[layer, head, row, column]` is how much the item of the row takes from that of the column; rows sum to 1.
    The paper shows the mean over the heads of the last layer, `weights[-1].mean(axis=0)`.
    """

    items: IntArray  # (L,) local item codes: the history in ascending order, then the candidate; -1: "no history"
    weights: FloatArray  # (layers, heads, L, L) float32


def attend_to(recommender: Recommender, user: int, item: int) -> Attention:
    """The attention with which a stored ACMR scores local `item` for local `user`. O(layers (L d^2 + L^2 d)).

    Raises SpecError for other methods, and for a user or an item that does not exist.
    """
    if not isinstance(recommender, NeuralScorer) or recommender.network != NAME:
        raise SpecError("This model has no attention over a user's items to show.", hint="Choose a run of ACMR.")
    stored = recommender.weights
    check_codes(user, len(stored["history.start"]) - 1, item, recommender.n_items)
    weights = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in stored.items()}
    history, heads = history_of(stored, user), int(stored["heads"])
    items = np.append(history if len(history) else [-1], item)
    # row -1 of the table is the vector that stands for an empty history
    vectors = torch.cat([weights["item.vectors"], weights["empty"]])[torch.from_numpy(items)]
    x = embed(weights, vectors, weights.get("market")).t()[None]
    found, at = [], 0
    while f"layer.{at}.query.weight" in weights:
        name = f"layer.{at}"
        query, key, value = (split_heads(apply_linear(weights, f"{name}.{p}", x), heads) for p in _PARTS)
        found.append(attention(query, key, None)[0])
        x = apply_rest(weights, name, x, found[-1][None] @ value)
        at += 1
    return Attention(items, torch.stack(found).numpy())


_PARTS = ("query", "key", "value")
