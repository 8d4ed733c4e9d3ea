"""Negatives: exact, uniform, from the row's own market; every pair once per epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.errors import TrainingError
from cmr_core.interfaces import MarketView, Pairs
from cmr_core.models.losses import bpr, l2
from cmr_core.models.negatives import Negatives, Triples


def view(name: str, n_users: int, catalogue: list[int], pairs: list[tuple[int, int]]) -> MarketView:
    user, item = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    return MarketView(
        name, n_users, np.array(catalogue, dtype=np.int32), Pairs(user, item, np.full(len(user), -1, dtype=np.int32))
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


markets = st.lists(
    st.tuples(st.integers(1, 5), st.integers(2, 7)).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.sets(st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)), min_size=1),
        )
    ),
    min_size=1,
    max_size=3,
)


@given(markets, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_draws_reach_every_missing_item_and_no_other(
    given_markets: list[tuple[tuple[int, int], set[tuple[int, int]]]], seed: int
) -> None:
    views = [view(str(n), u, list(range(i)), sorted(p)) for n, ((u, i), p) in enumerate(given_markets)]
    negatives = Negatives(views, "cpu")
    node = 0
    for (n_users, n_items), pairs in given_markets:
        for user in range(n_users):
            missing = {item for item in range(n_items) if (user, item) not in pairs}
            assert negatives.missing[node] == len(missing)
            if missing:
                drawn = negatives.draw(torch.full((400,), node), seeded(seed))
                assert set(drawn.tolist()) <= missing
                assert len(missing) > 4 or set(drawn.tolist()) == missing
            node += 1


def test_draws_are_uniform() -> None:
    negatives = Negatives([view("m", 1, list(range(10)), [(0, 0), (0, 4), (0, 5), (0, 9)])], "cpu")
    drawn = negatives.draw(torch.zeros(60_000, dtype=torch.int64), seeded(1)).numpy()
    counts = np.bincount(drawn, minlength=10)
    np.testing.assert_array_equal(counts[[0, 4, 5, 9]], 0)
    chi2 = ((counts[[1, 2, 3, 6, 7, 8]] - 10_000) ** 2 / 10_000).sum()
    assert chi2 < 20.5  # 5 degrees of freedom: p = 0.001


def test_an_epoch_holds_every_pair_once_with_a_negative_of_the_same_market() -> None:
    first = view("a", 2, [0, 2, 5], [(0, 0), (0, 1), (1, 2)])
    second = view("b", 1, [1, 2], [(0, 1)])
    triples = Triples([first, second], "cpu", catalogues=True)
    offset = 3
    for seed in range(20):
        user, positive, negative = (part.tolist() for part in triples.epoch(seeded(seed)))
        assert sorted(zip(user, positive, strict=True)) == [(0, 3 + 0), (0, 3 + 2), (1, 3 + 5), (2, 3 + 2)]
        for who, item in zip(user, negative, strict=True):
            assert item - offset in {0: {5}, 1: {0, 2}, 2: {1}}[who]


def test_epochs_differ_and_equal_seeds_agree() -> None:
    pairs = [(user, item) for user in range(6) for item in range(6) if (user + item) % 2]
    triples = Triples([view("m", 6, list(range(6)), pairs)], "cpu", catalogues=False)
    generator = seeded(5)
    one, two = torch.stack(triples.epoch(generator)), torch.stack(triples.epoch(generator))
    assert not torch.equal(one, two)
    assert torch.equal(one, torch.stack(triples.epoch(seeded(5))))


def test_a_user_with_the_whole_catalogue_is_left_out() -> None:
    triples = Triples([view("m", 2, [0, 1], [(0, 0), (0, 1), (1, 0)])], "cpu", catalogues=False)
    assert len(triples) == 1
    assert [part.tolist() for part in triples.epoch(seeded())] == [[1], [2], [3]]


@pytest.mark.parametrize("pairs", [[], [(0, 0), (0, 1)]])
def test_nothing_to_learn_from_is_an_error(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(TrainingError, match="nothing to learn from in fr") as caught:
        Triples([view("fr", 1, [0, 1], pairs)], "cpu", catalogues=False)
    assert caught.value.hint


def test_bpr_by_hand_and_falling_with_the_positive_score() -> None:
    scores = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    losses = [bpr(score[None], torch.zeros(1)).item() for score in scores]
    np.testing.assert_allclose(losses, np.log1p(np.exp(-scores.numpy())), rtol=1e-6)
    assert losses == sorted(losses, reverse=True)


def test_l2_by_hand() -> None:
    assert l2(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), 2).item() == pytest.approx(14 / 4)
