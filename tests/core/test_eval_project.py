"""Pictures of vectors: markets that lie apart are told from markets that lie together."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cmr_core.errors import DataError, SpecError
from cmr_core.evaluation.project import project
from cmr_core.explain.vectors import vectors_of
from cmr_core.interfaces import ParameterCount
from cmr_core.models.base import Factors, ItemItem
from cmr_core.models.neural import NeuralScorer

DRAW = np.random.default_rng(2)
COUNT = ParameterCount()


def cloud(direction: int, n: int = 30) -> np.ndarray:
    points = DRAW.normal(scale=0.1, size=(n, 4))
    points[:, direction] += 3
    return points


def test_markets_apart_and_markets_together() -> None:
    apart = project({"a": cloud(0), "b": cloud(1)})
    assert apart.separation > 0.9
    assert apart.silhouette["a"] > 0.9
    together = project({"a": cloud(0), "b": cloud(0)})
    assert abs(together.separation) < 0.1
    place, market = apart.place, np.array(apart.market)
    centres = np.stack([place[market == name].mean(axis=0) for name in "ab"])
    nearest = np.linalg.norm(place[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == (market == "b")).mean() > 0.95, "the picture shows it too"


def test_a_sample_of_each_market_the_same_each_time() -> None:
    vectors = {"a": cloud(0, 300), "b": cloud(1, 20)}
    one, other = (project(vectors, most=50, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.place, other.place)
    assert [one.market.count(name) for name in "ab"] == [50, 20]
    assert len(set(one.row[:50])) == 50


def test_one_market_has_no_separation_and_equal_vectors_are_no_fault() -> None:
    alone = project({"a": cloud(0)})
    assert np.isnan(alone.separation)
    assert alone.silhouette == {}
    assert np.isfinite(project({"a": np.ones((12, 3)), "b": np.ones((12, 3))}).place).all()


def test_what_makes_no_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="different lengths"):
        project({"a": cloud(0), "b": cloud(1)[:, :3]})
    with pytest.raises(DataError, match="needs 10"):
        project({"a": cloud(0, 4)})
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SpecError, match="UMAP is not installed"):
        project({"a": cloud(0)}, reduction="umap")


def test_vectors_of_each_shape() -> None:
    user, item = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    plain = Factors(COUNT, user, item)
    assert set(vectors_of(plain, "item")) == {"after"}
    prompted = Factors(COUNT, user, item, user_plain=user * 2, item_plain=item * 2)
    found = vectors_of(prompted, "user")
    np.testing.assert_array_equal(found["before"], user * 2)
    np.testing.assert_array_equal(found["after"], user)
    weights = {"item.a": item, "item.b": item[:, :2], "item.code": np.arange(4), "user.a": user}
    network = NeuralScorer(COUNT, "gmf", weights, 4)
    assert vectors_of(network, "item")["after"].shape == (4, 5)
    with_market = NeuralScorer(COUNT, "gmf", {"item.a": item, "market": np.array([1.0, 2.0, 3.0])}, 4)
    np.testing.assert_array_equal(vectors_of(with_market, "item")["after"][0], [2, 3, 4])
    with pytest.raises(SpecError, match="no vectors of users"):
        vectors_of(ItemItem(COUNT, np.eye(2), np.array([0]), np.array([0])), "user")
