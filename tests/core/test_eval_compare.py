"""Significance and intervals against enumeration, definitions and known coverage."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmr_core.errors import SpecError
from cmr_core.evaluation.compare import adjust, against, bootstrap, holm, over_seeds, paired


def series(values: list[float], users: list[int] | None = None) -> pd.Series:
    return pd.Series(values, index=pd.Index(users or range(len(values)), name="user"), dtype=float)


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(1, 1000), min_size=1, max_size=9), st.randoms())
def test_wilcoxon_equals_enumerating_all_signs(sizes: set[int], random: Random) -> None:
    """Exact two-sided p: the share of sign patterns whose rank sum is at least as far from its middle."""
    d = np.array([s * random.choice([-1, 1]) / 1000 for s in sizes])
    rank = stats.rankdata(np.abs(d))
    middle = rank.sum() / 2
    far = abs(rank[d > 0].sum() - middle)
    sums = [sum(r for r, up in zip(rank, ups, strict=True) if up) for ups in itertools.product([0, 1], repeat=len(d))]
    expected = np.mean([abs(s - middle) >= far - 1e-9 for s in sums])
    assert paired(d, np.zeros(len(d))).p_wilcoxon == pytest.approx(expected)


def test_against_scipy_on_many_users() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300).round(1), rng.random(300).round(1)
    found = paired(a, b)
    d = (a - b).round(12)
    assert found.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(d[d != 0]).pvalue)
    assert (found.wins, found.ties, found.losses) == ((d > 0).sum(), (d == 0).sum(), (d < 0).sum())
    assert found.effect == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.difference == pytest.approx(found.mean - found.reference_mean)
    assert found.low < found.difference < found.high


def test_swapping_the_sides_swaps_everything() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(60), rng.random(60)
    one, other = paired(a, b), paired(b, a)
    assert (one.difference, one.effect, one.low) == pytest.approx((-other.difference, -other.effect, -other.high))
    assert (one.wins, one.p_t, one.p_wilcoxon) == pytest.approx((other.losses, other.p_t, other.p_wilcoxon))


def test_no_difference_at_all_is_defined() -> None:
    a = np.array([0.1, 0.5, 0.9])
    found = paired(a, a + 1e-15)  # what averaging over seeds leaves
    assert (found.p_wilcoxon, found.p_t, found.effect, found.ties) == (1, 1, 0, 3)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_same_difference_everywhere_is_defined() -> None:
    found = paired(np.array([0.3, 0.5, 0.7]), np.array([0.1, 0.3, 0.5]))
    assert (found.effect, found.p_t, found.wins) == (math.inf, 0, 3)
    assert paired(np.zeros(3), np.ones(3)).effect == -math.inf
    assert math.isnan(paired(np.ones(1), np.zeros(1)).p_t)


@pytest.mark.parametrize("b", [np.zeros(2), np.zeros((3, 1))])
def test_unpaired_vectors_are_an_error(b: np.ndarray) -> None:
    with pytest.raises(SpecError, match="same users"):
        paired(np.zeros(3), b)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_equals_its_definition(p: list[float]) -> None:
    found = holm(np.array(p))
    tests = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    highest = 0.0
    for step, (value, i) in enumerate(tests):
        highest = max(highest, min(1.0, value * (len(tests) - step)))
        assert found[i] == pytest.approx(highest)
    assert sum(math.isnan(v) for v in found) == len(p) - len(tests)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_bootstrap_interval_is_close_to_the_normal_one_and_repeatable() -> None:
    values = np.random.default_rng(2).normal(3, 2, (1000, 2))
    first, second = bootstrap(values, seed=4)
    half = 1.96 * values[:, 0].std() / math.sqrt(1000)
    assert first.mean == pytest.approx(values[:, 0].mean())
    assert (first.low, first.high) == pytest.approx((first.mean - half, first.mean + half), abs=0.02)
    assert bootstrap(values, seed=4) == [first, second]
    alone = bootstrap(values[:, :1], seed=4)[0]  # other columns do not matter
    assert (alone.low, alone.high) == pytest.approx((first.low, first.high), abs=1e-12)
    assert bootstrap(values, seed=5) != [first, second]


def test_bootstrap_equals_a_loop_that_draws_users() -> None:
    values = np.array([0.0, 0.0, 1.0, 4.0])
    outcomes = sorted(np.mean(draw) for draw in itertools.product(values, repeat=4))
    found = bootstrap(values[:, None])[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(outcomes, [0.025, 0.975])), abs=0.26)
    assert found.low in outcomes
    assert found.high in outcomes


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    intervals = bootstrap(rng.exponential(1.0, (80, 400)), resamples=2000)
    covered = np.mean([i.low <= 1.0 <= i.high for i in intervals])
    assert 0.88 < covered < 0.98


def test_seeds_are_averaged_per_user_and_not_counted_as_users() -> None:
    tables = [
        pd.DataFrame({"user": [4, 2], "ndcg@10": [1.0, 0.0]}),
        pd.DataFrame({"user": [2, 4], "ndcg@10": [0.5, 0.0]}),
    ]
    found = over_seeds(tables, "ndcg@10")
    assert found.to_dict() == {2: 0.25, 4: 0.5}
    with pytest.raises(SpecError, match="different users"):
        over_seeds([tables[0], tables[1].head(1)], "ndcg@10")
    with pytest.raises(SpecError, match="no metric"):
        over_seeds(tables, "recall@10")
    with pytest.raises(SpecError, match="no run"):
        over_seeds([], "recall@10")


def test_against_a_reference_then_corrected_over_the_family() -> None:
    rng = np.random.default_rng(4)
    base = rng.random(200)
    methods = {
        "reference": series(base.tolist()),
        "better": series((base + rng.normal(0.1, 0.1, 200)).tolist()),
        "same": series(base.tolist()).sample(frac=1, random_state=0),  # order of rows must not matter
    }
    table = adjust(against(methods, "reference")).set_index("method")
    assert list(table.index) == ["better", "same"]
    assert table.loc["better", "significant"]
    assert table.loc["better", "p_holm"] == pytest.approx(2 * table.loc["better", "p_wilcoxon"])
    assert not table.loc["same", "significant"]
    assert table.loc["same", "ties"] == 200
    single = paired(methods["better"].to_numpy(), base)
    assert table.loc["better", ["low", "high"]].tolist() == pytest.approx([single.low, single.high])


def test_against_refuses_what_cannot_be_paired() -> None:
    methods = {"a": series([1.0, 2.0]), "b": series([1.0, 2.0], [0, 5])}
    with pytest.raises(SpecError, match="different users"):
        against(methods, "a")
    with pytest.raises(SpecError, match="no method 'c'"):
        against(methods, "c")
    assert against({"a": series([1.0])}, "a").empty


def test_pages_can_compare_without_loading_torch() -> None:
    code = "import sys, cmr_core.evaluation.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
