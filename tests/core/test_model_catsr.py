"""CAT-SR: what is carried over and frozen, adapters that begin without effect, its size, stage 1 for many targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.errors import SpecError
from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Arrays, Run
from cmr_core.models.base import Factors
from cmr_core.models.catsr import CARRIED, CatSr, Reader, pretrained, tuning_start
from cmr_core.models.catsr_config import CatSrConfig
from cmr_core.models.catsr_network import Network, last_vectors, popularity_weights, start, svd_items
from cmr_core.models.pointwise import Layout
from cmr_core.models.transformer import apply_layer, apply_norm
from cmr_core.spec import EvalSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, checkerboard

SMALL: dict[str, Any] = {
    "dimensions": 8, "epochs": 2, "batch_size": 64, "pretrain_epochs": 2, "pretrain_batch": 64,
    "eval_every": 1, "pretrain_eval_every": 1,
}  # fmt: skip
SPLIT = checkerboard()
TASK = SPLIT.task(TARGET, SOURCES)
ITEMS = len(Layout(TASK.markets).items_known)


def run(monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", Judge(SPLIT, EvalSpec()), monitor or QuietMonitor())


def reader(config: CatSrConfig, context: Run) -> Reader:
    return Reader(TASK, config.network(), config.context, context, config.valid_users)


def checkpoint(config: CatSrConfig, monitor: QuietMonitor | None = None) -> Arrays:
    context = run(monitor)
    return pretrained(reader(config, context), TASK, context, config.pretraining(), config.source)


@pytest.mark.parametrize("freeze", [True, False])
def test_carried_maps_equal_the_checkpoint_at_step_0_and_all_else_is_new(freeze: bool) -> None:
    config = CatSrConfig(**SMALL, freeze_qk=freeze)
    stage1 = checkpoint(config)
    parameters, frozen = tuning_start(stage1, config, ITEMS, reader(config, run()).generator(2))
    for name in CARRIED:
        there = frozen if freeze else parameters
        np.testing.assert_array_equal(there[name].detach().numpy(), stage1[name])
    assert frozen.keys() == {"items", *(CARRIED if freeze else ())}
    assert not any(value.requires_grad for value in frozen.values())
    assert all(value.requires_grad for value in parameters.values())
    for name in ("positions", "layer.value.weight", "layer.up.weight"):
        assert np.abs(parameters[name].detach().numpy() - stage1[name]).max() > 1e-3
    assert parameters.keys().isdisjoint(frozen)


def test_without_transfer_nothing_but_item_vectors_comes_from_stage_1() -> None:
    config = CatSrConfig(**SMALL, transfer="none", adapter="none")
    stage1 = checkpoint(config)
    parameters, frozen = tuning_start(stage1, config, ITEMS, reader(config, run()).generator(2))
    assert frozen.keys() == {"items"}
    assert np.abs(parameters["layer.query.weight"].detach().numpy() - stage1["layer.query.weight"]).max() > 1e-3
    assert not any(name.startswith("adapter") for name in parameters)


def test_frozen_tensors_are_the_same_bits_after_tuning_and_the_rest_moved() -> None:
    config, context = CatSrConfig(**SMALL), run()
    made = reader(config, context)
    stage1 = checkpoint(config)
    before = {name: value.copy() for name, value in stage1.items()}
    generator = made.generator(2)
    parameters, frozen = tuning_start(stage1, config, ITEMS, generator)
    begun = {name: value.detach().clone() for name, value in parameters.items()}
    made.fit("cat-sr", parameters, frozen, [TASK.target], "market", config.steps(), generator)
    for name, value in frozen.items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    for name, value in parameters.items():
        assert not torch.equal(value, begun[name]) or name == "positions", name
    assert not torch.equal(parameters["adapter.query.weight"], begun["adapter.query.weight"])


def test_the_stored_item_vectors_are_those_of_stage_1() -> None:
    monitor = QuietMonitor()
    fitted = CatSr(CatSrConfig(**SMALL)).fit(TASK, run(monitor))
    assert isinstance(fitted, Factors)
    (stage1,) = monitor.store.values()
    np.testing.assert_array_equal(fitted.item, stage1["items"][Layout(TASK.markets).items(TASK.target)])


def test_size_is_that_of_the_specification() -> None:
    d = 8
    maps = 2 * (d * d + d)
    body = 50 * d + 4 * (d * d + d) + 2 * 256 * d + 256 + d + 6 * d
    fitted = CatSr(CatSrConfig(**SMALL)).fit(TASK, run())
    assert fitted.parameters.trainable == body - maps + maps  # two maps frozen, two adapters of that size
    assert fitted.parameters.frozen == (ITEMS + 1) * d + maps
    open_ = CatSr(CatSrConfig(**SMALL, freeze_qk=False, adapter="none")).fit(TASK, run())
    assert (open_.parameters.trainable, open_.parameters.frozen) == (body, (ITEMS + 1) * d)
    published = Network(dimensions=64, heads=4, inner=256, length=50, dropout=0.5)
    weights = start(published, 8304, torch.Generator(), adapters=False)
    assert sum(value.numel() for name, value in weights.items() if name != "items") == 53_312


def test_the_last_place_alone_equals_the_whole_layer_and_fresh_adapters_change_nothing() -> None:
    network, pad = Network(dimensions=8, heads=4, inner=16, length=6, dropout=0.0), 5
    generator = torch.Generator().manual_seed(2)
    plain = start(network, 5, generator, adapters=False)
    codes = torch.tensor([[pad, 0, 4], [1, 2, 3], [pad, pad, 2]])
    x = apply_norm(plain, "norm", plain["items"][codes] + plain["positions"][[2, 1, 0]])
    whole = apply_layer(plain, "layer", x, codes == pad, 4, activation="gelu")[:, -1]
    torch.testing.assert_close(last_vectors(plain, network, codes, pad), whole)
    adapted = {**start(network, 5, generator, adapters=True), **plain}
    assert torch.equal(last_vectors(adapted, network, codes, pad), last_vectors(plain, network, codes, pad))
    last_vectors(adapted, network, codes, pad)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    for part in ("query", "key"):
        assert adapted[f"adapter.{part}.weight"].grad is not None
        assert float(adapted[f"adapter.{part}.weight"].grad.abs().max()) > 0, "a map of zeros must be able to leave 0"


def test_an_adapter_adds_the_positive_part_of_its_map() -> None:
    network, pad = Network(dimensions=4, heads=2, inner=4, length=3, dropout=0.0), 3
    weights = start(network, 3, torch.Generator().manual_seed(0), adapters=True)
    with torch.no_grad():
        weights["adapter.query.weight"].normal_(generator=torch.Generator().manual_seed(1))
    codes = torch.tensor([[0, 1, 2]])
    x = apply_norm(weights, "norm", weights["items"][codes] + weights["positions"][[2, 1, 0]])
    query = x @ weights["layer.query.weight"].T
    by_hand = query + torch.relu(query @ weights["adapter.query.weight"].T)
    # the same network without adapters, whose map to queries brings this query directly
    solved = torch.linalg.lstsq(x[0], by_hand[0]).solution.T
    plain = {name: value for name, value in weights.items() if not name.startswith("adapter")}
    torch.testing.assert_close(
        last_vectors(weights, network, codes, pad),
        last_vectors({**plain, "layer.query.weight": solved}, network, codes, pad),
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_empty_history_has_a_vector_of_its_own() -> None:
    network, pad = Network(dimensions=8, heads=4, inner=16, length=6, dropout=0.0), 5
    weights = start(network, 5, torch.Generator().manual_seed(2), adapters=False)
    alone = last_vectors(weights, network, torch.tensor([[pad]]), pad)
    beside = last_vectors(weights, network, torch.tensor([[pad, pad, pad], [0, 1, 2]]), pad)
    torch.testing.assert_close(alone[0], beside[0])
    assert torch.isfinite(beside).all()


@pytest.mark.parametrize("context", ["before", "others"])
def test_an_epoch_asks_for_every_training_pair_once_and_never_shows_it(context: Any) -> None:
    config = CatSrConfig(**SMALL, context=context)
    made = reader(config, run())
    sequences, seen = made.sequences, []
    for guess in made.batches([TASK.target], 64, torch.Generator().manual_seed(0)):
        assert not (guess.codes == guess.target[:, None]).any()
        shown = (guess.codes != sequences.pad).sum(dim=1)
        assert context == "before" or (shown == 12).all()
        seen += [(int(target), int(number)) for target, number in zip(guess.target, shown, strict=True)]
    assert len(seen) == len(TASK.target.train)
    rows = made.layout.items(TASK.target)[TASK.target.train.item]
    assert sorted(target for target, _ in seen) == sorted(rows.tolist())
    if context == "before":
        assert sorted(number for _, number in seen) == sorted(list(range(13)) * 30)


def test_stage_1_is_one_for_all_targets_and_named_after_its_markets() -> None:
    monitor = QuietMonitor()
    for target in (TARGET, *SOURCES):
        rest = tuple(name for name in (TARGET, *SOURCES) if name != target)
        CatSr(CatSrConfig(**SMALL)).fit(SPLIT.task(target, rest), run(monitor))
    assert len(monitor.store) == 1
    CatSr(CatSrConfig(**SMALL | {"epochs": 1}, dropout=0.5)).fit(TASK, run(monitor))
    assert len(monitor.store) == 1, "what concerns stage 2 only does not train stage 1 again"
    CatSr(CatSrConfig(**SMALL, source="sources")).fit(TASK, run(monitor))
    assert len(monitor.store) == 2, "vectors are those of all markets; attention is trained anew"
    CatSr(CatSrConfig(**SMALL, source="ca")).fit(TASK, run(monitor))
    assert len(monitor.store) == 3
    with pytest.raises(SpecError, match="mx"):
        CatSr(CatSrConfig(**SMALL, source="mx")).fit(TASK, run(monitor))


def test_attention_of_one_source_is_learned_on_fixed_vectors() -> None:
    monitor = QuietMonitor()
    whole = checkpoint(CatSrConfig(**SMALL), monitor)
    alone = checkpoint(CatSrConfig(**SMALL, source="ca"), monitor)
    np.testing.assert_array_equal(alone["items"], whole["items"])
    assert np.abs(alone["layer.query.weight"] - whole["layer.query.weight"]).max() > 1e-3


def test_singular_vectors_rebuild_what_users_have() -> None:
    layout = Layout(TASK.markets)
    vectors = svd_items(layout, 8, 0)
    assert vectors.shape == (ITEMS + 1, 8)
    assert not vectors[-1].any()
    assert float((vectors[:-1] ** 2).sum(axis=1).mean()) == pytest.approx(1.0, rel=1e-5)
    dense = np.zeros((layout.n_users, layout.n_items))
    for view in layout.views:
        dense[layout.users(view)[view.train.user], layout.items(view)[view.train.item]] = 1
    _, size, right = np.linalg.svd(dense)
    wanted = (right[:8].T * size[:8]) @ right[:8]  # squares of rows' inner products, up to one factor
    found = vectors[:-1] @ vectors[:-1].T
    np.testing.assert_allclose(found / np.trace(found), wanted / np.trace(wanted), atol=1e-4)


@pytest.mark.parametrize("source", ["all", "ca"])
def test_on_singular_vectors_it_is_fitted_the_same_twice_and_leaves_them_alone(source: str) -> None:
    monitor = QuietMonitor()
    method = CatSr(CatSrConfig(**SMALL, vectors="svd", source=source))
    one, other = method.fit(TASK, run(monitor)), method.fit(TASK, run())
    assert isinstance(one, Factors)
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, other.arrays()[name])
    assert np.isfinite(one.score(np.arange(TASK.target.n_users))).all()
    layout = Layout(TASK.markets)
    np.testing.assert_array_equal(one.item, svd_items(layout, 8, 0)[layout.items(TASK.target)])
    assert {report.stage for report in monitor.progress} == {"cat-sr-pretrain", "cat-sr"}
    assert one.parameters == CatSr(CatSrConfig(**SMALL)).fit(TASK, run()).parameters


def test_popular_items_weigh_less() -> None:
    layout = Layout(TASK.markets)
    counted = np.zeros(ITEMS)
    for view in TASK.markets:
        np.add.at(counted, layout.items(view)[view.train.item], 1)
    relative = popularity_weights(layout, TASK.markets, "relative", 1.2, 0.99)
    raw = popularity_weights(layout, TASK.markets, "count", 1.2, 0.99)
    assert relative is not None
    assert raw is not None
    wanted = 1.2 - np.tanh(0.99 * (counted / counted[counted > 0].mean() - 1))
    np.testing.assert_allclose(relative.numpy(), wanted, rtol=1e-5)
    np.testing.assert_allclose(raw.numpy(), 1.2 - np.tanh(0.99 * (counted - 1)), rtol=1e-5)
    assert popularity_weights(layout, TASK.markets, "none", 1.2, 0.99) is None
