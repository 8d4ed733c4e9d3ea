"""Popularity, item neighbours and EASE against hand-worked cases and naive formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.errors import Cancelled, SpecError, TrainingError
from cmr_core.interfaces import FloatArray, IntArray, MarketView, Pairs, Run, Task
from cmr_core.models.base import Factors, ItemItem
from cmr_core.models.cooccurrence import WEIGHTS, Counts, counts, histories
from cmr_core.models.ease import REGULARISATIONS, item_weights
from cmr_core.models.itemknn import similarities
from cmr_core.models.registry import get
from cmr_core.training.monitor import QuietMonitor


class Judge:
    """Scores by a rule of the test's own."""

    digest = "rule"

    def __init__(self, rule: Callable[[FloatArray], float]) -> None:
        self.rule = rule
        self.calls = 0

    def __call__(self, market: str, score: Callable[[IntArray], FloatArray]) -> float:
        self.calls += 1
        return self.rule(score(np.arange(3)))


def view(name: str, catalogue: list[int], rows: list[list[int]]) -> MarketView:
    """A market whose user u had the items rows[u], in local codes."""
    user = np.array([u for u, items in enumerate(rows) for _ in items], dtype=np.int32)
    item = np.array([i for items in rows for i in items], dtype=np.int32)
    pairs = Pairs(user, item, np.zeros_like(user))
    return MarketView(name, len(rows), np.array(catalogue, dtype=np.int32), pairs)


TARGET = view("jp", [0, 2, 3, 5], [[0, 1], [1, 2, 2], [0, 1, 3], []])
NEAR = view("de", [0, 1, 2, 5], [[0, 2], [0, 1, 2, 3], [3]])
FAR = view("ca", [2, 3], [[0, 1], [0, 1], [1]])
TASK = Task(TARGET, (FAR, NEAR), 6, "digest", "target")
ALONE = Task(TARGET, (), 6, "digest", "target")


def dense(market: MarketView, n_items: int = 6) -> FloatArray:
    """(n_users, n_items) 0/1 over global codes."""
    matrix = np.zeros((market.n_users, n_items))
    matrix[market.train.user, market.catalogue[market.train.item]] = 1
    return matrix


def run_of(judge: Judge | None = None, monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", judge or Judge(lambda _: 0.5), monitor or QuietMonitor())


def naive_gram(weights: dict[str, float], catalogue: IntArray) -> FloatArray:
    total = dense(TARGET).T @ dense(TARGET)
    for market in (NEAR, FAR):
        total = total + weights.get(market.name, 0.0) * dense(market).T @ dense(market)
    return total[np.ix_(catalogue, catalogue)]


def naive_ease(gram: FloatArray, regularisation: float) -> FloatArray:
    inverse = np.linalg.inv(gram + regularisation * np.eye(len(gram)))
    return np.eye(len(gram)) - inverse / np.diag(inverse)


def naive_neighbours(c: FloatArray, shrinkage: float) -> FloatArray:
    result = np.zeros_like(c)
    for i in range(len(c)):
        for j in range(len(c)):
            scale = (c[i, i] * c[j, j]) ** 0.5 + shrinkage
            if i != j and scale > 0:
                result[i, j] = c[i, j] / scale
    return result


def test_popularity_counts_distinct_users_of_the_target() -> None:
    fitted = get("popularity").create({}).fit(TASK, run_of())
    np.testing.assert_array_equal(fitted.score(np.array([3, 0])), [[2, 3, 1, 1]] * 2)
    assert fitted.parameters.total == 0


def test_popularity_of_all_markets_adds_the_sources() -> None:
    fitted = get("popularity-all").create({}).fit(TASK, run_of())
    np.testing.assert_array_equal(fitted.score(np.array([0])), [[2 + 2, 3 + 2 + 2, 1 + 3, 1 + 2]])


def test_repeats_count_once() -> None:
    assert histories(TARGET).toarray()[1].tolist() == [0, 1, 1, 0]


def test_counts_use_only_items_that_the_target_sells() -> None:
    expected = (dense(NEAR).T @ dense(NEAR))[np.ix_(TARGET.catalogue, TARGET.catalogue)]
    np.testing.assert_array_equal(counts(NEAR, TARGET.catalogue).toarray(), expected)


def test_weighted_sum_of_counts() -> None:
    weights = {"de": 0.3, "ca": 2.0}
    total = Counts(TASK, use_sources=True).weighted(weights)
    np.testing.assert_allclose(total.toarray(), naive_gram(weights, TARGET.catalogue), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(1, 30), st.floats(0.5, 500), st.integers(0, 2**32 - 1))
def test_ease_equals_the_general_inverse(n_items: int, n_users: int, regularisation: float, seed: int) -> None:
    x = (np.random.default_rng(seed).random((n_users, n_items)) < 0.3).astype(float)
    gram = x.T @ x
    weight = item_weights(sp.csr_array(gram), regularisation)
    np.testing.assert_allclose(weight, naive_ease(gram, regularisation), atol=2e-6)
    assert not np.diag(weight).any()
    assert weight.dtype == np.float32


@pytest.mark.parametrize("matrix", [-np.eye(3), np.ones((30, 30)) - 40 * np.eye(30)], ids=["diagonal", "full"])
def test_ease_of_a_matrix_without_inverse_is_an_error(matrix: FloatArray) -> None:
    with pytest.raises(TrainingError, match="cannot be inverted"):
        item_weights(sp.csr_array(matrix), 0.5)


def test_ease_scores_the_target_history() -> None:
    settings = {"regularisation": 2.0, "source_weight": 0.3, "tune": False}
    fitted = get("ease-weighted").create(settings).fit(TASK, run_of())
    weight = naive_ease(naive_gram({"de": 0.3, "ca": 0.3}, TARGET.catalogue), 2.0)
    expected = histories(TARGET).toarray() @ weight
    np.testing.assert_allclose(fitted.score(np.arange(4)), expected, atol=1e-6)
    assert fitted.details == {"regularisation": 2.0, "weight of ca": 0.3, "weight of de": 0.3}
    assert fitted.parameters.closed_form == 16


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(1, 20), st.floats(0, 50), st.integers(0, 2**32 - 1))
def test_neighbours_equal_the_loop(n_items: int, n_users: int, shrinkage: float, seed: int) -> None:
    x = (np.random.default_rng(seed).random((n_users, n_items)) < 0.3).astype(float)
    expected = naive_neighbours(x.T @ x, shrinkage)
    np.testing.assert_allclose(similarities(x.T @ x, shrinkage, 1000), expected, atol=1e-6)


