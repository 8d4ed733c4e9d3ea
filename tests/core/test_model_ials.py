"""iALS against its own loss, a loop over rows, and an interruption."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cmr_core.errors import Cancelled, TrainingError
from cmr_core.models.ials import IALSConfig, Side, objective
from cmr_core.models.registry import get
from cmr_core.training import loop
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import TASK, Blind, Parity, start

RNG = np.random.default_rng(0)
MATRIX = sp.csr_array((RNG.random((9, 7)) < 0.4).astype(np.float32) * (np.arange(9) != 4)[:, None])
CONFIG = IALSConfig(dimensions=3, unseen_weight=0.2, regularisation=0.05, exponent=0.5)
OTHER = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def naive_row(row: int) -> np.ndarray:
    """The normal equations of one row in float64, with one weight and one label for each column."""
    q, label = OTHER.numpy().astype(np.float64), MATRIX.toarray()[row].astype(np.float64)
    weight = label + CONFIG.unseen_weight
    penalty = CONFIG.regularisation * (label.sum() + CONFIG.unseen_weight * 7) ** CONFIG.exponent
    return np.linalg.solve(q.T @ (weight[:, None] * q) + penalty * np.eye(3), q.T @ label)


@pytest.mark.parametrize("cells", [1, 40, 1 << 22])
def test_each_row_solves_its_normal_equations_whatever_the_blocks(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmr_core.models.ials.CELLS", cells)
    side = Side(MATRIX, 3, "cpu")
    assert len(side.blocks) > 1 if cells < 100 else len(side.blocks) == 1
    solved = side.solve(OTHER, CONFIG)
    np.testing.assert_allclose(solved, [naive_row(row) for row in range(9)], rtol=1e-4, atol=1e-6)
    assert not solved[4].any()


def test_the_objective_is_the_sum_over_all_pairs() -> None:
    user = torch.randn(9, 3, generator=torch.Generator().manual_seed(2))
    label, scores = MATRIX.toarray(), (user @ OTHER.T).numpy()
    expected = (label * (1 - scores) ** 2).sum() + 0.2 * (scores**2).sum()
    for table, seen, others in ((user, label.sum(1), 7), (OTHER, label.sum(0), 9)):
        expected += 0.05 * ((seen + 0.2 * others) ** 0.5 * table.square().sum(1).numpy()).sum()
    seen = torch.from_numpy(np.stack(MATRIX.nonzero()).astype(np.int64))
    assert objective(user, OTHER, seen, CONFIG) * MATRIX.nnz == pytest.approx(expected, rel=1e-5)


def test_every_half_of_a_sweep_lowers_the_objective() -> None:
    seen = torch.from_numpy(np.stack(MATRIX.nonzero()).astype(np.int64))
    sides = Side(MATRIX, 3, "cpu"), Side(sp.csr_array(MATRIX.T), 3, "cpu")
    item, user = OTHER, torch.ones(9, 3)
    values = [objective(user, item, seen, CONFIG)]
    for _ in range(4):
        user = sides[0].solve(item, CONFIG)
        values.append(objective(user, item, seen, CONFIG))
        item = sides[1].solve(user, CONFIG)
        values.append(objective(user, item, seen, CONFIG))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def settings(**changes: Any) -> dict[str, Any]:
    return {"dimensions": 4, "epochs": 6, "eval_every": 1, "tune": False, **changes}


def test_an_interrupted_run_ends_with_the_same_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole = get("ials").create(settings()).fit(TASK, start())
    monitor = QuietMonitor(cancel_after=3)
    with pytest.raises(Cancelled):
        get("ials").create(settings()).fit(TASK, start(monitor))
    assert monitor.checkpoints
    monitor.cancel_after = None
    again = get("ials").create(settings()).fit(TASK, start(monitor))
    for name, value in whole.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], value)
    assert len(monitor.progress) == 1 + 6  # the untrained state, and six sweeps in two attempts


@pytest.mark.parametrize("tune", [False, True])
def test_every_number_of_the_vectors_is_trained(tune: bool) -> None:
    users, items = TASK.target.n_users, TASK.target.n_items
    size = get("ials").create(settings(tune=tune)).fit(TASK, start()).parameters
    assert size.total == size.trainable == (users + items) * 4


def test_tuning_tries_each_candidate_once_and_keeps_the_best() -> None:
    monitor = QuietMonitor()
    fitted = get("ials").create(settings(tune=True)).fit(TASK, start(monitor))
    stages = list(dict.fromkeys(report.stage for report in monitor.progress))
    assert len(stages) == 4 + 2
    best = max(report.metrics["valid"] for report in monitor.progress)
    assert fitted.details["validation"] == pytest.approx(best)
    chosen = f"sweeps, unseen {fitted.details['unseen weight']:g}, penalty {fitted.details['regularisation']:g}"
    assert best == max(report.metrics["valid"] for report in monitor.progress if report.stage == chosen)


def test_tuning_without_validation_rows_is_an_error_and_training_is_not() -> None:
    with pytest.raises(TrainingError, match="no validation rows"):
        get("ials").create(settings(tune=True)).fit(TASK, start(judge=Blind()))
    fitted = get("ials").create(settings()).fit(TASK, start(judge=Blind()))
    assert "validation" not in fitted.details


def test_a_penalty_lost_in_rounding_is_a_fault_with_a_remedy() -> None:
    nothing = CONFIG.model_copy(update={"regularisation": -1e6})
    with pytest.raises(TrainingError, match="cannot be solved"):
        Side(MATRIX, 3, "cpu").solve(OTHER, nothing)


def test_vectors_start_small_and_judges_see_more_than_chance() -> None:
    monitor = QuietMonitor()
    get("ials").create(settings()).fit(TASK, start(monitor, judge=Parity()))
    valid = [report.metrics["valid"] for report in monitor.progress]
    assert valid[-1] > valid[0]
    assert all(math.isfinite(report.metrics["loss"]) for report in monitor.progress[1:])
