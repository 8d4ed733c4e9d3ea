"""Weighted sums of fitted methods, and their scores on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cmr_core.errors import IntegrityError
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
        kept: Arrays = {"weight": self.weight}
        for at, (part, shape) in enumerate(zip(self.parts, self.shapes, strict=True)):
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
    """Shape and arrays of each part of `Blend.arrays()`. Raises IntegrityError where a part is missing."""
    try:
        numbers = range(len(arrays["weight"]))
        shapes = [arrays[f"{at}.shape"].tobytes().decode() for at in numbers]
    except (KeyError, UnicodeDecodeError) as error:
        raise IntegrityError(f"A stored blend is incomplete: {error}.", hint="Run the job again.") from None
    parts = []
    for at, shape in zip(numbers, shapes, strict=True):
        prefix = f"{at}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix) and k != f"{at}.shape"}
        parts.append((shape, own))
    return parts