def test_only_the_nearest_are_kept_and_ties_together() -> None:
    c = np.array([[9.0, 3, 2, 1], [3, 9, 2, 0], [2, 2, 9, 2], [1, 0, 2, 9]])
    kept = similarities(c, 0.0, 1) > 0
    assert kept.tolist() == [
        [False, True, True, False],
        [True, False, True, False],
        [False, False, False, True],
        [False, False, True, False],
    ]


@pytest.mark.parametrize("method", ["ease", "itemknn"])
def test_zero_weights_give_the_single_market_method(method: str) -> None:
    one = get(method).create({"tune": False}).fit(TASK, run_of())
    all_ = get(f"{method}-weighted").create({"tune": False, "source_weight": 0}).fit(TASK, run_of())
    np.testing.assert_array_equal(one.score(np.arange(4)), all_.score(np.arange(4)))


@pytest.mark.parametrize("method", ["ease", "itemknn"])
def test_without_sources_the_search_ends_where_the_single_market_method_does(method: str) -> None:
    rule = lambda scores: float(scores[0, 2])  # noqa: E731
    one = get(method).create({}).fit(ALONE, run_of(Judge(rule)))
    all_ = get(f"{method}-weighted").create({}).fit(ALONE, run_of(Judge(rule)))
    assert one.details == all_.details
    np.testing.assert_array_equal(one.score(np.arange(4)), all_.score(np.arange(4)))


def test_the_search_finds_the_weights_that_validation_likes() -> None:
    """The rule likes item 5 for user 1, which only market de ever sold together with 1's items."""
    judge = Judge(lambda scores: float(scores[1, 3]))
    fitted = get("ease-weighted").create({}).fit(TASK, run_of(judge))
    assert fitted.details["weight of de"] == 1.0
    best = float(fitted.details["validation"])
    assert best == pytest.approx(fitted.score(np.array([1]))[0, 3])
    strength = float(fitted.details["regularisation"])
    assert best >= max(value_of(common, common, strength) for common in WEIGHTS)
    assert best >= max(value_of(1.0, weight, strength) for weight in (0.0, 1.0))


def value_of(de: float, ca: float, regularisation: float) -> float:
    """Item 5's score for user 1, by the naive formula."""
    weight = naive_ease(naive_gram({"de": de, "ca": ca}, TARGET.catalogue), regularisation)
    return float((histories(TARGET).toarray() @ weight)[1, 3]) - 1e-6


def test_the_search_never_fits_the_same_candidate_twice_and_says_how_far_it_is() -> None:
    monitor, judge = QuietMonitor(), Judge(lambda scores: float(scores[1, 3]))
    get("ease-weighted").create({}).fit(TASK, run_of(judge, monitor))
    total = len(WEIGHTS) + len(REGULARISATIONS) + 2 * 2
    assert [p.done for p in monitor.progress] == list(range(1, total + 1))
    assert {p.total for p in monitor.progress} == {total}
    assert judge.calls < total


def test_without_tuning_validation_is_never_asked() -> None:
    judge = Judge(lambda _: 1.0)
    get("ease-weighted").create({"tune": False}).fit(TASK, run_of(judge))
    get("itemknn").create({"tune": False}).fit(TASK, run_of(judge))
    assert judge.calls == 0


def test_choosing_without_validation_rows_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no validation rows") as caught:
        get("ease").create({}).fit(TASK, run_of(Judge(lambda _: float("nan"))))
    assert "tune" in caught.value.hint


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_cancel_stops_before_the_next_candidate(after: int) -> None:
    monitor = QuietMonitor(cancel_after=after)
    with pytest.raises(Cancelled):
        get("ease-weighted").create({}).fit(TASK, run_of(monitor=monitor))
    assert len(monitor.progress) == after


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(SpecError, match="regularisation"):
        get("ease").create({"regularisation": 0})


def test_shapes() -> None:
    assert isinstance(get("popularity").create({}).fit(TASK, run_of()), Factors)
    assert isinstance(get("itemknn").create({}).fit(TASK, run_of()), ItemItem)
