"""Vectors of several markets in a picture of two dimensions, and how far the markets stand apart in all of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cmr_core.errors import DataError, SpecError
from cmr_core.interfaces import FloatArray, IntArray

Reduction = Literal["t-sne", "umap"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
FEWEST = 10  # points, below which neighbourhoods mean nothing


@dataclass(frozen=True)
class Projection:
    """A picture of `n` points. A market's silhouette is the mean of its points'."""

    market: tuple[str, ...]  # (n,)
    row: IntArray  # (n,) row in the market's own table of vectors
    place: FloatArray  # (n, 2)
    silhouette: dict[str, float]  # by market, -1 (lies among others) to 1 (lies apart); empty with a single market
    separation: float  # mean silhouette over all points; nan with a single market


def project(
    vectors: Mapping[str, FloatArray], *, reduction: Reduction = "t-sne", most: int = 250, seed: int = 0
) -> Projection:
    """`most` vectors of each market, drawn with the seed, in two dimensions.

    `vectors`: (rows, D) by market, D the same in all. The silhouette (Rousseeuw 1987) is computed on the vectors as
    they are, by cosine distance: a picture keeps neighbourhoods, not distances. t-SNE (van der Maaten and Hinton 2008)
    begins with principal components. O(n^2) for the silhouette, O(n log n) for the picture; seconds for 2,000 points.
    Raises DataError for too few points and for vectors of different lengths, SpecError where UMAP is not installed.
    """
    if len({table.shape[1] for table in vectors.values()}) != 1:
        raise DataError("The markets' vectors have different lengths.", hint="Choose runs of one configuration.")
    draw = np.random.default_rng(seed)
    rows = {name: np.sort(draw.permutation(len(table))[:most]) for name, table in sorted(vectors.items())}
    market = tuple(name for name, chosen in rows.items() for _ in chosen)
    points = np.concatenate([vectors[name][chosen] for name, chosen in rows.items()]).astype(np.float64)
    if len(points) < FEWEST:
        raise DataError(f"There are {len(points)} vectors; a picture needs {FEWEST}.", hint="Choose larger markets.")
    silhouette, separation = _silhouette(points, np.array(market))
    return Projection(
        market, np.concatenate(list(rows.values())), _reduce(points, reduction, seed), silhouette, separation
    )


def _reduce(points: FloatArray, reduction: Reduction, seed: int) -> FloatArray:
    if reduction == "umap":
        try:
            umap = importlib.import_module("umap")
        except ImportError:
            raise SpecError(
                "UMAP is not installed here.",
                hint="Choose t-SNE, or install the optional packages: pip install umap-learn",
            ) from None
        fitted = umap.UMAP(n_neighbors=min(15, len(points) - 1), random_state=seed, n_jobs=1, metric="cosine")
        return np.asarray(fitted.fit_transform(points), dtype=np.float32)
    from sklearn.manifold import TSNE

    # equal points (a prompt that is the same for everybody, items nobody bought) have no principal components
    start = "pca" if np.ptp(points, axis=0).any() else "random"
    perplexity = min(30.0, (len(points) - 1) / 3)
    fitted = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=1, metric="cosine")
    return np.asarray(fitted.fit_transform(points), dtype=np.float32)


def _silhouette(points: FloatArray, market: np.ndarray) -> tuple[dict[str, float], float]:
    names = sorted(set(market))
    if len(names) < 2:
        return {}, float("nan")
    from sklearn.metrics import silhouette_samples

    values = silhouette_samples(points, market, metric="cosine")
    return {str(name): float(values[market == name].mean()) for name in names}, float(values.mean())
