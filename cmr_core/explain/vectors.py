"""The vectors that a fitted method has of users and items, whatever its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from cmr_core.errors import SpecError
from cmr_core.interfaces import FloatArray, Recommender
from cmr_core.models.base import Factors
from cmr_core.models.neural import NeuralScorer

Kind = Literal["user", "item"]


def vectors_of(recommender: Recommender, kind: Kind) -> dict[str, FloatArray]:
    """Tables (rows, D) under `before` (without prompts) and `after`; `after` alone where there are no prompts.

    Networks: their tables of that kind side by side; a market's vector, where there is one, is added as the network
    adds it. Raises SpecError for a method without such vectors.
    """
    if isinstance(recommender, Factors):
        plain = recommender.user_plain if kind == "user" else recommender.item_plain
        final = recommender.user if kind == "user" else recommender.item
        return {"after": final} if plain is None else {"before": plain, "after": final}
    if isinstance(recommender, NeuralScorer):
        tables = _tables(recommender.weights, kind)
        if tables:
            found = np.concatenate(tables, axis=1)
            market = recommender.weights.get("market")
            if kind == "item" and market is not None and market.shape[-1] == found.shape[1]:
                found = found + market.reshape(1, -1)
            return {"after": found}
    raise SpecError(f"This method has no vectors of {kind}s.", hint="Choose a method that learns vectors.")


def _tables(weights: Mapping[str, np.ndarray], kind: Kind) -> list[FloatArray]:
    return [
        value
        for name, value in sorted(weights.items())
        if name.startswith(f"{kind}.") and value.ndim == 2 and np.issubdtype(value.dtype, np.floating)
    ]
