"""GF-CF against the paper's formula in dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cmr_core.models.cooccurrence import Choice, histories
from cmr_core.models.gfcf import IDEAL, Filters, low_frequencies
from cmr_core.models.registry import get
from tests.core.tiny_markets import TASK, start

RNG = np.random.default_rng(3)
TALL = (RNG.random((14, 6)) < 0.5).astype(np.float32)


def naive(history: np.ndarray, frequencies: int, weight: float) -> np.ndarray:
    """R~'R~ + w D^-1/2 V V' D^1/2 with numpy's singular value decomposition; every row and column has an entry."""
    user, item = history.sum(1), history.sum(0)
    normal = history / np.sqrt(user)[:, None] / np.sqrt(item)
    _, value, vh = np.linalg.svd(normal, full_matrices=False)
    v = vh[: min(frequencies, int((value > 1e-6).sum()))].T
    return normal.T @ normal + weight * np.diag(item**-0.5) @ v @ v.T @ np.diag(item**0.5)


@pytest.mark.parametrize("history", [TALL, np.ascontiguousarray(TALL.T)], ids=["tall", "wide"])
@pytest.mark.parametrize(("frequencies", "weight"), [(1, 0.3), (3, 0.3), (256, 2.0), (3, 0.0)])
def test_weights_equal_the_formula(history: np.ndarray, frequencies: int, weight: float) -> None:
    assert history.sum(0).all()
    assert history.sum(1).all()
    found = Filters(sp.csr_array(history), 256).weights(Choice(frequencies, {IDEAL: weight}))
    np.testing.assert_allclose(found, naive(history.astype(np.float64), frequencies, weight), atol=1e-5)
    assert found.dtype == np.float32


def test_one_frequency_ranks_by_popularity() -> None:
    """The lowest frequency of a connected graph is the root of the degrees."""
    ideal = Filters(sp.csr_array(TALL), 1).ideal(1)
    scores = TALL @ ideal
    shares = np.tile(TALL.sum(0) / TALL.sum(), (len(TALL), 1))
    np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), shares, atol=1e-5)


def test_frequencies_of_value_zero_are_left_out() -> None:
    twice = sp.csr_array(np.repeat(TALL[:, :3], 2, axis=1).astype(np.float64) / 4)
    assert low_frequencies(twice, 6).shape == (6, 3)


def test_a_graph_in_parts_gives_all_their_constants_and_the_same_ones_each_time() -> None:
    parts = sp.csr_array(sp.block_diag([np.ones((2, 2))] * 5))
    one, other = (Filters(parts, 5).ideal(5) for _ in range(2))
    np.testing.assert_allclose(one, sp.block_diag([np.full((2, 2), 0.5)] * 5).toarray(), atol=1e-6)
    np.testing.assert_array_equal(one, other)


def test_items_and_users_without_pairs_stay_without() -> None:
    history = sp.csr_array(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=np.float32))
    found = Filters(history, 3).weights(Choice(3, {IDEAL: 1.0}))
    assert np.isfinite(found).all()
    assert not found[2].any()
    assert not found[:, 2].any()


def test_scores_are_histories_times_weights_as_in_the_paper_by_default() -> None:
    fitted = get("gf-cf").create({"tune": False}).fit(TASK, start())
    history = histories(TASK.target)
    weight = Filters(history, 256).weights(Choice(256, {IDEAL: 0.3}))
    np.testing.assert_allclose(fitted.score(np.arange(TASK.target.n_users)), history @ weight, rtol=1e-5, atol=1e-6)
    assert fitted.details == {"frequencies": 256, f"weight of {IDEAL}": 0.3}
    assert fitted.parameters.closed_form == TASK.target.n_items**2


def test_tuning_keeps_the_best_that_validation_saw() -> None:
    run = start()
    fitted = get("gf-cf").create({"dimensions": 5}).fit(TASK, run)
    value = fitted.details["validation"]
    assert value == max(report.metrics["valid"] for report in run.monitor.progress)  # type: ignore[attr-defined]
    assert value == pytest.approx(run.validate(TASK.target.name, fitted.score))
