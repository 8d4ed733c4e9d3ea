"""The shapes of a fitted method. One save, one load, one top-K and one explainer serve all methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import scipy.sparse as sp

from cmr_core.errors import IntegrityError
from cmr_core.interfaces import Arrays, FloatArray, IntArray, ParameterCount, Recommender
from cmr_core.models.blended import Blend, Boosted, divide
from cmr_core.models.neural import NeuralScorer, neural_from_arrays


@dataclass(frozen=True)
class Factors:
    """Scores are inner products: s(u, i) = user[u] · item[i] + bias[i].

    The optional arrays make an exact explanation possible (explain/why.py). Where given,
    `user[u] = user_scale[u] * (user_base[u] + Σ_{j in train(u)} item_message[j] / sqrt(d_u))`, d_u the user's degree
    and the scale 1 where absent; `user_plain`, `item_plain` are the vectors without prompts. `user_base` without
    `item_message` says that users' vectors are learned as such.
    """

    parameters: ParameterCount
    user: FloatArray  # (n_users, D)
    item: FloatArray  # (n_items, D)
    bias: FloatArray | None = None  # (n_items,)
    user_base: FloatArray | None = None  # (n_users, D)
    item_message: FloatArray | None = None  # (n_items, D)
    user_plain: FloatArray | None = None  # (n_users, D)
    item_plain: FloatArray | None = None  # (n_items, D)
    user_scale: FloatArray | None = None  # (n_users, D)
    user_attention: FloatArray | None = None  # (n_users, W) shares of each prompt, for pictures
    item_attention: FloatArray | None = None  # (n_items, W)
    details: Mapping[str, float | str] = field(default_factory=dict)

    def score(self, users: IntArray) -> FloatArray:
        """(B, n_items); one matrix product."""
        scores = self.user[users] @ self.item.T
        return scores if self.bias is None else scores + self.bias

    def arrays(self) -> Arrays:
        """Every array that is present, by field name."""
        return _present(self)


@dataclass(frozen=True)
class ItemItem:
    """Scores are sums over the user's history: s(u, i) = Σ_{j in history(u)} weight[j, i] + bias[i].

    `weight` is dense (n_items, n_items); the history is a CSR matrix in parts so that the state is plain arrays.
    """

    parameters: ParameterCount
    weight: FloatArray  # (n_items, n_items) float32
    history_indptr: IntArray  # (n_users + 1,)
    history_indices: IntArray  # (nnz,) item codes of the target catalogue
    bias: FloatArray | None = None  # (n_items,)
    details: Mapping[str, float | str] = field(default_factory=dict)

    def score(self, users: IntArray) -> FloatArray:
        """(B, n_items); a sparse-dense product over the users' histories."""
        shape = (len(self.history_indptr) - 1, len(self.weight))
        ones = np.ones(len(self.history_indices), dtype=self.weight.dtype)
        history = sp.csr_array((ones, self.history_indices, self.history_indptr), shape=shape)
        scores = np.asarray(history[users] @ self.weight)
        return scores if self.bias is None else scores + self.bias

    def arrays(self) -> Arrays:
        """Every array that is present, by field name."""
        return _present(self)


SHAPES: dict[str, type[Factors] | type[ItemItem]] = {"factors": Factors, "item-item": ItemItem}
NEURAL, BLEND, BOOSTED = "neural", "blend", "boosted"


def shape_of(recommender: Recommender) -> str:
    """The name under which the recommender's shape is stored."""
    for name, cls in SHAPES.items():
        if isinstance(recommender, cls):
            return name
    if isinstance(recommender, NeuralScorer):
        return NEURAL
    if isinstance(recommender, Blend):
        return BLEND
    if isinstance(recommender, Boosted):
        return BOOSTED
    raise TypeError(f"{type(recommender).__name__} is none of the shapes {[*sorted(SHAPES), NEURAL, BLEND, BOOSTED]}")


def rebuild(
    shape: str, arrays: Mapping[str, np.ndarray], parameters: ParameterCount, details: Mapping[str, float | str]
) -> Factors | ItemItem | NeuralScorer | Blend | Boosted:
    """The recommender whose `arrays()` these are. Raises IntegrityError where they do not fit the shape."""
    if shape == NEURAL:
        return neural_from_arrays(arrays, parameters, details)
    if shape in (BLEND, BOOSTED):
        return _combination(shape, arrays, parameters, details)
    if shape not in SHAPES:
        raise IntegrityError(f"A stored model has the unknown shape {shape!r}.", hint="It needs a newer version.")
    try:
        return SHAPES[shape](parameters=parameters, details=details, **arrays)
    except TypeError as error:
        raise IntegrityError(f"A stored model of shape {shape!r} is incomplete: {error}.") from None


def _combination(
    shape: str, arrays: Mapping[str, np.ndarray], parameters: ParameterCount, details: Mapping[str, float | str]
) -> Blend | Boosted:
    divided = divide(arrays)
    parts = tuple(rebuild(own, found, ParameterCount(), {}) for own, found in divided)
    shapes = tuple(own for own, _ in divided)
    try:
        if shape == BLEND:
            return Blend(parameters, arrays["weight"], parts, shapes, details)
        own_arrays = (arrays["trees"], arrays["item_popularity"], arrays["user_activity"])
        return Boosted(parameters, *own_arrays, parts, shapes, details)
    except KeyError as error:
        raise IntegrityError(f"A stored model of shape {shape!r} is incomplete: {error}.") from None


def _present(recommender: Factors | ItemItem) -> Arrays:
    values = {
        f.name: getattr(recommender, f.name) for f in fields(recommender) if f.name not in ("parameters", "details")
    }
    return {name: value for name, value in values.items() if value is not None}
