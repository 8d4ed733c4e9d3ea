"""Combinations of fitted methods: weighted sums of their scores, and trees over them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from cmr_core.errors import IntegrityError, SpecError
from cmr_core.interfaces import Arrays, FloatArray, IntArray, ParameterCount, Recommender


@dataclass(frozen=True)
class Blend:
    """Scores are sums: s(u, i) = Σ_k weight[k] * z_k(u, i), z_k the k-th part's score standardised within the user.

    Standardised means 0 on average and deviation 1 over the target's catalogue, so that weights compare. Parts are kept
    whole: a blend is served without the runs that it was made of. `shapes` names the shape of each part.
    """

    parameters: ParameterCount
    weight: FloatArray  # (K,), sums to 1
    parts: tuple[Recommender, ...]
    shapes: tuple[str, ...]
    details: Mapping[str, float | str] = field(default_factory=dict)

    def score(self, users: IntArray) -> FloatArray:
        """(B, n_items); the cost of the parts with a weight."""
        chosen = [(w, part) for w, part in zip(self.weight, self.parts, strict=True) if w > 0]
        total = standardised(chosen[0][1].score(users)) * np.float32(chosen[0][0])
        for w, part in chosen[1:]:
            total += standardised(part.score(users)) * np.float32(w)
        return total

    def arrays(self) -> Arrays:
        """Weights, and every part's arrays under its number."""
        return {"weight": self.weight, **together(self.parts, self.shapes)}


@dataclass(frozen=True)
class Boosted:
    """Scores are those of boosted trees over features of a pair: see `features`. `trees`: LightGBM's text, as bytes.

    Scoring needs the package lightgbm; without it, SpecError says so.
    """

    parameters: ParameterCount
    trees: IntArray  # (bytes,) uint8
    item_popularity: FloatArray  # (n_items,) logarithm of 1 + training users
    user_activity: FloatArray  # (n_users,) logarithm of 1 + training items
    parts: tuple[Recommender, ...]
    shapes: tuple[str, ...]
    details: Mapping[str, float | str] = field(default_factory=dict)

    def score(self, users: IntArray) -> FloatArray:
        """(B, n_items); the cost of all parts, and of the trees for each pair."""
        if not len(users):
            return np.empty((0, len(self.item_popularity)), dtype=np.float32)
        found = features(self.parts, self.item_popularity, self.user_activity, users)
        flat = self._booster.predict(found.reshape(-1, found.shape[2]), num_threads=1)
        scores: FloatArray = np.asarray(flat, dtype=np.float32).reshape(found.shape[:2])
        return scores

    def arrays(self) -> Arrays:
        """Trees, the features that are kept, and every part's arrays under its number."""
        own = {name: getattr(self, name) for name in ("trees", "item_popularity", "user_activity")}
        return own | together(self.parts, self.shapes)

    @functools.cached_property
    def _booster(self) -> Any:
        return lightgbm().Booster(model_str=self.trees.tobytes().decode())


def lightgbm() -> Any:
    """The package of that name. Raises SpecError where it is not installed."""
    try:
        return importlib.import_module("lightgbm")
    except (ImportError, OSError) as error:  # OSError: its library needs libgomp
        raise SpecError(
            f"The ranker needs the package lightgbm, which cannot be used here: {error}.",
            hint="Install it beside the others: .venv/bin/python -m uv pip install lightgbm",
        ) from None


def features(
    parts: Sequence[Recommender], item_popularity: FloatArray, user_activity: FloatArray, users: IntArray
) -> FloatArray:
    """(B, n_items, 2 K + 2) float32: each part's standardised score and share of items above, popularity, activity."""
    scores = [standardised(part.score(users)) for part in parts]
    places = [1 - rankdata(found, axis=1).astype(np.float32) / found.shape[1] for found in scores]
    shape = scores[0].shape
    columns = [*scores, *places, np.broadcast_to(item_popularity, shape)]
    columns.append(np.broadcast_to(user_activity[users][:, None], shape))
    return np.stack(columns, axis=2).astype(np.float32)


def together(parts: Sequence[Recommender], shapes: Sequence[str]) -> Arrays:
    """Every part's arrays under its number, and its shape."""
    kept: Arrays = {}
    for at, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        kept[f"{at}.shape"] = np.frombuffer(shape.encode(), dtype=np.uint8)
        kept |= {f"{at}.{name}": value for name, value in part.arrays().items()}
    return kept


def standardised(scores: FloatArray) -> FloatArray:
    """Per row: mean 0 and deviation 1; 0 where all scores of a row are equal. (B, I) float32."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    safe = np.where(deviation > 1e-12, deviation, np.inf)
    result: FloatArray = (centred / safe).astype(np.float32)
    return result


def divide(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, Arrays]]:
    """Shape and arrays of each part of `together`. Raises IntegrityError where none is there, or one is damaged."""
    parts: list[tuple[str, Arrays]] = []
    while f"{len(parts)}.shape" in arrays:
        prefix = f"{len(parts)}."
        own = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        try:
            parts.append((own.pop("shape").tobytes().decode(), own))
        except UnicodeDecodeError as error:
            raise IntegrityError(f"A stored combination is damaged: {error}.", hint="Run the job again.") from None
    if not parts:
        raise IntegrityError("A stored combination has no parts.", hint="Run the job again.")
    return parts
