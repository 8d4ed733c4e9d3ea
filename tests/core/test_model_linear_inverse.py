"""The inverse by elimination against numpy's general inverse, from diagonal to full matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.models.inverse import cholesky_inverse, independent, inverse


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.01, 0.6), st.integers(0, 2**32 - 1))
def test_equals_the_general_inverse(n_items: int, n_users: int, density: float, seed: int) -> None:
    x = (np.random.default_rng(seed).random((n_users, n_items)) < density).astype(float)
    matrix = x.T @ x + 3.0 * np.eye(n_items)
    np.testing.assert_allclose(inverse(sp.csr_array(matrix)), np.linalg.inv(matrix), atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 0.6), st.integers(0, 2**32 - 1))
def test_chosen_rows_never_meet_and_none_could_be_added(n: int, density: float, seed: int) -> None:
    half = np.random.default_rng(seed).random((n, n)) < density
    pattern = half | half.T | np.eye(n, dtype=bool)
    chosen = independent(sp.csr_array(pattern.astype(float)))
    assert np.array_equal(pattern[np.ix_(chosen, chosen)], np.eye(chosen.sum(), dtype=bool))
    assert (pattern[:, chosen].any(axis=1) | chosen).all()


@pytest.mark.parametrize("n", [0, 1, 7])
def test_dense_cholesky(n: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, n))
    matrix = x @ x.T + np.eye(n)
    np.testing.assert_allclose(cholesky_inverse(np.array(matrix, order="F")), np.linalg.inv(matrix), atol=1e-12)
