"""GF-CF: a low-pass filter on the item graph instead of training (Shen et al., CIKM 2021)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from pydantic import Field
from scipy.linalg import eigh

from cmr_core.interfaces import FloatArray, Run, Task
from cmr_core.models.base import ItemItem
from cmr_core.models.cooccurrence import Choice, Search, fit_once, histories
from cmr_core.models.registry import Config, register

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
FREQUENCIES = (32, 128)
SMALLEST = 1e-10  # eigenvalues below are zeros that rounding moved; the largest is 1
IDEAL = "ideal filter"


class GFCFConfig(Config):
    """Settings of GF-CF on the target market."""

    ideal_weight: float = Field(
        0.3, ge=0, le=100, description="Weight of the ideal low-pass filter beside the linear one (alpha)"
    )
    dimensions: int = Field(
        256, ge=1, le=4096, description="Frequencies that the ideal low-pass filter lets through, lowest first, at most"
    )
    tune: bool = Field(
        True,
        description="Choose on validation among weights 0, 0.1, 0.3, 1, 3, 10 and 32, 128 or all given frequencies",
    )


@register(
    "gf-cf",
    label="GF-CF",
    family="single-market",
    color="#66a61e",
    config=GFCFConfig,
    deterministic=True,
    uses_sources=False,
)
class GFCF:
    """Smooths each user's history over what the same users of the target market had; nothing is trained.

    Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021: a user's scores are
    r (N'N + w D^-1/2 V V' D^1/2), where N = D_U^-1/2 R D^-1/2, D holds the users per item and V (n, k) the right
    singular vectors of N with the k largest singular values. The paper's k = 256 and w = 0.3 are here without `tune`.

    With them it stays below popularity where events are split and the whole catalogue competes (NDCG@10 of in .027
    against .042, jp .027 against .064, uk .023 against .039), and above it with one item held out among 100. Fewer
    frequencies of more weight, which `tune` tries, are nearer to popularity, whose scores are those of one frequency:
    in .045, jp .046, uk .049.

    Cost: all eigenvalues of an m x m matrix, m the smaller of users and items (about 10 s for 4,668 users on one
    core), and with `tune` 16 products and looks at validation. Memory: 24 m² bytes, then 12 n² for n items, 4 n² kept.
    """

    def __init__(self, config: GFCFConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem:
        """Decompose and filter. Raises Cancelled between two candidates, TrainingError without validation rows."""
        config, filters = self.config, Filters(histories(task.target), self.config.dimensions)
        first = Choice(config.dimensions, {IDEAL: config.ideal_weight})
        if not config.tune:
            return replace(fit_once(task, run, filters.weights, first), details=first.details("frequencies"))
        # the given one comes first and wins ties; without the ideal filter its frequencies do not matter
        weights = sorted({*WEIGHTS, config.ideal_weight} - {0.0})
        widths = [config.dimensions, *(k for k in FREQUENCIES if k < config.dimensions)]
        choices = [first, Choice(config.dimensions, {IDEAL: 0.0})]
        choices += [Choice(k, {IDEAL: weight}) for k in widths for weight in weights]
        search = Search(task, run, filters.weights, len(choices))
        for choice in choices:
            search.consider(choice)
        assert search.best is not None, "a search without candidates"
        value, chosen, fitted = search.best
        return replace(fitted, details={**chosen.details("frequencies"), "validation": value})


class Filters:
    """The linear and the ideal low-pass filter of a binary (users, n) matrix. Memory: 12 n² bytes."""

    def __init__(self, history: sp.csr_array, frequencies: int) -> None:
        """Rows and columns without entries stay without any. `frequencies`: the most that can be asked for."""
        self._root = np.sqrt(np.maximum(np.bincount(history.indices, minlength=history.shape[1]), 1))
        user = np.sqrt(np.maximum(np.diff(history.indptr), 1))
        normal = sp.csr_array(sp.diags_array(1 / user) @ history @ sp.diags_array(1 / self._root))
        self.linear = (normal.T @ normal).toarray().astype(np.float32)
        self._low = low_frequencies(normal, frequencies)
        self._last: tuple[float, FloatArray] | None = None

    def ideal(self, frequencies: float) -> FloatArray:
        """D^-1/2 V V' D^1/2, float32 (n, n)."""
        if self._last is None or self._last[0] != frequencies:
            low = self._low[:, : int(frequencies)]
            left, right = low / self._root[:, None], low * self._root[:, None]
            self._last = frequencies, left.astype(np.float32) @ right.T.astype(np.float32)
        return self._last[1]

    def weights(self, choice: Choice) -> FloatArray:
        """Item weights (n, n): the linear filter plus the ideal one times its weight, `strength` frequencies of it."""
        weight: FloatArray = self.linear + np.float32(choice.weights[IDEAL]) * self.ideal(choice.strength)
        return weight


def low_frequencies(normal: sp.csr_array, most: int) -> FloatArray:
    """Right singular vectors (n, k) of a sparse (m, n) matrix, largest singular value first, k <= `most`.

    Only those of values above zero: the others would be arbitrary. Many markets have several values of 1, one for
    each part of the graph, which an iterative solver finds in part and not the same way twice: so a dense one.
    """
    tall = normal.shape[0] >= normal.shape[1]
    gram = (normal.T @ normal if tall else normal @ normal.T).toarray()
    size = len(gram)
    value, vector = eigh(gram, subset_by_index=[max(0, size - most), size - 1], overwrite_a=True)
    keep = np.flatnonzero(value > SMALLEST)[::-1]
    found: FloatArray = vector[:, keep]
    if not tall:
        found = np.asarray(normal.T @ found) / np.sqrt(value[keep])
    return found
