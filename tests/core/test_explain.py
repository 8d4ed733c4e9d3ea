"""Reasons add up to the score, and say what a hand calculation says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.errors import SpecError
from cmr_core.explain.why import explain
from cmr_core.interfaces import Pairs, ParameterCount
from cmr_core.models.base import Factors, ItemItem

COUNT = ParameterCount()


def pairs(rows: list[list[int]]) -> Pairs:
    user = np.array([u for u, items in enumerate(rows) for _ in items], dtype=np.int32)
    item = np.array([i for items in rows for i in items], dtype=np.int32)
    return Pairs(user, item, np.zeros_like(user))


def test_item_item_by_hand() -> None:
    weight = np.array([[0, 1, 2], [3, 0, -4], [5, 6, 0]], dtype=np.float32)
    bias = np.array([0.5, 0.25, 0.125], dtype=np.float32)
    fitted = ItemItem(COUNT, weight, np.array([0, 2, 3]), np.array([0, 1, 2]), bias)
    why = explain(fitted, pairs([[0, 1], [2]]), user=0, item=2)
    assert [(part.kind, part.item, part.value) for part in why.parts] == [
        ("history", 0, 2.0),
        ("history", 1, -4.0),
        ("item", None, 0.125),
    ]
    assert (why.total, why.prompt, why.exact) == (-1.875, None, True)


def test_factors_by_hand() -> None:
    """One user with items 0 and 1, base 2, messages 4 and 6: vector 2 + (4 + 6) / sqrt 2."""
    item = np.array([[1.0], [2.0], [3.0]])
    message = np.array([[4.0], [6.0], [8.0]])
    vector = np.array([[2.0 + 10 / 2**0.5]])
    plain_user, plain_item = np.array([[1.0]]), np.array([[1.0], [1.0], [2.0]])
    fitted = Factors(COUNT, vector, item, None, np.array([[2.0]]), message, plain_user, plain_item)
    why = explain(fitted, pairs([[1, 0]]), user=0, item=2)
    assert [(part.kind, part.item) for part in why.parts] == [("history", 1), ("history", 0), ("own", None)]
    assert [part.value for part in why.parts] == pytest.approx([18 / 2**0.5, 12 / 2**0.5, 6.0])
    assert why.total == pytest.approx(fitted.score(np.array([0]))[0, 2])
    assert why.prompt == pytest.approx(why.total - 2.0)
    assert why.exact


def test_a_scale_per_user_scales_every_part() -> None:
    """Vector 3 * (2 + 4 / sqrt 1) = 18 against an item at 0.5."""
    fitted = Factors(
        COUNT,
        user=np.array([[18.0]]),
        item=np.array([[0.5], [1.0]]),
        user_base=np.array([[2.0]]),
        item_message=np.array([[9.0], [4.0]]),
        user_scale=np.array([[3.0]]),
    )
    why = explain(fitted, pairs([[1]]), user=0, item=0)
    assert [(part.kind, part.value) for part in why.parts] == [("history", 6.0), ("own", 3.0)]
    assert why.total == fitted.score(np.array([0]))[0, 0] == 9.0
    assert why.exact


def test_vectors_without_a_decomposition_say_so() -> None:
    fitted = Factors(COUNT, np.array([[2.0]]), np.array([[1.0], [3.0]]), np.array([0.0, 0.5]))
    why = explain(fitted, pairs([[0]]), user=0, item=1)
    assert [(part.kind, part.value) for part in why.parts] == [("rest", 6.0), ("item", 0.5)]
    assert not why.exact


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_contributions_sum_to_the_score(seed: int, with_bias: bool) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items, width = 4, 9, 5
    rows = [sorted(rng.choice(n_items, size=rng.integers(0, 6), replace=False).tolist()) for _ in range(n_users)]
    history = np.zeros((n_users, n_items))
    for user, items in enumerate(rows):
        history[user, items] = 1 / max(len(items), 1) ** 0.5
    base, message = rng.normal(size=(n_users, width)), rng.normal(size=(n_items, width))
    items = rng.normal(size=(n_items, width))
    bias = rng.normal(size=n_items) if with_bias else None
    fitted = Factors(COUNT, base + history @ message, items, bias, base, message)
    scores = fitted.score(np.arange(n_users))
    for user in range(n_users):
        for item in range(n_items):
            why = explain(fitted, pairs(rows), user, item)
            assert why.total == pytest.approx(scores[user, item], abs=1e-5)
            assert sorted(part.item for part in why.parts if part.item is not None) == rows[user]


@pytest.mark.parametrize(("user", "item", "word"), [(2, 0, "user"), (-1, 0, "user"), (0, 3, "item"), (0, -1, "item")])
def test_users_and_items_that_do_not_exist_are_refused(user: int, item: int, word: str) -> None:
    fitted = ItemItem(COUNT, np.zeros((3, 3), np.float32), np.array([0, 1, 1]), np.array([0]))
    with pytest.raises(SpecError, match=f"no {word} number"):
        explain(fitted, pairs([[0], []]), user, item)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(TypeError, match="no explanation"):
        explain(object(), pairs([[0]]), 0, 0)  # type: ignore[arg-type]
