"""M3Rec and its walks: hand-worked graphs, first-order conditions, and EASE where there is no prior."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cmr_core.errors import Cancelled
from cmr_core.explain.why import explain
from cmr_core.models.base import Factors
from cmr_core.models.cooccurrence import Choice, counts, histories
from cmr_core.models.ease import item_weights
from cmr_core.models.m3rec import (
    INTER,
    INTRA,
    Local,
    M3RecConfig,
    co_occurrences,
    inter_market,
    intra_market,
    nearest,
    start_vectors,
)
from cmr_core.models.node2vec import Walking, node2vec, random_walks, skip_gram
from cmr_core.models.registry import get
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import Blind as Falling
from tests.core.tiny_markets import SPLIT, TASK, Parity, start

RNG = np.random.default_rng(5)
GRAM = sp.csr_array(counts(TASK.target, TASK.target.catalogue).astype(np.float64))
N = TASK.target.n_items
SMALL: dict[str, Any] = {"walk_dimensions": 4, "walks": 3, "walk_length": 6, "walk_epochs": 2, "walk_batch": 16}
GRADIENT: dict[str, Any] = {**SMALL, "variant": "gradient", "bpr_epochs": 6, "bpr_batch": 64, "bpr_learning_rate": 0.05}
EVERYBODY = np.arange(TASK.target.n_users)


def prior() -> np.ndarray:
    return RNG.normal(size=(N, N)).astype(np.float32) / 10


def test_without_a_prior_it_is_ease() -> None:
    weight = Local(GRAM, prior()).weights(Choice(3.0, {INTRA: 0.0, INTER: 0.0}), prior())
    np.testing.assert_allclose(weight, item_weights(GRAM, 3.0), atol=1e-6)


def test_as_a_method_it_is_ease_where_both_weights_are_zero() -> None:
    settings = {**SMALL, "tune": False, "penalty": 3.0, "intra_weight": 0.0, "inter_weight": 0.0}
    everybody = np.arange(TASK.target.n_users)
    ease = get("ease").create({"tune": False, "regularisation": 3.0}).fit(TASK, start())
    found = get("m3rec").create(settings).fit(TASK, start())
    np.testing.assert_allclose(found.score(everybody), ease.score(everybody), atol=1e-5)


@pytest.mark.parametrize(("penalty", "a", "b"), [(3.0, 1.0, 0.5), (200.0, 0.5, 0.1), (0.5, 0.0, 2.0)])
def test_the_weights_are_the_constrained_minimum(penalty: float, a: float, b: float) -> None:
    """Off the diagonal the gradient 2 (G + l) B - 2 (G + l S) is zero; on it the weights are."""
    intra, inter = prior(), prior()
    weight = Local(GRAM, inter).weights(Choice(penalty, {INTRA: a, INTER: b}), intra).astype(np.float64)
    assert not weight.diagonal().any()
    gram = GRAM.toarray()
    gradient = gram @ weight - gram + penalty * (weight - (a * intra + b * inter))
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=2e-4)


def test_a_firm_penalty_returns_the_prior() -> None:
    intra = prior()
    weight = Local(GRAM, intra).weights(Choice(1e6, {INTRA: 1.0, INTER: 0.0}), intra)
    np.fill_diagonal(intra, 0)
    np.testing.assert_allclose(weight, intra, atol=1e-4)


def test_intra_market_similarity_is_ease_over_the_users_of_all_markets() -> None:
    rows = []
    for view in TASK.markets:
        dense = np.zeros((view.n_users, TASK.n_items))
        dense[:, view.catalogue] = histories(view).toarray()
        rows.append(dense)
    x = np.concatenate(rows)
    np.testing.assert_array_equal(co_occurrences(TASK).toarray(), x.T @ x)
    inverse = np.linalg.inv(x.T @ x + 20 * np.eye(TASK.n_items))
    expected = np.eye(TASK.n_items) - inverse / np.diag(inverse)
    np.testing.assert_allclose(intra_market(TASK, start(), 20.0)["weight"], expected, atol=1e-6)


def test_both_stages_are_built_once_for_all_targets() -> None:
    monitor = QuietMonitor()
    for target in ("uk", "ca"):
        task = SPLIT.task(target, tuple(name for name in SPLIT.markets if name != target))
        get("m3rec").create(SMALL).fit(task, start(monitor))
    assert sorted(key.rpartition("-")[0] for key in monitor.store) == ["ease-all", "node2vec"]


def test_the_walks_depend_on_the_seed_and_the_ease_does_not() -> None:
    walking = M3RecConfig(**SMALL).walking()
    one, other = (inter_market(TASK, start(seed=seed), walking)["vectors"] for seed in (0, 1))
    assert not np.array_equal(one, other)
    monitor = QuietMonitor()
    intra_market(TASK, start(monitor, seed=0), 20.0)
    intra_market(TASK, start(monitor, seed=1), 20.0)
    assert len(monitor.store) == 1


def test_nearest_rows_add_up_to_one_over_all_items_and_leave_themselves_out() -> None:
    vectors = np.array([[1, 0], [2, 0], [1, 1], [-1, 0.1], [0, 0]], dtype=np.float32)
    everything = nearest(vectors, np.arange(5), 100)
    half = 0.5**0.5
    np.testing.assert_allclose(everything[0], [0, 1 / (1 + half), half / (1 + half), 0, 0], rtol=1e-6)
    assert not everything[4].any()
    assert not everything.diagonal().any()
    np.testing.assert_allclose(everything[2], [0.5, 0.5, 0, 0, 0], rtol=1e-6)
    sold = nearest(vectors, np.array([0, 2]), 100)
    np.testing.assert_allclose(sold, everything[np.ix_([0, 2], [0, 2])], rtol=1e-6)
    np.testing.assert_allclose(nearest(vectors, np.arange(5), 1)[0], [0, 1, 0, 0, 0])


def chain(weights: list[float]) -> sp.csr_array:
    """A path 0 - 1 - 2 ... with these weights."""
    matrix = np.diag(np.array(weights), 1)
    return sp.csr_array(matrix + matrix.T)


def test_walks_follow_edges_in_proportion_to_their_weights() -> None:
    graph = chain([1.0, 3.0, 2.0])
    walks = random_walks(graph, np.repeat(np.arange(4), 4000), 3, torch.Generator().manual_seed(0)).numpy()
    assert walks.shape == (16000, 3)
    assert (graph.toarray()[walks[:, :-1], walks[:, 1:]] > 0).all()
    from_one = Counter(walks[walks[:, 0] == 1, 1].tolist())
    assert from_one[2] / 4000 == pytest.approx(0.75, abs=0.03)
    from_two = Counter(walks[walks[:, 1] == 2, 2].tolist())
    assert from_two[1] / (from_two[1] + from_two[3]) == pytest.approx(0.6, abs=0.03)


def test_skip_gram_equals_the_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    inner, outer = (torch.randn(6, 3, generator=generator) for _ in range(2))
    walks, drawn = torch.tensor([[0, 1, 2, 1], [3, 4, 5, 0]]), torch.tensor([2, 5, 5])
    log_sigmoid = torch.nn.functional.logsigmoid
    terms = []
    for walk in walks.tolist():
        for i in range(4):
            for j in range(4):
                if 0 < abs(i - j) <= 2:
                    positive = -log_sigmoid(inner[walk[i]] @ outer[walk[j]])
                    terms.append(positive - 5 * log_sigmoid(-(outer[drawn] @ inner[walk[i]])).mean())
    found = skip_gram(inner, outer, walks, drawn, 2, 5)
    assert float(found) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    assert torch.isfinite(skip_gram(inner, outer, walks, drawn, 100, 5))


def test_neighbours_on_the_graph_get_similar_vectors_and_lonely_nodes_none() -> None:
    """Two cliques of six, joined by one thin edge, and a node without edges."""
    block = np.ones((6, 6)) - np.eye(6)
    graph = np.zeros((13, 13))
    graph[:6, :6] = graph[6:12, 6:12] = block
    graph[0, 6] = graph[6, 0] = 0.1
    walking = Walking(dimensions=8, walks=10, length=20, window=3, negatives=1, batch=16, learning_rate=0.02, epochs=20)
    monitor = QuietMonitor()
    vectors = node2vec(sp.csr_array(graph), walking, torch.Generator().manual_seed(0), monitor)
    similar = nearest(vectors, np.arange(13), 13)
    assert similar[:6, :6].sum() > 4 * similar[:6, 6:].sum()
    assert not vectors[12].any()
    losses = [report.metrics["loss"] for report in monitor.progress[1:]]
    assert losses[-1] < losses[0]


def test_a_graph_without_edges_has_no_vectors() -> None:
    walking = M3RecConfig(**SMALL).walking()
    vectors = node2vec(sp.csr_array((3, 3)), walking, torch.Generator().manual_seed(0), QuietMonitor())
    np.testing.assert_array_equal(vectors, np.zeros((3, 4)))


def test_parameters_are_both_matrices_and_the_walks_vectors() -> None:
    fitted = get("m3rec").create(SMALL).fit(TASK, start())
    assert fitted.parameters.trainable == 0
    assert fitted.parameters.closed_form == TASK.n_items**2 + N**2
    assert fitted.parameters.frozen == TASK.n_items * 4


def stages(monitor: QuietMonitor) -> list[str]:
    return sorted(key.rpartition("-")[0] for key in monitor.store)


def test_lambda_1_is_chosen_last_and_only_where_that_is_asked_for() -> None:
    monitor, plain = QuietMonitor(), QuietMonitor()
    given = get("m3rec").create({**SMALL, "global_penalty": 20.0}).fit(TASK, start(plain))
    found = get("m3rec").create({**SMALL, "global_penalty": 20.0, "tune_global": True}).fit(TASK, start(monitor))
    assert stages(plain) == ["ease-all", "node2vec"]
    assert stages(monitor) == ["ease-all"] * 4 + ["node2vec"]
    done = [report.done for report in monitor.progress if report.stage == "fit"]
    assert done == list(range(1, 14))  # four penalties, six pairs of weights, lambda 1 of 50, 200 and 500
    chosen = {
        "tune": False,
        "penalty": given.details["penalty"],
        "intra_weight": given.details[f"weight of {INTRA}"],
        "inter_weight": given.details[f"weight of {INTER}"],
    }
    every = {
        penalty: get("m3rec").create({**SMALL, **chosen, "global_penalty": penalty}).fit(TASK, start())
        for penalty in (20.0, 50.0, 200.0, 500.0)
    }
    values = {penalty: Parity()("uk", one.score) for penalty, one in every.items()}
    best = max(values, key=lambda penalty: values[penalty])
    assert len(set(values.values())) == 4
    assert found.details["global penalty"] == best
    assert found.details["validation"] == pytest.approx(values[best])
    np.testing.assert_array_equal(found.score(EVERYBODY), every[best].score(EVERYBODY))


def test_the_gradient_variant_begins_at_the_walks_vectors_and_the_mean_of_a_user_s_items() -> None:
    vectors, target = RNG.normal(size=(TASK.n_items, 4)).astype(np.float32), TASK.target
    found = start_vectors(target, vectors)
    for user in range(target.n_users):
        own = set(target.train.item[target.train.user == user].tolist())
        expected = np.mean([vectors[target.catalogue[item]] for item in own], axis=0) if own else np.zeros(4)
        np.testing.assert_allclose(found[user], expected, atol=1e-6)
    np.testing.assert_array_equal(found[target.n_users :], vectors[target.catalogue])


def test_where_no_epoch_is_better_the_gradient_variant_serves_its_start() -> None:
    run = start(judge=Falling())
    fitted = get("m3rec").create(GRADIENT).fit(TASK, run)
    assert isinstance(fitted, Factors)
    assert fitted.details["bpr best epoch"] == 0
    vectors = inter_market(TASK, run, M3RecConfig(**GRADIENT).walking())["vectors"]
    begun = start_vectors(TASK.target, vectors)
    np.testing.assert_array_equal(np.concatenate([fitted.user, fitted.item]), begun)
    np.testing.assert_allclose(fitted.score(EVERYBODY), begun[: len(EVERYBODY)] @ begun[len(EVERYBODY) :].T, rtol=1e-5)


def test_the_gradient_variant_learns_and_shares_its_walks_with_the_closed_form() -> None:
    monitor = QuietMonitor()
    for target in ("uk", "ca"):
        task = SPLIT.task(target, tuple(name for name in SPLIT.markets if name != target))
        fitted = get("m3rec").create({**GRADIENT, "bpr_epochs": 30}).fit(task, start(monitor))
        losses = [report.metrics["loss"] for report in monitor.progress if report.stage == "bpr" and report.done]
        assert losses[-1] < 0.7 * losses[0]
        assert Parity()(target, fitted.score) > 0.5
        assert fitted.parameters.trainable == fitted.parameters.total == (task.target.n_users + task.target.n_items) * 4
    assert stages(monitor) == ["node2vec"]
    get("m3rec").create(SMALL).fit(TASK, start(monitor))
    assert stages(monitor) == ["ease-all", "node2vec"]


@pytest.mark.parametrize("reports", [1, 4, 6, 9])
def test_the_gradient_variant_stopped_anywhere_resumes_to_the_same_arrays(reports: int) -> None:
    method, monitor = get("m3rec").create(GRADIENT), QuietMonitor(cancel_after=reports)
    with pytest.raises(Cancelled):
        method.fit(TASK, start(monitor))
    monitor.cancel_after = None
    again, whole = method.fit(TASK, start(monitor)).arrays(), method.fit(TASK, start()).arrays()
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_the_gradient_variant_s_reasons_add_up() -> None:
    fitted = get("m3rec").create(GRADIENT).fit(TASK, start())
    why = explain(fitted, TASK.target.train, 2, 3)
    assert why.exact
    assert why.total == pytest.approx(fitted.score(np.array([2]))[0, 3], rel=1e-5)
