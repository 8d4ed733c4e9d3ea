"""Top lists and ranks against a loop that sorts every row; ties are broken by chance, alike everywhere."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cmr_core.evaluation import topk
from cmr_core.evaluation.topk import ranks, tie_keys, top_k

SMALL = st.tuples(st.integers(1, 6), st.integers(1, 12))
VALUES = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 1e-30, 3.0])


def naive_order(row: np.ndarray, user: int, seed: int) -> list[int]:
    """Candidates of one row, best first, by sorting (score, key) pairs."""
    keys = [int(tie_keys(seed, np.array([user]), np.array([i]))[0]) for i in range(len(row))]
    return sorted((i for i in range(len(row)) if row[i] > -np.inf), key=lambda i: (-row[i], keys[i]))


@settings(deadline=None)
@given(SMALL.flatmap(lambda s: arrays(np.float32, s, elements=VALUES)), st.integers(1, 14), st.integers(0, 2**31 - 1))
def test_top_lists_equal_sorted_rows(scores: np.ndarray, k: int, seed: int) -> None:
    users = np.arange(len(scores)) + 7
    items, values = top_k(scores, users, k, seed)
    assert items.shape == (len(scores), min(k, scores.shape[1]))
    for b, row in enumerate(scores):
        expected = naive_order(row, users[b], seed)[:k]
        assert items[b, : len(expected)].tolist() == expected
        assert (items[b, len(expected) :] == -1).all()
        assert values[b, : len(expected)].tolist() == row[expected].tolist()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(17, 203), st.integers(1, 9), st.sampled_from([1, 2, 4, 30, 1000]), st.integers(0, 190), st.integers(0)
)
def test_wide_rows_are_folded_without_losing_an_item(width: int, k: int, levels: int, out: int, seed: int) -> None:
    """Few levels: rows full of ties. Many: hardly any. `out`: items that are no candidates, up to all but none."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (4, width)).astype(np.float32)
    scores[np.arange(4)[:, None], rng.integers(0, width, (4, out))] = -np.inf
    users = np.arange(4)
    items, _ = top_k(scores, users, k, seed % 2**31)
    for b, row in enumerate(scores):
        expected = naive_order(row, users[b], seed % 2**31)[:k]
        assert items[b].tolist() == expected + [-1] * (min(k, width) - len(expected))


@settings(deadline=None)
@given(SMALL.flatmap(lambda s: arrays(np.float64, s, elements=VALUES)), st.integers(0, 2**31 - 1))
def test_ranks_equal_places_in_sorted_rows(scores: np.ndarray, seed: int) -> None:
    users = np.arange(len(scores)) * 3
    rows, items = np.nonzero(scores > -np.inf)
    expected = [naive_order(scores[r], users[r], seed).index(i) + 1 for r, i in zip(rows, items, strict=True)]
    assert ranks(scores, users, rows, items, seed).tolist() == expected


@settings(deadline=None)
@given(SMALL.flatmap(lambda s: arrays(np.float64, s, elements=VALUES)), st.integers(0, 999), st.randoms())
def test_ranks_in_listed_candidates(scores: np.ndarray, seed: int, random: Random) -> None:
    users = np.arange(len(scores))
    listed = np.array([random.sample(range(scores.shape[1]), scores.shape[1]) for _ in users])
    listed[:, 1::3] = -1
    candidates = np.take_along_axis(scores, np.maximum(listed, 0), axis=1)
    candidates[listed < 0] = -np.inf
    rows, columns = np.nonzero(candidates > -np.inf)
    items = listed[rows, columns]
    left = np.full_like(scores, -np.inf)
    left[rows, items] = scores[rows, items]
    expected = [naive_order(left[r], users[r], seed).index(i) + 1 for r, i in zip(rows, items, strict=True)]
    assert ranks(candidates, users, rows, items, seed, listed).tolist() == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.float32)
    rows, items = np.nonzero(scores > 1)
    whole = ranks(scores, np.arange(30), rows, items, 5)
    monkeypatch.setattr(topk, "CELLS", 100)
    assert (ranks(scores, np.arange(30), rows, items, 5) == whole).all()


def test_keys_of_a_user_are_all_different() -> None:
    keys = tie_keys(3, np.arange(20)[:, None], np.arange(20_000))
    assert all(len(np.unique(row)) == 20_000 for row in keys)


def test_ties_favour_no_item_and_no_pair_of_items() -> None:
    """Of 10 equal items each is first, and each before each other, as often as chance has it."""
    users = np.arange(20_000)
    order, _ = top_k(np.zeros((20_000, 10), dtype=np.float32), users, 10, seed=1)
    first = np.bincount(order[:, 0], minlength=10) / 20_000
    assert np.abs(first - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 20_000)
    place = np.argsort(order, axis=1)
    before = (place[:, :, None] < place[:, None, :]).mean(axis=0)[~np.eye(10, dtype=bool)]
    assert np.abs(before - 0.5).max() < 5 * np.sqrt(0.25 / 20_000)


def test_neighbouring_users_and_seeds_break_ties_independently() -> None:
    keys = [tie_keys(seed, np.arange(200)[:, None], np.arange(300)).ravel() / 2**32 for seed in range(6)]
    seeds = np.corrcoef(keys)[~np.eye(6, dtype=bool)]
    users = np.corrcoef(keys[0].reshape(200, 300)[:40])[~np.eye(40, dtype=bool)]
    assert np.abs(seeds).max() < 5 / np.sqrt(60_000)
    assert np.abs(users).max() < 5 / np.sqrt(300)


def test_another_seed_gives_another_order() -> None:
    scores = np.zeros((1, 50), dtype=np.float32)
    assert top_k(scores, np.array([0]), 50, 1)[0].tolist() != top_k(scores, np.array([0]), 50, 2)[0].tolist()
