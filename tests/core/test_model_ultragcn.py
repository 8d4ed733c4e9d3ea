"""UltraGCN's weights and loss against the paper's equations in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cmr_core.errors import TrainingError
from cmr_core.interfaces import MarketView, Task
from cmr_core.models.registry import get
from cmr_core.models.scores import Scores
from cmr_core.models.ultragcn import FAINT, Constraint, UltraGCNConfig, item_neighbours
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import TASK, pairs, start

RNG = np.random.default_rng(1)
X = (RNG.random((8, 6)) < 0.5).astype(np.float32)


def omega(x: np.ndarray) -> np.ndarray:
    """Equation 13, entry by entry; no item beside itself."""
    g = x.T @ x
    total, n = g.sum(1), len(g)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and g[i, j]:
                result[i, j] = g[i, j] / (total[i] - g[i, i]) * np.sqrt(total[i] / total[j])
    return result


@pytest.mark.parametrize("width", [1, 3, 50])
def test_item_neighbours_are_the_largest_of_equation_13(width: int) -> None:
    near, share = item_neighbours(sp.csr_array(X.T @ X), width)
    expected = omega(X)
    assert near.shape == share.shape == (6, min(width, 6))
    for i in range(6):
        best = np.sort(expected[i])[::-1][: share.shape[1]]
        np.testing.assert_allclose(share[i], best, rtol=1e-5)
        np.testing.assert_allclose(expected[i, near[i]][share[i] > 0], share[i][share[i] > 0], rtol=1e-5)


def test_items_that_were_never_bought_with_others_have_no_neighbours() -> None:
    lonely = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    _, share = item_neighbours(sp.csr_array(lonely.T @ lonely), 2)
    assert share[:2, 0].all()
    assert not share[2:].any()


def test_the_loss_is_the_sum_of_the_paper() -> None:
    config = UltraGCNConfig(negative_weight=7.0, item_weight=0.3, neighbours=2, negatives=3)
    constraint = Constraint(sp.csr_array(X), 2, "cpu")
    generator = torch.Generator().manual_seed(0)
    user, item = torch.randn(8, 4, generator=generator), torch.randn(6, 4, generator=generator)
    users, positive = constraint.pairs[:, [0, 4, 7]]
    drawn = torch.tensor([[1, 2, 2], [0, 5, 3], [4, 4, 4]])
    d_user, d_item, weights = X.sum(1), X.sum(0), omega(X)
    s = lambda u, i: float(torch.nn.functional.logsigmoid(user[u] @ item[i]))  # noqa: E731
    none = lambda u, i: float(torch.nn.functional.logsigmoid(-(user[u] @ item[i])))  # noqa: E731
    beta = lambda u, i: np.sqrt((d_user[u] + 1) / (d_item[i] + 1)) / d_user[u]  # noqa: E731
    expected = 0.0
    for u, i, negatives in zip(users.tolist(), positive.tolist(), drawn.tolist(), strict=True):
        expected -= (FAINT + beta(u, i)) * s(u, i)
        expected -= 7.0 / 3 * sum((1 + FAINT * beta(u, j)) * none(u, j) for j in negatives)
        expected -= 0.3 * sum(weights[i, k] * s(u, k) for k in np.argsort(-weights[i])[:2])
    found = constraint.loss(Scores.of(user[users], item), users, positive, drawn, config)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def settings(**changes: Any) -> dict[str, Any]:
    return {"dimensions": 4, "epochs": 4, "eval_every": 1, "negatives": 5, "batch_size": 32, **changes}


def test_its_loss_falls() -> None:
    monitor = QuietMonitor()
    get("ultragcn").create(settings()).fit(TASK, start(monitor))
    losses = [report.metrics["loss"] for report in monitor.progress[1:]]
    assert losses == sorted(losses, reverse=True)


def test_parameters_are_one_vector_each() -> None:
    fitted = get("ultragcn").create(settings()).fit(TASK, start())
    assert fitted.parameters.trainable == (TASK.target.n_users + TASK.target.n_items) * 4
    assert fitted.parameters.total == fitted.parameters.trainable


def test_users_who_have_everything_give_nothing_to_learn() -> None:
    user, item = np.divmod(np.arange(6), 3)
    view = MarketView("uk", 2, np.arange(3, dtype=np.int32), pairs(user, item))
    with pytest.raises(TrainingError, match="nothing to learn"):
        get("ultragcn").create(settings()).fit(Task(view, (), 3, "a", "b"), start())
