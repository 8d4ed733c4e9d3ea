"""The made-up corpus: its shape, and that its known truth can be found by a method."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from cmr_core.data.audit import audit
from cmr_core.data.describe import describe
from cmr_core.data.market import Corpus
from cmr_core.data.split import Split, make_split
from cmr_core.data.synthetic import SHAPES, TRUTH, synthetic
from cmr_core.interfaces import MarketView
from cmr_core.spec import SplitSpec


@pytest.fixture(scope="module")
def full() -> Corpus:
    return synthetic(0)


@pytest.mark.parametrize("market", SHAPES)
def test_every_market_has_the_shape_that_was_measured(full: Corpus, market: str) -> None:
    shape, told = SHAPES[market], describe(full)["markets"][market]
    assert (told["users"], told["items"]) == (shape.users, shape.items)
    assert told["pairs"] == pytest.approx(shape.pairs, rel=0.18)
    assert told["items_shared"] == pytest.approx(shape.shared, abs=0.12)
    assert 0.45 < told["gini"] < 0.8
    assert 0.35 < told["top_share"] < 0.75
    assert 6 <= told["user_quantiles"]["50"] <= 9
    assert 10 <= told["user_quantiles"]["95"] <= 20


def test_leaks_are_those_of_the_real_files(full: Corpus) -> None:
    told = audit(full)
    assert told["same_day"] == pytest.approx(0.58, abs=0.05)
    assert max(told["markets"], key=lambda m: told["markets"][m]["same_day"]) == "mx"
    rows = sum(m["rows"] for m in told["markets"].values())
    assert sum(m["repeats"] for m in told["markets"].values()) / rows == pytest.approx(0.022, abs=0.005)
    assert told["shared_users"] == {"traveller": ["de", "uk"]}
    assert told["protocol"]["kind"] == "events"


def test_a_seed_gives_one_corpus_and_a_scale_a_smaller_one() -> None:
    small = synthetic(3, 0.02)
    assert small.digest == synthetic(3, 0.02).digest != synthetic(4, 0.02).digest
    assert sorted(small.markets) == sorted(SHAPES)
    assert sum(len(m) for m in small.markets.values()) < 6000
    assert all((np.bincount(m.user) >= 1).all() for m in small.markets.values())
    with pytest.raises(ValueError, match="scale"):
        synthetic(0, 0)


def gram(view: MarketView, catalogue: NDArray[np.int32]) -> NDArray[np.float64]:
    """Co-occurrences of `catalogue`'s items in the training pairs of a market."""
    column = np.full(int(max(view.catalogue[-1], catalogue[-1])) + 1, -1)
    column[catalogue] = np.arange(len(catalogue))
    item = column[view.catalogue[view.train.item]]
    x = np.zeros((view.n_users, len(catalogue)))
    x[view.train.user[item >= 0], item[item >= 0]] = 1
    return x.T @ x


def quality(split: Split, target: str, source: str | None, weight: float = 1.0) -> float:
    """NDCG@10 of EASE (Steck 2019) on the test part, all items of the catalogue competing."""
    market = split.markets[target]
    counts = gram(market.view(), market.catalogue)
    if source is not None:
        counts += weight * gram(split.markets[source].view(), market.catalogue)
    inverse = np.linalg.inv(counts + 30 * np.eye(len(counts)))
    model = -inverse / np.diag(inverse)
    np.fill_diagonal(model, 0)
    x = np.zeros((market.n_users, market.n_items))
    x[market.train.user, market.train.item] = 1
    scores = x @ model
    for part in (market.train, market.valid):
        scores[part.user, part.item] = -np.inf
    truth = np.zeros_like(x)
    truth[market.test.user, market.test.item] = 1
    users = np.unique(market.test.user)
    hits = np.take_along_axis(truth, np.argsort(-scores, axis=1)[:, :10], axis=1)[users]
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.cumsum(discount)[np.minimum(truth[users].sum(axis=1), 10).astype(int) - 1]
    return float(((hits @ discount) / ideal).mean())


@pytest.mark.parametrize("kind", ["events", "ratio"])
def test_the_similar_rich_market_helps_the_sparse_one(full: Corpus, kind: Literal["events", "ratio"]) -> None:
    split = make_split(full, SplitSpec(kind=kind))
    target, source = TRUTH.similar
    assert quality(split, target, source) > 1.08 * quality(split, target, None)


@pytest.mark.parametrize("kind", ["events", "ratio"])
def test_the_opposed_source_hurts(full: Corpus, kind: Literal["events", "ratio"]) -> None:
    split = make_split(full, SplitSpec(kind=kind))
    target, source = TRUTH.opposed
    alone = quality(split, target, None)
    assert quality(split, target, source) < 0.9 * alone
    assert quality(split, target, TRUTH.similar[1]) > alone


def test_truth_follows_from_the_shapes() -> None:
    distance = dict(TRUTH.distance)
    assert distance[TRUTH.similar[0]] == distance[TRUTH.similar[1]] == 0
    assert distance[TRUTH.opposed[1]] == 1
