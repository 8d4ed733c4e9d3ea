"""NATR against loops over the published formulas: attention, gate, what a history holds, and the shared first stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.evaluation.evaluate import Judge
from cmr_core.interfaces import Pairs, Run, Task
from cmr_core.models.natr import NATRConfig, Transfer, natr_start, softmax_by_row, source_vectors
from cmr_core.models.neural import NeuralScorer, find_network
from cmr_core.models.registry import get
from cmr_core.models.towers import Parameters
from cmr_core.spec import EvalSpec
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, checkerboard

SPLIT = checkerboard()
TASK = SPLIT.task(TARGET, SOURCES)
SMALL: dict[str, Any] = {"dimensions": 4, "source_dimensions": 3, "epochs": 2, "source_epochs": 2, "batch_size": 64}
CONFIG = NATRConfig(**SMALL)
VECTORS = np.random.default_rng(1).normal(size=(36, 3)).astype(np.float32)  # the sources sell items 0..35 together


def few_items(task: Task = TASK) -> Task:
    """User 5 has nothing, user 6 only item 6."""
    train = task.target.train
    keep = (train.user != 5) & ((train.user != 6) | (train.item == 10))
    item = np.where(train.user == 6, 6, train.item).astype(np.int32)
    return replace(task, target=replace(task.target, train=Pairs(train.user[keep], item[keep], train.day[keep])))


def weights() -> Parameters:
    generator = torch.Generator().manual_seed(2)
    start = natr_start(TASK.target, CONFIG, generator)
    return {name: torch.randn(value.shape, generator=generator) for name, value in start.items()}


def by_hand(w: Parameters, user: int, item: int, history: list[int]) -> float:
    """Score of a pair, from the user's items."""
    a = {name: value.numpy().astype(np.float64) for name, value in w.items()}
    p, q = a["user.p"][user], a["item.q"][item]
    z = p
    if history:
        g = [a["carry.weight"] @ VECTORS[j] + a["carry.bias"] for j in history]
        e = np.array([a["attend.weight"][0] @ np.maximum(p * one, 0) + a["attend.bias"][0] for one in g])
        s = sum(share * one for share, one in zip(np.exp(e) / np.exp(e).sum(), g, strict=True))
        gates = np.array([a["gate.weight"][0] @ np.maximum(side * q, 0) + a["gate.bias"][0] for side in (s, p)])
        beta = np.exp(gates) / np.exp(gates).sum()
        z = beta[0] * s + beta[1] * p
    return float(z @ q)


def items_of(task: Task, user: int) -> list[int]:
    return [int(item) for item in task.target.train.item[task.target.train.user == user]]


def run(monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", Judge(SPLIT, EvalSpec()), monitor or QuietMonitor())


def test_scores_are_those_of_the_formulas() -> None:
    task, w = few_items(), weights()
    stored = Transfer.of(task, VECTORS, 100, "cpu").served(w)
    scores = find_network("natr").logits(stored, torch.arange(30)[:, None], torch.arange(30)[None])
    for user, item in ((0, 0), (5, 3), (6, 6), (29, 12)):
        assert scores[user, item].item() == pytest.approx(
            by_hand(w, user, item, items_of(task, user)), rel=1e-4, abs=1e-5
        )


def test_a_pair_that_is_learned_is_not_in_its_own_history() -> None:
    task, w = few_items(), weights()
    users, items = torch.tensor([0, 6, 5]), torch.tensor([[4, 1, 3], [6, 7, 9], [2, 3, 4]])
    logits = Transfer.of(task, VECTORS, 100, "cpu").logits(w, users, items)
    for row, user in enumerate(users.tolist()):
        for column, item in enumerate(items[row].tolist()):
            history = [j for j in items_of(task, user) if column or j != item]
            expected = by_hand(w, user, item, history)
            assert logits[row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert items_of(task, 6) == [6], "what is left of this user's history is nothing"


def test_items_that_no_source_sells_are_no_history() -> None:
    target = replace(TASK.target, catalogue=np.arange(10, 40, dtype=np.int32))  # 36..39 are the target's alone
    transfer = Transfer.of(replace(TASK, target=target), VECTORS, 100, "cpu")
    assert transfer.history.items.max() < 26
    np.testing.assert_array_equal(transfer.source[:26].numpy(), VECTORS[10:])
    assert not transfer.source[26:].any()


def test_a_history_keeps_the_latest_items() -> None:
    user, item = np.array([1, 0, 1, 1, 0]), np.array([4, 2, 9, 6, 3])
    train = Pairs(user, item, np.array([30, 5, 10, 20, 7]))
    transfer = Transfer.of(replace(TASK, target=replace(TASK.target, train=train)), VECTORS, 2, "cpu")
    row, kept = transfer.history.pairs(torch.tensor([0, 1, 2]))
    assert set(zip(row.tolist(), kept.tolist(), strict=True)) == {(0, 2), (0, 3), (1, 4), (1, 6)}


def test_a_softmax_within_rows_survives_large_values() -> None:
    values, row = torch.tensor([1000.0, -1000.0, 1000.0, 3.0]), torch.tensor([0, 2, 0, 2])
    assert softmax_by_row(values, row, 3).tolist() == [0.5, 0.0, 0.5, 1.0]


def test_parameters_are_as_many_as_the_formula_says() -> None:
    fitted = get("natr").create({**SMALL, "dimensions": 16, "source_dimensions": 8}).fit(TASK, run())
    assert fitted.parameters.trainable == (30 + 30) * 16 + 8 * 16 + 16 + 2 * 17
    assert fitted.parameters.frozen == (24 + 36) * 8


def test_the_first_stage_is_built_once_for_a_target_and_its_settings() -> None:
    monitor = QuietMonitor()
    first = source_vectors(TASK, run(monitor), CONFIG)
    reports = len(monitor.progress)
    again = source_vectors(TASK, run(monitor), CONFIG.model_copy(update={"dimensions": 9, "learning_rate": 0.5}))
    assert again is first
    assert len(monitor.progress) == reports
    for changes in ({"source_dimensions": 2}, {"source_learning_rate": 0.5}, {"l2": 0.1}, {"negatives": 1}):
        assert source_vectors(TASK, run(monitor), CONFIG.model_copy(update=changes)) is not first
    other = SPLIT.task("de", ("ca", TARGET))
    assert len(source_vectors(other, run(monitor), CONFIG)["user.source"]) == 12 + 30


def test_the_first_stage_does_not_see_the_target() -> None:
    changed = replace(TASK, target=few_items().target)
    one, other = (source_vectors(task, run(), CONFIG) for task in (TASK, changed))
    np.testing.assert_array_equal(one["item.source"], other["item.source"])


def test_the_sources_vectors_stay_as_they_are() -> None:
    monitor = QuietMonitor()
    before = {name: value.copy() for name, value in source_vectors(TASK, run(monitor), CONFIG).items()}
    fitted = get("natr").create(SMALL).fit(TASK, run(monitor))
    assert isinstance(fitted, NeuralScorer)
    after = source_vectors(TASK, run(monitor), CONFIG)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
