"""Histories as sequences, hidden items, and the softmax over what a market sells: against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cmr_core.errors import TrainingError
from cmr_core.interfaces import MarketView, Pairs
from cmr_core.models.bert4rec import hide
from cmr_core.models.pointwise import Layout
from cmr_core.models.sequences import Competitors, Sequences, alike


def view(name: str, n_users: int, catalogue: list[int], rows: list[tuple[int, int, int]]) -> MarketView:
    user, item, day = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    return MarketView(name, n_users, np.array(catalogue, dtype=np.int32), Pairs(user, item, day))


CA = view("ca", 3, [0, 2, 4, 6], [(0, 3, 5), (0, 1, 2), (0, 0, 9), (2, 2, 1)])
UK = view("uk", 2, [2, 3, 4], [(0, 0, 7), (0, 1, 7), (0, 2, 7), (1, 2, -1)])
LAYOUT = Layout([CA, UK])  # items 0 2 3 4 6 are rows 0..4
PAD = 5


def sequences(length: int = 50, seed: int = 0) -> Sequences:
    return Sequences(LAYOUT, length, seed, "cpu")


def last(made: Sequences, users: list[int], ends: list[int], **options: int | list[int]) -> list[list[int]]:
    named = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in options.items()}
    return made.last(torch.tensor(users), torch.tensor(ends), **named).tolist()  # type: ignore[arg-type]


def test_items_come_by_day_padded_on_the_left_to_the_longest_of_the_batch() -> None:
    made = sequences()
    assert made.count.tolist() == [3, 0, 1, 3, 1]
    assert made.market.tolist() == [0, 0, 0, 1, 1]
    assert last(made, [0, 1, 2], [3, 0, 1]) == [[1, 4, 0], [PAD] * 3, [PAD, PAD, 3]]
    assert last(made, [1], [0]) == [[PAD]]
    assert last(made, [4, 2], [1, 1]) == [[3], [3]]


def test_only_the_latest_items_are_kept() -> None:
    assert last(sequences(length=2), [0, 2], [3, 1]) == [[4, 0], [PAD, 3]]
    assert last(sequences(), [0], [3], places=1) == [[0]]


def test_what_was_before_a_place_and_what_is_beside_it() -> None:
    made = sequences()
    assert last(made, [0, 0, 0], [0, 1, 2]) == [[PAD, PAD], [PAD, 1], [1, 4]]
    assert last(made, [0, 0, 0, 2], [2, 2, 2, 0], without=[0, 1, 2, 0]) == [[4, 0], [1, 0], [1, 4], [PAD, PAD]]
    assert last(sequences(length=1), [0, 0], [2, 2], without=[0, 2]) == [[0], [4]]


def test_equal_days_come_in_an_order_of_the_seed() -> None:
    orders = {tuple(last(sequences(seed=seed), [3], [3])[0]) for seed in range(40)}
    assert len(orders) == 6, "three items of one day have six orders"
    assert all(sorted(order) == [1, 2, 3] for order in orders)
    assert last(sequences(seed=7), [3], [3]) == last(sequences(seed=7), [3], [3])


def test_no_training_pair_is_an_error() -> None:
    none = np.array([], dtype=np.int32)
    with pytest.raises(TrainingError, match="mx"):
        Sequences(Layout([MarketView("mx", 2, np.arange(3), Pairs(none, none, none))]), 5, 0, "cpu")


def test_batches_hold_everybody_once_and_members_of_near_length() -> None:
    lengths = torch.tensor([9, 1, 5, 1, 9, 5, 1, 2])
    generator = torch.Generator().manual_seed(0)
    seen = [list(alike(lengths, 3, generator)) for _ in range(20)]
    for batches in seen:
        assert sorted(torch.cat(batches).tolist()) == list(range(8))
        assert sorted(sorted(lengths[batch].tolist()) for batch in batches) == [[1, 1, 1], [2, 5, 5], [9, 9]]
    assert len({str([batch.tolist() for batch in batches]) for batches in seen}) > 10


def test_hidden_places_are_present_at_the_wanted_share_and_never_none() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.arange(10)[None] >= torch.randint(0, 10, (4000, 1), generator=generator)
    hidden = hide(present, 0.4, 0.0, generator)
    assert not (hidden & ~present).any()
    assert hidden.any(dim=1).all()
    full = present.all(dim=1)
    assert float(hidden[full].double().mean()) == pytest.approx(0.4 + 0.6**10 / 10, abs=0.03)
    single = present.sum(dim=1) == 1
    assert hidden[single, -1].all()


def test_some_histories_have_their_last_place_hidden_alone() -> None:
    present = torch.ones((4000, 8), dtype=torch.bool)
    only = torch.tensor([False] * 7 + [True])
    generator = torch.Generator().manual_seed(0)
    assert (hide(present, 0.5, 1.0, generator) == only).all()
    share = (hide(present, 0.9, 0.3, generator) == only).all(dim=1).double().mean()
    assert float(share) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("softmax", ["market", "vocabulary"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_softmax_is_over_the_catalogue_of_the_rows_market(softmax: str, weighted: bool, biased: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    vectors, items = torch.randn((4, 3), generator=draw), torch.randn((5, 3), generator=draw)
    bias = torch.randn(5, generator=draw) if biased else None
    weight = torch.rand(4, generator=draw) if weighted else None
    target, market = torch.tensor([0, 3, 2, 3]), torch.tensor([0, 0, 1, 1])
    found = Competitors(LAYOUT, softmax, "cpu").loss(vectors, items, bias, target, market, weight)  # type: ignore[arg-type]
    sold = {0: [0, 1, 3, 4], 1: [1, 2, 3]} if softmax == "market" else {key: [0, 1, 2, 3, 4] for key in (0, 1)}
    wanted = []
    for at in range(4):
        offered = sold[int(market[at])]
        logits = vectors[at] @ items[offered].T + (bias[offered] if bias is not None else 0)
        wanted.append(functional.cross_entropy(logits, torch.tensor(offered.index(int(target[at])))))
    share = weight if weight is not None else torch.ones(4)
    assert float(found) == pytest.approx(float((torch.stack(wanted) * share).sum() / share.sum()), rel=1e-5)
