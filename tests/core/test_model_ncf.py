"""GMF, MLP, NeuMF, their market-aware forms, MAML and FOREC: formulas, sizes, and what each stage may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from cmr_core.data.split import Split
from cmr_core.errors import SpecError
from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Arrays, Run
from cmr_core.models.base import Factors
from cmr_core.models.maml import TABLES, Meta, Tasks, meta_loss, serve
from cmr_core.models.ncf import Sizes, gmf, gmf_start, mlp, mlp_start, neumf, neumf_start
from cmr_core.models.ncf_training import Epochs, Plan, Scope, both, local, start, trained
from cmr_core.models.neural import NeuralScorer
from cmr_core.models.pointwise import Rows, Steps, bce, cut
from cmr_core.models.registry import get
from cmr_core.models.towers import Parameters
from cmr_core.spec import EvalSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SIZE, SOURCES, TARGET, Rising, checkerboard, fit

SPLIT = checkerboard()
TASK = SPLIT.task(TARGET, SOURCES)
STEPS = Steps(learning_rate=1e-2, weight_decay=0, batch_size=60, epochs=2, eval_every=1, patience=9)
PLAN = Plan(
    steps=STEPS,
    dimensions=4,
    units=16,
    negatives=4,
    valid_users=50,
    pretrain=False,
    order="concat",
    market_vectors="one",
)


def run(monitor: QuietMonitor | None = None, split: Split = SPLIT) -> Run:
    return Run(0, "cpu", Judge(split, EvalSpec()), monitor or QuietMonitor())


def random_weights(sizes: Sizes) -> Parameters:
    generator = torch.Generator().manual_seed(4)
    weights = neumf_start(sizes, generator)
    weights["market.gmf"], weights["market.mlp"] = (
        torch.randn((3, sizes.dimensions), generator=generator) for _ in "12"
    )
    for value in weights.values():
        value.detach().normal_(0, 0.5, generator=generator)
    return weights


def by_hand(w: Mapping[str, torch.Tensor], kind: str, u: int, i: int, m: int | None) -> torch.Tensor:
    """One pair, as He et al. write it."""
    scale = {branch: 1 if m is None else w[f"market.{branch}"][m] for branch in ("gmf", "mlp")}
    product = w["user.gmf"][u] * (w["item.gmf"][i] * scale["gmf"])
    hidden = torch.cat([w["user.mlp"][u], w["item.mlp"][i] * scale["mlp"]])
    for at in range(4):
        hidden = torch.relu(w[f"tower.{at}.weight"] @ hidden + w[f"tower.{at}.bias"])
    joined = {"gmf": product, "mlp": hidden, "neumf": torch.cat([hidden, product])}[kind]
    return w["out.weight"][0] @ joined + w["out.bias"][0]


@pytest.mark.parametrize("kind", ["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("aware", [False, True])
def test_logits_are_those_of_the_paper_for_lists_and_for_catalogues(kind: str, aware: bool) -> None:
    sizes = Sizes(users=5, items=7, dimensions=4, units=16)
    weights = random_weights(sizes)
    width = {"gmf": 4, "mlp": 2, "neumf": 6}[kind]
    weights["out.weight"] = weights["out.weight"].detach()[:, :width]
    network = {"gmf": gmf, "mlp": mlp, "neumf": neumf}[kind]
    user, item = torch.tensor([[4], [0], [2]]), torch.tensor([[1, 6], [0, 0], [3, 2]])
    market = torch.tensor([[2], [0], [1]]) if aware else None
    for items in (item, torch.arange(7)[None]):
        found = network(weights, user, items, market)
        rows = items.expand(3, -1)
        assert found.shape == rows.shape
        for row in range(3):
            for column in range(rows.shape[1]):
                m = int(market[row, 0]) if market is not None else None
                expected = by_hand(weights, kind, int(user[row, 0]), int(rows[row, column]), m)
                torch.testing.assert_close(found[row, column], expected)


def test_sizes_are_those_of_the_published_models() -> None:
    sizes = Sizes(users=14_313, items=8_304, dimensions=8, units=64)
    generator = torch.Generator().manual_seed(0)
    for begin, expected in ((gmf_start, 180_945), (mlp_start, 184_777), (neumf_start, 365_721)):
        assert sum(value.numel() for value in begin(sizes, generator).values()) == expected


@pytest.mark.parametrize(
    ("name", "tables", "network"),
    [("gmf", 1, 8 + 1), ("mlp", 1, 3_841), ("neumf", 2, 3_849), ("gmf-all", 1, 8 + 1), ("mlp-all", 1, 3_841),
     ("neumf-all", 2, 3_849), ("maml", 2, 3_849)],
)  # fmt: skip
def test_fitted_models_train_every_parameter_of_their_formula(name: str, tables: int, network: int) -> None:
    views = TASK.markets if get(name).uses_sources else (TASK.target,)
    users = sum(view.n_users for view in views)
    items = len(np.unique(np.concatenate([view.catalogue for view in views])))
    size = fit(get(name), SPLIT).parameters
    assert size.total == size.trainable == tables * (users + items) * 8 + network


@pytest.mark.parametrize(("name", "extra", "more"), [("ma-gmf", 9, 1), ("ma-mlp", 3_841, 1), ("ma-nmf", 3_849, 2)])
def test_market_vectors_add_one_row_per_market(name: str, extra: int, more: int) -> None:
    users, items = SIZE + 2 * 12, len(np.unique(np.concatenate([view.catalogue for view in TASK.markets])))
    assert fit(get(name), SPLIT).parameters.total == more * (users + items) * 8 + extra + 3 * 8
    if name == "ma-nmf":
        method = get(name).create({"market_vectors": "each", "dimensions": 8, "epochs": 1})
        assert method.fit(TASK, run()).parameters.total == 2 * (users + items) * 8 + extra + 2 * 3 * 8


def test_a_served_model_has_its_market_vector_in_its_items() -> None:
    for kind, vectors in (("gmf", "one"), ("mlp", "one"), ("neumf", "one"), ("neumf", "each")):
        plan, scope = PLAN.model_copy(update={"market_vectors": vectors}), Scope.everybody(TASK)
        weights = start(kind, scope, run(), plan)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(1)
        for value in weights.values():
            value.detach().normal_(0, 0.5, generator=generator)
        users, items = (
            torch.from_numpy(rows) for rows in (scope.layout.users(TASK.target), scope.layout.items(TASK.target))
        )
        at = [view.name for view in scope.layout.views].index(TARGET)
        network = {"gmf": gmf, "mlp": mlp, "neumf": neumf}[kind]
        whole = network(both(weights), users[:, None], items[None], torch.full((SIZE, 1), at))
        own = local(kind, weights, scope.layout, TASK.target)  # type: ignore[arg-type]
        assert not any(name.startswith("market") for name in own)
        cut = network(own, torch.arange(SIZE)[:, None], torch.arange(SIZE)[None])
        torch.testing.assert_close(cut, whole)


def test_gmf_is_stored_as_vectors_with_the_networks_scores() -> None:
    monitor = QuietMonitor()
    fitted = get("ma-gmf").create({"dimensions": 4, "epochs": 3, "learning_rate": 0.05}).fit(TASK, run(monitor))
    assert isinstance(fitted, Factors)
    (arrays,) = monitor.store.values()
    scope = Scope.everybody(TASK)
    weights = {name: torch.from_numpy(value) for name, value in arrays.items()}
    own = local("gmf", weights, scope.layout, TASK.target)
    expected = gmf(own, torch.arange(SIZE)[:, None], torch.arange(SIZE)[None]).numpy()
    np.testing.assert_allclose(fitted.score(np.arange(SIZE)), expected, rtol=1e-4, atol=1e-6)


def test_pretraining_hands_on_vectors_and_halves_the_output() -> None:
    plan = PLAN.model_copy(update={"pretrain": True, "market_vectors": "none"})
    context, scope = run(), Scope.alone(TASK)
    parts = {kind: trained(kind, scope, context, plan) for kind in ("gmf", "mlp")}
    begun = {kind: start(kind, scope, context, plan) for kind in ("mlp", "neumf")}
    np.testing.assert_array_equal(begun["mlp"]["user.mlp"].detach(), parts["gmf"]["user.gmf"])
    user, item = torch.arange(SIZE)[:, None], torch.arange(SIZE)[None]
    shallow, deep = ({n: torch.from_numpy(v) for n, v in parts[kind].items()} for kind in ("gmf", "mlp"))
    half = (gmf(shallow, user, item) + mlp(deep, user, item)) / 2
    torch.testing.assert_close(neumf(begun["neumf"], user, item).detach(), half)
    assert {key.rpartition("-")[0] for key in context.monitor.store} == {"gmf", "mlp"}  # type: ignore[attr-defined]


def test_markets_take_turns_and_small_ones_begin_again() -> None:
    scope = Scope.everybody(TASK)
    rows = [Rows(scope.layout, 4, "cpu", views=[view]) for view in scope.views]
    batches = [-(-len(of) // 12) for of in rows]
    assert len(set(batches)) > 1, "markets of one size would prove nothing"
    for order, rounds in (("equal", max(batches)), ("smallest", min(batches))):
        epoch = Epochs(rows, PLAN.model_copy(update={"order": order}))
        drawn = list(epoch.batches(torch.Generator().manual_seed(0)))
        assert len(drawn) == rounds * len(rows)
        for at, batch in enumerate(drawn):
            assert set(batch.market.tolist()) == {at % len(rows)}
        pairs = sum(len(batch.user) for batch in drawn if int(batch.market[0]) == int(np.argmax(batches)))
        assert (pairs == max(map(len, rows))) == (order == "equal")


def meta_case() -> tuple[Parameters, Tasks]:
    weights = neumf_start(Sizes(users=9, items=8, dimensions=4, units=16), torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(3)
    for value in weights.values():
        value.detach().normal_(0, 0.5, generator=draw)
    batch = Tasks(
        torch.randint(9, (3, 2, 4), generator=draw), torch.randint(8, (3, 2, 4, 3), generator=draw)
    )  # few users and items: support and query share rows, and rows repeat
    return weights, batch


@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_is_that_of_stepping_each_market_by_itself(first_order: bool) -> None:
    weights, batch = meta_case()
    values = list(weights.values())
    plain = {name: value * 1 for name, value in weights.items()}
    losses = []
    for user, item in zip(batch.user, batch.item, strict=True):
        support = bce(neumf(plain, user[0][:, None], item[0]))
        gradient = torch.autograd.grad(support, list(plain.values()), create_graph=not first_order)
        stepped = {name: value - 0.3 * g for (name, value), g in zip(plain.items(), gradient, strict=True)}
        losses.append(bce(neumf(stepped, user[1][:, None], item[1])))
    naive = torch.stack(losses).mean()
    ours = meta_loss(weights, batch, 0.3, first_order=first_order)
    torch.testing.assert_close(ours, naive)
    expected = torch.autograd.grad(naive, values)
    for one, other in zip(torch.autograd.grad(ours, values), expected, strict=True):
        torch.testing.assert_close(one.to_dense() if one.is_sparse else one, other)
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_a_market_is_served_after_one_step_on_its_training_rows() -> None:
    scope = Scope.everybody(TASK)
    plan = PLAN.model_copy(update={"market_vectors": "none"})
    weights = start("neumf", scope, run(), plan)
    rows = Rows(scope.layout, 4, "cpu", views=[TASK.target])
    meta = Meta(steps=STEPS, inner_rate=0.3, first_order=False, serving_batches=1000)
    before = {name: value.detach().clone() for name, value in weights.items()}
    own = serve(weights, rows, scope.layout, TASK.target, meta, torch.Generator().manual_seed(0))
    for name, value in weights.items():
        np.testing.assert_array_equal(value.detach(), before[name])
    train = TASK.target.train
    users, items = scope.layout.users(TASK.target), scope.layout.items(TASK.target)
    had = np.zeros((SIZE, SIZE), dtype=bool)
    had[train.user, train.item] = True
    # the mean over very many draws: positives uniform over pairs, negatives uniform over what the user has not
    logits = neumf(weights, torch.from_numpy(users)[:, None], torch.from_numpy(items)[None])
    share = had.sum(1, keepdims=True) / had.sum() / (~had).sum(1, keepdims=True)
    weight = torch.from_numpy(np.where(had, 1 / had.sum(), 4 * share)).float() / 5
    sign = torch.from_numpy(np.where(had, -1.0, 1.0)).float()
    expected_loss = (weight * torch.nn.functional.softplus(sign * logits)).sum()
    (gradient,) = torch.autograd.grad(expected_loss, [weights["out.bias"]])
    step = before["out.bias"] - own["out.bias"]
    torch.testing.assert_close(step, 0.3 * gradient, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_several_inner_steps_follow_one_another_and_serve_by_their_mean(steps: int) -> None:
    scope = Scope.everybody(TASK)
    weights = random_weights(Sizes(users=scope.layout.n_users, items=scope.layout.n_items, dimensions=4, units=16))
    weights = {name: value for name, value in weights.items() if not name.startswith("market")}
    rows = Rows(scope.layout, 4, "cpu", views=[TASK.target])
    # supports of twelve pairs: 60 examples of one positive and four negatives each
    meta = Meta(steps=STEPS, inner_rate=0.3, first_order=False, serving_batches=1, serving_steps=steps)
    draw, theta, after = torch.Generator().manual_seed(7), dict(weights), []
    for _ in range(steps):
        batch = next(rows.batches(5 * len(rows), draw))
        loss = bce(neumf(theta, batch.user[:12, None], batch.item[:12]))
        gradient = torch.autograd.grad(loss, list(theta.values()))
        theta = {
            name: (value - 0.3 * g).detach().requires_grad_()
            for (name, value), g in zip(theta.items(), gradient, strict=True)
        }
        after.append(theta)
    own = serve(weights, rows, scope.layout, TASK.target, meta, torch.Generator().manual_seed(7))
    for name, value in cut(
        {n: torch.stack([t[n] for t in after]).mean(0) for n in weights}, scope.layout, TASK.target
    ).items():
        torch.testing.assert_close(own[name], value, msg=name)


def test_maml_serves_by_its_steps_and_forec_has_none() -> None:
    sizes = {"dimensions": 4, "units": 16, "epochs": 1, "meta_epochs": 1, "meta_batch": 100}
    one, other = (get("maml").create({**sizes, **more}).fit(TASK, run()) for more in ({}, {"serving_steps": 3}))
    assert not np.array_equal(one.arrays()["out.bias"], other.arrays()["out.bias"])
    with pytest.raises(SpecError, match="serving_steps"):
        get("forec").configure({"serving_steps": 3})


def forec(
    settings: dict[str, bool], split: Split = SPLIT, sources: tuple[str, ...] = SOURCES
) -> tuple[NeuralScorer, Arrays]:
    """A short FOREC, and the arrays of its meta-training."""
    monitor = QuietMonitor()
    sizes = {"dimensions": 8, "epochs": 1, "meta_epochs": 1, "meta_batch": 100, "fork_epochs": 5}
    context = Run(0, "cpu", Rising(), monitor)
    fitted = get("forec").create({**sizes, **settings}).fit(split.task(TARGET, sources), context)
    assert isinstance(fitted, NeuralScorer)
    assert fitted.details["fork best epoch"] == sizes["fork_epochs"]
    (meta,) = (arrays for key, arrays in monitor.store.items() if key.startswith("maml"))
    return fitted, meta


def test_the_fork_trains_3833_parameters_and_leaves_the_others_as_they_are_bit_by_bit() -> None:
    fitted, before = forec({})
    layout = Scope.everybody(TASK).layout
    assert fitted.parameters.trainable == 3_833
    assert fitted.parameters.total == 2 * (layout.n_users + layout.n_items) * 8 + 3_832 + 1_072 + 17
    rows = {"user": layout.users(TASK.target), "item": layout.items(TASK.target)}
    for name in TABLES:
        np.testing.assert_array_equal(fitted.weights[name], before[name][rows[name[:4]]], err_msg=name)
    for name in ("tower.0.weight", "tower.0.bias"):
        np.testing.assert_array_equal(fitted.weights[name], before[name])
    for name in ("tower.1.weight", "tower.3.bias", "out.weight"):
        assert not np.array_equal(fitted.weights[name], before[name])


def test_a_fork_of_a_network_that_has_not_seen_the_target_trains_the_rows_that_nobody_has() -> None:
    target = SPLIT.markets[TARGET]
    other_items = replace(target, train=replace(target.train, item=(target.train.item + 1) % SIZE))
    moved = replace(SPLIT, markets={**SPLIT.markets, TARGET: other_items})
    settings, sources = {"pretrain_excludes_target": True}, ("de",)  # it does not sell the target's items 0 and 1
    fitted, before = forec(settings, sources=sources)
    for name, value in forec(settings, moved, sources)[1].items():
        np.testing.assert_array_equal(value, before[name], err_msg=f"the target's pairs got into {name}")
    layout = Scope.everybody(SPLIT.task(TARGET, sources)).layout
    for branch in ("gmf", "mlp"):
        users, items = (before[f"{side}.{branch}"] for side in ("user", "item"))
        assert (fitted.weights[f"user.{branch}"] != users[layout.users(TASK.target)]).all()
        changed = (fitted.weights[f"item.{branch}"] != items[layout.items(TASK.target)]).any(axis=1)
        assert np.flatnonzero(changed).tolist() == [0, 1]
    assert fitted.parameters.trainable == 3_833 + 2 * 8 * (SIZE + 2)
    assert fitted.parameters.total == 2 * (layout.n_users + layout.n_items) * 8 + 3_832 + 1_072 + 17


def test_without_target_and_without_sources_there_is_nothing_to_pretrain_on() -> None:
    with pytest.raises(SpecError, match="no market"):
        forec({"pretrain_excludes_target": True}, sources=())
