"""CoNet, DDTCDR and DTCDR against loops over the published formulas, and the two domains that they stand on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.errors import Cancelled, SpecError
from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Run
from cmr_core.models import conet, ddtcdr, dtcdr
from cmr_core.models.bridge import Bridge, BridgeConfig, Form, Items, pick, seen_from, serve
from cmr_core.models.neural import NeuralScorer, Tensors, find_network
from cmr_core.models.pointwise import Batch
from cmr_core.models.registry import get
from cmr_core.models.towers import Parameters, apply_tower, linear, tower
from cmr_core.spec import EvalSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, checkerboard

SPLIT = checkerboard()
TASK = SPLIT.task(TARGET, SOURCES)
JUDGE = Judge(SPLIT, EvalSpec())
USERS, SOURCE_ITEMS, TARGET_ITEMS = 30 + 12 + 12, 36, 30  # the sources sell items 0..35 together
D = 4
WIDE = {"dimensions": 32, "epochs": 1}


def random_weights(seed: int = 0, **shapes: tuple[int, ...]) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def tables(user_width: int = D) -> Parameters:
    return random_weights(
        source__user=(24, user_width), source__item=(36, D), target__user=(30, user_width), target__item=(30, D)
    )  # fmt: skip


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def plain(weights: Tensors) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().astype(np.float64) for name, value in weights.items()}


def dense(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def randomised(start: Parameters) -> Parameters:
    """Biases other than zero, so that a forgotten one is seen."""
    generator = torch.Generator().manual_seed(9)
    return {n: torch.randn(v.shape, generator=generator) if n.endswith("bias") else v for n, v in start.items()}


def bridge(**settings: Any) -> Bridge:
    return Bridge(TASK, BridgeConfig(**{"dimensions": D, "batch_size": 20, "negatives": 1, **settings}), "cpu")


def served_scores(form: Form, weights: Parameters) -> np.ndarray:
    stored = serve(form, weights, bridge())
    users, items = torch.arange(30)[:, None], torch.arange(30)[None]
    scores = find_network(form.network).logits(stored, users, items)
    assert scores.shape == (30, 30)
    return scores.detach().numpy()


def trained_logits(form: Form, weights: Parameters, user: torch.Tensor, item: torch.Tensor) -> np.ndarray:
    """As a training step sees target users (P,) and items (P, 1 + k)."""
    seen = seen_from(weights, "target") | form.fixed
    vectors = seen["own.user"][user[:, None]]
    parts = {**seen, **form.users(seen, vectors), **form.items(seen, bridge().items(seen, "target", item))}
    return form.logits(parts, None).detach().numpy()


def run(monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", JUDGE, monitor or QuietMonitor())


def fit(name: str, monitor: QuietMonitor | None = None, **settings: Any) -> NeuralScorer:
    fitted = get(name).create(settings).fit(TASK, run(monitor))
    assert isinstance(fitted, NeuralScorer)
    return fitted


def conet_weights() -> Parameters:
    generator = torch.Generator().manual_seed(1)
    sizes = (2 * D, D, D // 2, D // 4, 1)
    crosses = [linear(f"cross.{at}", sizes[at], sizes[at + 1], generator, bias=False) for at in range(2)]
    towers = tower("source", sizes, generator) | tower("target", sizes, generator)
    return randomised(tables() | towers | crosses[0] | crosses[1])


CONET = Form("conet", conet.users, conet.items, conet.logits)


def conet_by_hand(weights: Parameters, user: int, item: int) -> float:
    w = plain(weights)
    p, shared = w["target.user"][user], item < SOURCE_ITEMS
    a_t = np.concatenate([p, w["target.item"][item]])
    a_s = np.concatenate([p, w["source.item"][item] if shared else np.zeros(D)])
    for at in range(3):
        across = w[f"cross.{at}.weight"] if at < 2 and shared else None
        to_t, to_s = (0, 0) if across is None else (across @ a_s, across @ a_t)
        a_t, a_s = relu(dense(w, f"target.{at}", a_t) + to_t), relu(dense(w, f"source.{at}", a_s) + to_s)
    return float(dense(w, "target.3", a_t)[0])


def test_conet_is_two_towers_with_connections() -> None:
    weights = conet_weights()
    scores = served_scores(CONET, weights)
    for user, item in ((0, 0), (7, 29), (29, 13)):
        assert scores[user, item] == pytest.approx(conet_by_hand(weights, user, item), rel=1e-4, abs=1e-5)


def test_conet_without_connections_is_its_own_tower() -> None:
    weights = conet_weights()
    weights |= {name: torch.zeros_like(value) for name, value in weights.items() if name.startswith("cross.")}
    users, items = torch.arange(30)[:, None].expand(30, 30), torch.arange(30)[None].expand(30, 30)
    pairs = torch.cat([weights["target.user"][users], weights["target.item"][items]], dim=2)
    alone = apply_tower(weights, "target", pairs, last_relu=False)[..., 0]
    np.testing.assert_allclose(served_scores(CONET, weights), alone.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_connections_act_on_shared_items_only() -> None:
    seen = seen_from({name: value.detach() for name, value in conet_weights().items()}, "target")
    alone = seen | {name: torch.zeros_like(value) for name, value in seen.items() if name.startswith("cross.")}
    found = Items(torch.ones(1, 2, D), torch.tensor([[[1.0] * D, [0.0] * D]]), torch.tensor([[True, False]]))
    with_them, without = (
        conet.logits({**w, **conet.users(w, torch.ones(1, 1, D)), **conet.items(w, found)}, None)[0].tolist()
        for w in (seen, alone)
    )
    assert with_them[1] == pytest.approx(without[1], abs=1e-6)
    assert with_them[0] != pytest.approx(without[0], abs=1e-3)


def ddtcdr_weights() -> Parameters:
    generator = torch.Generator().manual_seed(2)
    networks = tower("source", (2 * D, 64, 8, 1), generator) | tower("target", (2 * D, 64, 8, 1), generator)
    return randomised(tables() | networks | random_weights(seed=4, target__map=(D, D)))


DDTCDR = Form("ddtcdr", ddtcdr.users, ddtcdr.items, ddtcdr.logits, fixed={"mix": torch.tensor(0.3)})


def head(w: dict[str, np.ndarray], side: str, x: np.ndarray) -> float:
    hidden = relu(dense(w, f"{side}.1", relu(dense(w, f"{side}.0", x))))
    return float(dense(w, f"{side}.2", hidden)[0])


def test_ddtcdr_mixes_its_network_with_the_others_over_the_mapped_item() -> None:
    weights = ddtcdr_weights()
    w, scores = plain(weights), served_scores(DDTCDR, weights)
    for user, item in ((0, 0), (7, 29), (29, 13)):
        p, q = w["target.user"][user], w["target.item"][item]
        own, other = head(w, "target", np.r_[p, q]), head(w, "source", np.r_[p, w["target.map"] @ q])
        assert scores[user, item] == pytest.approx(0.7 * own + 0.3 * other, rel=1e-4, abs=1e-5)


def test_ddtcdr_maps_back_with_the_transpose() -> None:
    weights = ddtcdr_weights()
    w, seen = plain(weights), seen_from(weights, "source") | DDTCDR.fixed
    found = bridge().items(seen, "source", torch.tensor([[35]]))
    parts = seen | ddtcdr.users(seen, weights["source.user"][3][None, None]) | ddtcdr.items(seen, found)
    p, q = w["source.user"][3], w["source.item"][35]
    own, other = head(w, "source", np.r_[p, q]), head(w, "target", np.r_[p, w["target.map"].T @ q])
    assert ddtcdr.logits(parts, None).item() == pytest.approx(0.7 * own + 0.3 * other, rel=1e-4)


def test_the_targets_loss_of_ddtcdr_reaches_the_map_and_the_other_network() -> None:
    weights = {name: value.detach().requires_grad_() for name, value in ddtcdr_weights().items()}
    seen = seen_from(weights, "target") | DDTCDR.fixed
    found = bridge().items(seen, "target", torch.tensor([[4, 5]]))
    parts = seen | ddtcdr.users(seen, seen["own.user"][3][None, None]) | ddtcdr.items(seen, found)
    ddtcdr.logits(parts, None).sum().backward()  # type: ignore[no-untyped-call]
    for name in ("target.map", "source.0.weight"):
        gradient = weights[name].grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_ddtcdr_penalties_by_hand() -> None:
    turned = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert ddtcdr.distance(turned).item() == 0
    assert ddtcdr.distance(2 * turned).item() == 6
    found = Items(
        torch.tensor([[1.0, 0.0], [5.0, 5.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([True, False])
    )
    assert ddtcdr.apart({"own.map": turned}, found).item() == 9  # W (1, 0) = (0, -1), which is 3 from (0, 2)
    nothing = found._replace(shared=torch.tensor([False, False]))
    assert ddtcdr.apart({"own.map": turned}, nothing).item() == 0


def dtcdr_weights(width: int = D, product: bool = True) -> Parameters:
    generator = torch.Generator().manual_seed(3)
    found = tables(width)
    for side in ("source", "target"):
        found |= tower(side, (2 * width, 64, 64), generator) | linear(f"{side}.out", 64 + width * product, 1, generator)
    return randomised(found)


@pytest.mark.parametrize(("combine", "product"), [("max", True), ("mean", True), ("concat", True), ("max", False)])
def test_dtcdr_is_neumf_on_combined_items(combine: dtcdr.Combine, product: bool) -> None:
    form = Form("dtcdr", dtcdr.users, lambda w, found: dtcdr.items(w, found, combine), dtcdr.logits)
    weights = dtcdr_weights(2 * D if combine == "concat" else D, product)
    w, scores = plain(weights), served_scores(form, weights)
    for user, item in ((0, 0), (7, 29)):
        p, both = w["target.user"][user], (w["target.item"][item], w["source.item"][item])
        q = {"max": np.maximum(*both), "mean": np.mean(both, axis=0), "concat": np.concatenate(both)}[combine]
        hidden = relu(dense(w, "target.1", relu(dense(w, "target.0", np.r_[p, q]))))
        final = np.r_[hidden, p * q] if product else hidden
        assert scores[user, item] == pytest.approx(dense(w, "target.out", final)[0], rel=1e-4, abs=1e-5)


def test_items_of_one_domain_keep_their_own_vector() -> None:
    found = Items(-torch.ones(2, D), torch.tensor([[1.0] * D, [0.0] * D]), torch.tensor([True, False]))
    assert dtcdr.combined(found, "max").tolist() == [[1.0] * D, [-1.0] * D]
    assert dtcdr.combined(found, "mean").tolist() == [[0.0] * D, [-1.0] * D]
    assert dtcdr.combined(found, "concat").tolist() == [[-1.0] * D + [1.0] * D, [-1.0] * D + [0.0] * D]


@pytest.mark.parametrize(("form", "weights"), [(CONET, conet_weights()), (DDTCDR, ddtcdr_weights())])
def test_what_is_trained_is_what_is_served(form: Form, weights: Parameters) -> None:
    user, item = torch.tensor([3, 0, 29]), torch.tensor([[1, 2], [29, 0], [7, 7]])
    served = served_scores(form, weights)[user[:, None], item]
    np.testing.assert_allclose(trained_logits(form, weights, user, item), served, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["conet", "ddtcdr", "dtcdr"])
def test_parameters_are_as_many_as_the_formula_says(name: str) -> None:
    towers = {
        "conet": 2 * 2744 + (64 * 32 + 32 * 16) + 2 * 9,
        "ddtcdr": 2 * ((64 * 64 + 64) + (64 * 8 + 8) + (8 + 1)) + 32**2,
        "dtcdr": 2 * ((64 * 64 + 64) + (64 * 64 + 64) + (64 + 32 + 1)),
    }
    expected = (USERS + SOURCE_ITEMS + TARGET_ITEMS) * 32 + towers[name]
    assert fit(name, **WIDE).parameters.trainable == expected
    # a tower's 2,744 weights and biases and its output's 9: 64 x 32 + 32, 32 x 16 + 16, 16 x 8 + 8, 8 + 1


def test_mates_are_the_same_items() -> None:
    found = bridge()
    for side, other in (("source", "target"), ("target", "source")):
        own, there = found.layouts[side].items_known, found.layouts[other].items_known  # type: ignore[index]
        mates = found.mates[side].numpy()  # type: ignore[index]
        np.testing.assert_array_equal(mates >= 0, np.isin(own, there))
        np.testing.assert_array_equal(there[mates[mates >= 0]], own[mates >= 0])


@pytest.mark.parametrize("lead", ["target", "source"])
def test_both_domains_step_together_and_one_of_them_makes_the_epoch(lead: str) -> None:
    found = bridge(epoch_by=lead)
    steps = list(found.batches(torch.Generator().manual_seed(0)))
    views = TASK.sources if lead == "source" else (TASK.target,)
    seen = torch.cat([step[lead].user for step in steps])  # type: ignore[index]
    assert len(seen) == sum(len(view.train) for view in views)
    assert len(steps) == -(-len(seen) // 10)
    for step in steps:
        assert set(step) == {"source", "target"}
        assert all(isinstance(batch, Batch) and len(batch.user) for batch in step.values())
        assert step["source"].user.max() < 24
        assert step["target"].user.max() < 30


def test_one_source_can_stand_in_for_all() -> None:
    one = bridge(source="de").layouts["source"]
    assert [view.name for view in one.views] == ["de"]
    assert one.n_users == 12
    with pytest.raises(SpecError, match="mx"):
        bridge(source="mx")


def test_without_a_shared_item_there_is_no_mate_and_scores_stay_finite() -> None:
    weights = seen_from(conet_weights(), "target")
    found = bridge()
    found.mates["target"] = torch.full_like(found.mates["target"], -1)
    items = found.items(weights, "target", torch.arange(30))
    assert not items.shared.any()
    assert not items.mate.any()


def test_rows_of_the_sources_are_not_stored() -> None:
    fitted = fit("conet", epochs=1, dimensions=8)
    assert not [
        name for name in fitted.weights if name.endswith((".user", ".item")) and name.startswith(("own", "other"))
    ]
    assert max(len(value) for value in fitted.weights.values()) == 30


def test_a_sparsity_above_zero_shrinks_the_connections() -> None:
    settings: dict[str, Any] = {"epochs": 3, "dimensions": 8, "batch_size": 128, "learning_rate": 0.03, "eval_every": 3}
    loose, tight = (fit("conet", sparsity=weight, **settings).weights["cross.1.weight"] for weight in (0.0, 1.0))
    assert np.abs(tight).sum() < 0.5 * np.abs(loose).sum()


def trained(name: str, passes: int, **settings: Any) -> Parameters:
    """The weights of both domains after so many passes, from the checkpoint of a stopped run."""
    monitor = QuietMonitor(cancel_after=passes + 1)
    common = {"epochs": passes + 1, "dimensions": 8, "batch_size": 64, "eval_every": 1, "weight_decay": 0.0}
    with pytest.raises(Cancelled):
        fit(name, monitor, **{**common, "learning_rate": 0.03, **settings})
    prefix, kept = "parameter.", monitor.checkpoints[name]
    return {n.removeprefix(prefix): torch.from_numpy(v) for n, v in kept.items() if n.startswith(prefix)}


@pytest.mark.parametrize(("weight", "still", "moving"), [(0.0, "source", "target"), (1.0, "target", "source")])
def test_dtcdr_weighs_the_sources_loss_and_gives_the_target_s_the_rest(weight: float, still: str, moving: str) -> None:
    before, after = (trained("dtcdr", passes, source_weight=weight) for passes in (0, 2))
    own = [name for name in before if name.startswith(still) and not name.endswith(".item")]
    assert f"{still}.user" in own
    assert f"{still}.0.weight" in own
    for name in own:  # the other domain's loss reaches the items alone, whose vectors are combined
        assert torch.equal(before[name], after[name]), name
    for name in (f"{moving}.user", f"{moving}.0.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_a_weight_on_the_distance_from_an_orthogonal_map_keeps_the_map_near_one() -> None:
    loose, tight = (trained("ddtcdr", 3, mix=0.5, orthogonality=w)["target.map"] for w in (0.0, 1.0))
    assert float(ddtcdr.distance(tight)) < 0.5 * float(ddtcdr.distance(loose))


def test_a_weight_on_the_gap_brings_shared_items_and_their_mapped_mates_together() -> None:
    def gap(weight: float) -> float:
        seen = seen_from(trained("ddtcdr", 3, alignment=weight), "target")
        return float(ddtcdr.apart(seen, bridge(dimensions=8).items(seen, "target", torch.arange(TARGET_ITEMS))))

    assert gap(10.0) < 0.5 * gap(0.0)


def test_the_mixture_of_ddtcdr_is_the_one_that_is_set() -> None:
    assert fit("ddtcdr", epochs=1, dimensions=8, mix=0.25).weights["mix"] == 0.25


def test_pick_takes_rows_of_users_and_items_only() -> None:
    weights = {"user.a": torch.arange(3.0), "item.a": torch.arange(4.0), "mix": torch.tensor(2.0)}
    found = pick(weights, torch.tensor([[2], [0]]), torch.tensor([[3, 1]]))
    assert (found["user.a"] * found["item.a"] * found["mix"]).tolist() == [[12.0, 4.0], [0.0, 0.0]]
