"""BERT4Rec: its size, what it reads and hides, users without items, and one training for all targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import SpecError
from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Pairs, Run
from cmr_core.models.base import Factors
from cmr_core.models.bert4rec import Bert4Rec, Bert4RecAll, Bert4RecAllConfig, Bert4RecConfig, Bert4RecNetwork
from cmr_core.models.registry import get
from cmr_core.models.towers import apply_linear
from cmr_core.models.transformer import apply_layer, apply_norm
from cmr_core.spec import EvalSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, Blind, checkerboard

SMALL: dict[str, Any] = {"dimensions": 8, "epochs": 2, "batch_size": 64, "copies": 1}
SPLIT = checkerboard()
TASK = SPLIT.task(TARGET, SOURCES)


def run(split: Split = SPLIT, monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", Judge(split, EvalSpec()), monitor or QuietMonitor())


def without_items(users: tuple[int, ...], *, keep: int = 0) -> Split:
    """The checkerboard, the target's `users` with `keep` training items each."""
    market: MarketSplit = SPLIT.markets[TARGET]
    train = market.train
    rank = np.arange(len(train)) - np.searchsorted(train.user, train.user)
    kept = ~np.isin(train.user, users) | (rank < keep)
    less = replace(market, train=Pairs(train.user[kept], train.item[kept], train.day[kept]))
    return replace(SPLIT, markets={**SPLIT.markets, TARGET: less})


@pytest.mark.parametrize("layers", [1, 2])
def test_size_is_that_of_the_specification(layers: int) -> None:
    d, items = 8, 30
    fitted = Bert4Rec(Bert4RecConfig(**SMALL, layers=layers)).fit(SPLIT.task(TARGET, ()), run())
    body = (items + 2) * d + 50 * d + 2 * d + layers * (12 * d * d + 13 * d) + d * d + 3 * d + items
    assert fitted.parameters.total == fitted.parameters.trainable == body
    whole = Bert4RecNetwork(TASK.markets, Bert4RecAllConfig(**SMALL, add_market=True), run())
    assert sum(value.numel() for value in whole.weights.values()) == 3 * d + sum(
        value.numel() for value in Bert4RecNetwork(TASK.markets, Bert4RecAllConfig(**SMALL), run()).weights.values()
    )


def test_reading_some_places_equals_reading_all() -> None:
    network = Bert4RecNetwork(TASK.markets, Bert4RecAllConfig(**SMALL, add_market=True), run())
    w, pad = network.weights, network.sequences.pad
    codes = torch.tensor([[pad, 3, 1, 4], [pad, pad, pad, 2], [7, 8, 9, network.sequences.mask]])
    asked = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    market = torch.tensor([0, 2, 1])
    x = w["items"][codes] + w["positions"][[3, 2, 1, 0]] + w["markets"][market][:, None]
    x = apply_norm(w, "norm", x)
    for at in range(2):
        x = apply_layer(w, f"layer.{at}", x, codes == pad, 2, activation="gelu")
    whole = apply_norm(w, "out.norm", functional.gelu(apply_linear(w, "out", x)))
    torch.testing.assert_close(network.read(codes, asked, market), whole[asked])


def test_padding_changes_nobody_s_vector() -> None:
    network = Bert4RecNetwork(
        without_items((3,), keep=1).task(TARGET, SOURCES).markets, Bert4RecAllConfig(**SMALL), run()
    )
    view = next(view for view in network.layout.views if view.name == TARGET)
    users = torch.from_numpy(network.layout.users(view))
    together = network.users(users)
    torch.testing.assert_close(network.users(users[3:4]), together[3:4], rtol=1e-5, atol=1e-6)


def test_an_epoch_hides_places_of_every_history_and_asks_for_what_was_there() -> None:
    network = Bert4RecNetwork([TASK.target], Bert4RecConfig(**SMALL | {"copies": 3}), run())
    sequences = network.sequences
    batches = list(network.batches())
    assert sum(len(batch.codes) for batch in batches) == 3 * 30
    assert max(len(batch.codes) for batch in batches) == round(64 / 13)
    for batch in batches:
        assert ((batch.codes == sequences.mask) == batch.hidden).all()
        shown = batch.codes.clone()
        shown[batch.hidden] = batch.target
        owners = {tuple(row) for row in shown.tolist()}
        everybody = sequences.last(torch.arange(30), sequences.count)
        assert owners <= {tuple(row) for row in everybody.tolist()}


def test_biases_begin_at_the_logarithm_of_popularity_or_at_zero() -> None:
    task = without_items(tuple(range(9)), keep=2).task(TARGET, ())

    def begun(**settings: bool) -> Factors:
        fitted = Bert4Rec(Bert4RecConfig(**SMALL, **settings)).fit(task, Run(0, "cpu", Blind(), QuietMonitor()))
        assert isinstance(fitted, Factors)
        assert fitted.bias is not None
        return fitted

    popular, flat = begun(), begun(popular_start=False)
    counted = np.log(np.bincount(task.target.train.item, minlength=30) + 1)
    assert counted.std() > 0.1
    np.testing.assert_allclose(popular.bias, counted - counted.mean(), rtol=1e-5, atol=1e-6)
    assert not flat.bias.any()
    np.testing.assert_array_equal(popular.item, flat.item)


def test_users_without_items_get_the_guess_for_an_empty_history() -> None:
    split = without_items((0, 5))
    fitted = Bert4Rec(Bert4RecConfig(**SMALL)).fit(split.task(TARGET, ()), run(split))
    assert isinstance(fitted, Factors)
    scores = fitted.score(np.arange(30))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[0], scores[5], rtol=1e-5, atol=1e-6)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_one_item_and_one_place_are_enough() -> None:
    split = without_items((0,), keep=1)
    fitted = Bert4Rec(Bert4RecConfig(**SMALL, length=1)).fit(split.task(TARGET, ()), run(split))
    scores = fitted.score(np.arange(30))
    assert np.isfinite(scores).all()
    assert np.abs(scores - scores[0]).max() < 1e-5, "with one place there is room for the hidden item only"


def test_all_targets_share_one_training_and_its_settings_name_it() -> None:
    monitor = QuietMonitor()
    for target in (TARGET, *SOURCES):
        rest = tuple(name for name in (TARGET, *SOURCES) if name != target)
        fitted = Bert4RecAll(Bert4RecAllConfig(**SMALL)).fit(SPLIT.task(target, rest), run(monitor=monitor))
        assert fitted.score(np.array([0])).shape == (1, SPLIT.markets[target].n_items)
    assert len(monitor.store) == 1
    Bert4RecAll(Bert4RecAllConfig(**SMALL, softmax="vocabulary")).fit(TASK, run(monitor=monitor))
    assert len(monitor.store) == 2


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    for name in ("bert4rec", "bert4rec-all", "cat-sr"):
        with pytest.raises(SpecError, match="3 heads do not divide 8 dimensions"):
            get(name).create({"heads": 3, "dimensions": 8})
