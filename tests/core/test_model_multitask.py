"""Cross-Stitch, MMoE and Wide&Deep: their sizes, what they reduce to, and what they must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.interfaces import Arrays, MarketView, Pairs, Run, Task
from cmr_core.models import crossstitch, mmoe, widedeep
from cmr_core.models.pointwise import Layout, Rows, together
from cmr_core.models.registry import get
from cmr_core.models.towers import Noise, apply_tower, tower
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, Rising, checkerboard


@pytest.fixture
def task() -> Task:
    return checkerboard().task(TARGET, SOURCES)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def fit(name: str, task: Task, **settings: Any) -> Any:
    """Trained to the last pass, whatever the scores."""
    run = Run(0, "cpu", Rising(), QuietMonitor())
    return get(name).create({"epochs": 1, "batch_size": 64, **settings}).fit(task, run)


def learned(name: str, task: Task, **settings: Any) -> Arrays:
    """After two passes without weight decay, which would change everything."""
    common = {"epochs": 2, "dimensions": 4, "learning_rate": 0.03, "weight_decay": 0.0, "dropout": 0.0}
    found: Arrays = fit(name, task, **{**common, **settings}).weights
    return found


def sizes(task: Task) -> tuple[int, int]:
    layout = Layout(task.markets)
    return layout.n_users, layout.n_items


@pytest.mark.parametrize("tasks", [2, 3])
def test_parameters_are_those_of_the_formulas(task: Task, tasks: int) -> None:
    users, items = sizes(task)
    kind = {"tasks": "target-and-sources" if tasks == 2 else "each-market"}
    tables = (users + items) * 32
    stitched = tables + tasks * (8320 + 8256 + 2080) + 3 * tasks**2 + 33 * tasks
    assert fit("cross-stitch", task, **kind).parameters.trainable == stitched
    mixed = tables + 4 * 6240 + tasks * 65 * 4 + tasks * 545
    assert fit("mmoe", task, **kind).parameters.trainable == mixed


@pytest.mark.parametrize("name", ["wide-deep", "wide-deep-all"])
def test_wide_deep_has_the_size_of_its_formula(task: Task, name: str) -> None:
    markets = task.markets if name == "wide-deep-all" else (task.target,)
    layout = Layout(markets)
    rows = layout.n_users + layout.n_items
    crossed = rows * 32 + rows + len(markets) + 1 + 2**18 + 18_689
    assert fit(name, task).parameters.trainable == crossed
    assert fit(name, task, crosses=False).parameters.trainable == crossed - 2**18


def test_cross_stitch_without_mixing_is_its_own_tower() -> None:
    layout = Layout(checkerboard().task(TARGET, SOURCES).markets)
    weights = crossstitch.CrossStitch(crossstitch.CrossStitchConfig(dimensions=4))._start(layout, 2, generator())
    for layer in range(3):
        weights[f"stitch.{layer}"] = torch.eye(2)
    user, item = torch.tensor([[0], [5]]), torch.tensor([[1, 2, 3]])
    pair = torch.cat([weights["user.shared"][user].expand(2, 3, 4), weights["item.shared"][item].expand(2, 3, 4)], 2)
    for number in range(2):
        alone = apply_tower(weights, f"tower{number}", pair, last_relu=False).squeeze(-1)
        torch.testing.assert_close(crossstitch.logits(weights, user, item, number), alone)


def test_towers_mix_as_the_weights_say() -> None:
    """One layer by hand: with alpha = [[0, 1], [1, 0]] after each layer, task 0 reads what the other tower found."""
    layout = Layout(checkerboard().task(TARGET, SOURCES).markets)
    weights = crossstitch.CrossStitch(crossstitch.CrossStitchConfig(dimensions=4))._start(layout, 2, generator())
    for layer in range(3):
        weights[f"stitch.{layer}"] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    user, item = torch.tensor([3]), torch.tensor([4])
    x = torch.cat([weights["user.shared"][user], weights["item.shared"][item]], 1)
    for at, name in enumerate(("tower1", "tower0", "tower1")):  # swapped after every layer, read by task 0
        x = torch.relu(x @ weights[f"{name}.{at}.weight"].T + weights[f"{name}.{at}.bias"])
    expected = x @ weights["tower0.3.weight"].T + weights["tower0.3.bias"]
    torch.testing.assert_close(crossstitch.logits(weights, user, item, 0), expected[:, 0])


def test_one_expert_is_its_own_tower() -> None:
    layout = Layout(checkerboard().task(TARGET, SOURCES).markets)
    weights = mmoe.MMoE(mmoe.MMoEConfig(dimensions=4, experts=1))._start(layout, 2, generator())
    user, item = torch.tensor([[0], [5]]), torch.tensor([[1, 2, 3]])
    pair = torch.cat([weights["user.shared"][user].expand(2, 3, 4), weights["item.shared"][item].expand(2, 3, 4)], 2)
    alone = apply_tower(weights, "tower1", apply_tower(weights, "expert0", pair), last_relu=False).squeeze(-1)
    torch.testing.assert_close(mmoe.logits(weights, user, item, 1), alone)


def test_gates_share_out_all_and_say_how_evenly(task: Task) -> None:
    weights = {"gate0.weight": torch.zeros(4, 6), "gate0.bias": torch.tensor([0.0, 0.0, 0.0, 50.0])}
    shares = mmoe.gate(weights, torch.randn(5, 3), torch.randn(5, 3), 0)
    torch.testing.assert_close(shares, torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(5, 4))
    assert 0 <= fit("mmoe", task).details["gate entropy"] <= 1


@pytest.mark.parametrize(("name", "own"), [("mmoe", ("tower1.0", "gate1")), ("cross-stitch", ("tower1.3",))])
def test_sources_that_weigh_nothing_train_nothing_of_their_own(name: str, own: tuple[str, ...], task: Task) -> None:
    first, last = (learned(name, task, source_weight=0.0, epochs=passes) for passes in (1, 2))
    weighed = learned(name, task, source_weight=2.0)
    for layer in own:
        np.testing.assert_array_equal(first[f"{layer}.weight"], last[f"{layer}.weight"])
        assert not np.array_equal(weighed[f"{layer}.weight"], last[f"{layer}.weight"])
    assert not np.array_equal(first["tower0.0.weight"], last["tower0.0.weight"])


def test_a_rate_of_their_own_moves_the_mixing_weights_farther(task: Task) -> None:
    def moved(rate: float) -> float:
        found = learned("cross-stitch", task, stitch_rate=rate)
        return max(float(np.abs(found[f"stitch.{at}"][0] - [0.9, 0.1]).max()) for at in range(3))

    assert moved(10.0) > 3 * moved(1.0) > 0


def test_each_unit_can_have_a_mixing_weight_of_its_own(task: Task) -> None:
    layout = Layout(task.markets)
    config = crossstitch.CrossStitchConfig(dimensions=4, per_channel=True)
    held = crossstitch.CrossStitch(config)._start(layout, 2, generator())
    assert [tuple(held[f"stitch.{at}"].shape) for at in range(3)] == [(2, 2, width) for width in crossstitch.HIDDEN]
    draw = generator()
    held |= {name: torch.randn(value.shape, generator=draw) for name, value in held.items() if "stitch" in name}
    user, item = torch.tensor([3]), torch.tensor([4])
    x = [torch.cat([held["user.shared"][user], held["item.shared"][item]], 1)] * 2
    for at in range(3):
        x = [torch.relu(x[a] @ held[f"tower{a}.{at}.weight"].T + held[f"tower{a}.{at}.bias"]) for a in range(2)]
        x = [sum(held[f"stitch.{at}"][a, b] * x[b] for b in range(2)) for a in range(2)]
    expected = x[1] @ held["tower1.3.weight"].T + held["tower1.3.bias"]
    torch.testing.assert_close(crossstitch.logits(held, user, item, 1), expected[:, 0])


def test_a_gate_leaves_experts_out_in_training_and_raises_the_others(task: Task) -> None:
    held = mmoe.MMoE(mmoe.MMoEConfig(dimensions=4, experts=1))._start(Layout(task.markets), 2, generator())
    user, item = torch.arange(40)[:, None], torch.arange(4)[None].expand(40, 4)
    pair = torch.cat([held["user.shared"][user].expand(40, 4, 4), held["item.shared"][item]], 2)
    expert = apply_tower(held, "expert0", pair)
    none, twice = (apply_tower(held, "tower0", share * expert, last_relu=False).squeeze(-1) for share in (0.0, 2.0))
    found = mmoe.logits(held, user, item, 0, gate_noise=Noise(0.5, generator()))
    out, kept = torch.isclose(found, none), torch.isclose(found, twice)
    assert (out | kept).all()
    assert 0.3 < float(kept.float().mean()) < 0.7
    with_it, without = (learned("mmoe", task, gate_dropout=rate)["gate0.weight"] for rate in (0.9, 0.0))
    assert not np.array_equal(with_it, without), "the setting reaches the gates of a training"


def test_the_decay_of_the_wide_part_shrinks_its_ids_and_spares_its_pairs(task: Task) -> None:
    settings = {"epochs": 8, "batch_size": 256}
    loose, tight = (learned("wide-deep", task, wide_l2=weight, **settings) for weight in (0.0, 1.0))
    for name in ("user.wide", "item.wide"):
        assert np.abs(tight[name]).sum() < 0.5 * np.abs(loose[name]).sum(), name
    assert np.abs(tight["cross"]).sum() > 0.8 * np.abs(loose["cross"]).sum()


def test_every_step_has_a_batch_of_each_task_and_the_target_sets_the_length(task: Task) -> None:
    layout = Layout(task.markets)
    rows = [Rows(layout, 4, "cpu", views=views) for views in ([task.target], list(task.sources))]
    steps = list(together(rows, 50, generator()))
    assert sum(len(step[0].user) for step in steps) == len(task.target.train)
    target, sources = layout.users(task.target), np.concatenate([layout.users(view) for view in task.sources])
    for own, other in steps:
        assert np.isin(own.user.numpy(), target).all()
        assert np.isin(other.user.numpy(), sources).all()


def views() -> tuple[MarketView, MarketView]:
    """Two markets: user 0 of the first has items 0 and 1, user 1 has item 2; the other sells items 1 to 3."""

    def pairs(user: list[int], item: list[int], day: list[int]) -> Pairs:
        return Pairs(*(np.array(column, dtype=np.int32) for column in (user, item, day)))

    one = MarketView("a", 2, np.array([0, 1, 2], dtype=np.int32), pairs([0, 0, 1], [0, 1, 2], [5, 9, 7]))
    other = MarketView("b", 1, np.array([1, 2, 3], dtype=np.int32), pairs([0, 0], [2, 0], [1, 2]))
    return one, other


def test_histories_are_in_the_items_of_all_markets_and_the_latest_come_first() -> None:
    fixed = widedeep.constants(Layout(views()))
    assert fixed["user.history"][:, :3].tolist() == [[1, 0, -1], [2, -1, -1], [1, 3, -1]]
    assert fixed["user.market"].tolist() == [0, 0, 1]


def test_the_wide_part_is_the_sum_of_its_weights_and_leaves_the_candidate_out_of_the_history() -> None:
    layout = Layout(views())
    weights: dict[str, torch.Tensor] = {k: torch.from_numpy(v) for k, v in widedeep.constants(layout).items()}
    draw = generator()
    weights |= {
        "user.wide": torch.randn(3, generator=draw),
        "item.wide": torch.randn(4, generator=draw),
        "market": torch.randn(2, generator=draw),
        "bias": torch.randn(1, generator=draw),
        "cross": torch.randn((widedeep.BUCKETS, 1), generator=draw),
    }
    history = [[1, 0], [2], [1, 3]]
    found = widedeep.wide(weights, torch.arange(3)[:, None], torch.arange(4)[None])
    for user in range(3):
        for item in range(4):
            crossed = sum(
                float(weights["cross"][widedeep._bucket(torch.tensor(j), torch.tensor(item))])
                for j in history[user]
                if j != item
            )
            plain = weights["bias"][0] + weights["user.wide"][user] + weights["market"][[0, 0, 1][user]]
            assert float(found[user, item]) == pytest.approx(
                float(plain + weights["item.wide"][item]) + crossed, abs=1e-5
            )


def test_towers_draw_weights_of_the_promised_range() -> None:
    weights = tower("t", (10, 20), generator())["t.0.weight"]
    assert weights.abs().max() <= (6 / 30) ** 0.5
    assert weights.std().item() == pytest.approx((6 / 30) ** 0.5 / 3**0.5, rel=0.2)
