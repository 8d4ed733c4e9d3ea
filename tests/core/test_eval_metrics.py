"""Metrics against a loop over users, against hand-worked cases, and what lists are like as a whole."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.evaluation.groups import ITEM_BOUNDS, USER_BOUNDS, group_names, group_of
from cmr_core.evaluation.metrics import beyond_accuracy, gini, per_user

USERS = st.lists(st.sets(st.integers(1, 30), max_size=8), min_size=1, max_size=8)


def naive(held_ranks: set[int], k: int) -> dict[str, float]:
    """One user's metrics, straight from the definitions."""
    if not held_ranks:
        return dict.fromkeys(("recall", "ndcg", "hit", "mrr", "map", "precision"), math.nan)
    relevant = [r in held_ranks for r in range(1, k + 1)]
    dcg = sum(1 / math.log2(r + 1) for r, yes in enumerate(relevant, 1) if yes)
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(len(held_ranks), k) + 1))
    precisions = [sum(relevant[:r]) / r for r, yes in enumerate(relevant, 1) if yes]
    return {
        "recall": sum(relevant) / len(held_ranks),
        "precision": sum(relevant) / k,
        "hit": float(any(relevant)),
        "mrr": next((1 / r for r, yes in enumerate(relevant, 1) if yes), 0.0),
        "map": sum(precisions) / len(held_ranks),
        "ndcg": dcg / ideal,
    }


@settings(deadline=None)
@given(USERS, st.sets(st.integers(1, 25), min_size=1, max_size=3), st.randoms())
def test_equal_to_a_loop(users: list[set[int]], cutoffs: set[int], random: Random) -> None:
    rows = [(u, r) for u, held in enumerate(users) for r in held]
    random.shuffle(rows)
    user, rank = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    found = per_user(user, rank, len(users), sorted(cutoffs))
    for k in cutoffs:
        for u, held in enumerate(users):
            for name, value in naive(held, k).items():
                assert found[f"{name}@{k}"][u] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_hand_worked_user() -> None:
    """Held-out items at ranks 1, 3 and 9, cutoff 5."""
    found = {n: v[0] for n, v in per_user(np.zeros(3, int), np.array([3, 9, 1]), 1, [5]).items()}
    assert found["recall@5"] == pytest.approx(2 / 3)
    assert found["precision@5"] == pytest.approx(2 / 5)
    assert found["hit@5"] == 1
    assert found["mrr@5"] == 1
    assert found["map@5"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["ndcg@5"] == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3) + 0.5))


def test_perfect_ranks_give_one_however_many_are_held_out() -> None:
    rank = np.arange(1, 41)
    found = per_user(np.zeros(40, int), rank, 1, [10])
    assert found["ndcg@10"][0] == pytest.approx(1)
    assert found["precision@10"][0] == 1
    assert found["recall@10"][0] == pytest.approx(0.25)


def test_beyond_accuracy_by_hand() -> None:
    """Four items had by 3, 1, 0, 0 of 3 users; lists 0 1 / 0 2 / 0 and nothing."""
    lists = np.array([[0, 1], [0, 2], [0, -1]])
    found = beyond_accuracy(lists, np.array([3, 1, 0, 0]), 3, [1, 2])
    assert found["coverage@1"] == 0.25
    assert found["coverage@2"] == 0.75
    assert found["novelty@1"] == pytest.approx(0.0)  # everybody has item 0
    assert found["novelty@2"] == pytest.approx((3 * 0 + 1 + 2) / 5)  # -log2(2/4), -log2(1/4)
    assert found["popularity@2"] == pytest.approx((3 * 3 + 1 + 0) / 5)
    assert found["gini@1"] == pytest.approx(0.75)  # one of four items gets everything


def test_nothing_recommended_is_nan() -> None:
    found = beyond_accuracy(np.full((2, 3), -1), np.array([1, 1]), 2, [3])
    assert all(math.isnan(value) for value in found.values())


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_gini_is_half_the_mean_absolute_difference(counts: list[int]) -> None:
    n, total = len(counts), sum(counts)
    if not total:
        assert math.isnan(gini(np.array(counts)))
        return
    naive_value = sum(abs(a - b) for a in counts for b in counts) / (2 * n * total)
    assert gini(np.array(counts)) == pytest.approx(naive_value, abs=1e-12)


def test_groups_cover_every_count_once() -> None:
    assert group_names("item", ITEM_BOUNDS) == ["item:0", "item:1-4", "item:5-19", "item:20+"]
    assert group_of(np.array([0, 1, 4, 5, 19, 20, 999]), ITEM_BOUNDS).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert group_names("user", USER_BOUNDS) == ["user:0", "user:1-4", "user:5-9", "user:10-19", "user:20+"]
