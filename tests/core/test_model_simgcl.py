"""SimGCL and XSimGCL: the contrast, the noise, the shortcut in the gradient, resuming and reasons."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmr_core.errors import SpecError
from cmr_core.interfaces import Method, ParameterCount
from cmr_core.models.base import Factors
from cmr_core.models.contrast import batch_contrast, info_nce, noisy_layers, perturbed
from cmr_core.models.graph import Graph, build_graph, market_graph
from cmr_core.models.lightgcn import market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.models.simgcl import SimGCL, SimGCLAll, SimGCLAllConfig, SimGCLConfig
from cmr_core.models.xsimgcl import XSimGCL, XSimGCLAll, XSimGCLAllConfig, XSimGCLConfig
from cmr_core.spec import parse
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import SPLIT, TASK, Parity, start

SMALL = {"dimensions": 8, "epochs": 6, "batch_size": 64, "eval_every": 2}
UK = TASK.target


def methods() -> list[Method]:
    return [
        SimGCL(SimGCLConfig(**SMALL)),
        XSimGCL(XSimGCLConfig(**SMALL)),
        XSimGCL(XSimGCLConfig(**SMALL, layers=3, contrast_layer=2)),
        *everywhere(),
    ]


def everywhere() -> list[Method]:
    return [SimGCLAll(SimGCLAllConfig(**SMALL)), XSimGCLAll(XSimGCLAllConfig(**SMALL))]


def fitted(method: Method, monitor: QuietMonitor | None = None, target: str = "uk") -> Factors:
    task = SPLIT.task(target, tuple(name for name in SPLIT.markets if name != target))
    result = method.fit(task, start(monitor))
    assert isinstance(result, Factors)
    return result


def draws(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example() -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """uk's graph, a table to train, and a batch in which nodes occur more than once."""
    graph = market_graph(UK, "cpu")
    table = torch.randn(graph.n_nodes, 6, generator=draws(1)).requires_grad_()
    batch = torch.stack(Triples([UK], "cpu", catalogues=False).epoch(draws(2)))[:, :20]
    assert len(set(batch[0].tolist())) < 20
    return graph, table, batch


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(one @ two / math.sqrt(float(one @ one) * float(two @ two)))


def test_info_nce_against_a_loop() -> None:
    one, two = torch.randn(2, 5, 3, generator=draws(), dtype=torch.float64)
    further = torch.rand(5, 2, generator=draws(), dtype=torch.float64)
    for more in (None, further):
        losses = []
        for i in range(5):
            terms = [cosine(one[i], two[j]) for j in range(5)] + ([] if more is None else more[i].tolist())
            losses.append(-math.log(math.exp(terms[i] / 0.3) / sum(math.exp(term / 0.3) for term in terms)))
        assert float(info_nce(one, two, 0.3, more)) == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_info_nce_by_hand_and_its_direction() -> None:
    axes = torch.eye(2)
    # cosines 1 with the own view and 0 with the other's: -log(e / (e + 1))
    assert float(info_nce(axes * 3, axes, 1.0)) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(info_nce(axes, axes.flip(0), 1.0)) == pytest.approx(math.log(1 + math.exp(1)))


def test_the_contrast_takes_each_user_and_each_positive_once() -> None:
    one, two = torch.randn(2, 10, 4, generator=draws())
    batch = torch.tensor([[0, 0, 2], [7, 8, 7], [9, 9, 9]])
    expected = info_nce(one[[0, 2]], two[[0, 2]], 0.2) + info_nce(one[[7, 8]], two[[7, 8]], 0.2)
    torch.testing.assert_close(batch_contrast(one, two, batch, 0.2), expected)


def test_noise_has_its_length_stays_in_the_orthant_and_lets_gradients_through() -> None:
    x = torch.randn(50, 6, generator=draws()).requires_grad_()
    noisy = perturbed(x, 0.25, draws())
    torch.testing.assert_close((noisy - x).norm(dim=1), torch.full((50,), 0.25))
    assert bool(((noisy - x) * x >= -1e-7).all())
    weights = torch.randn(50, 6, generator=draws(3))
    (noisy * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weights)


def test_a_node_without_neighbours_stays_at_zero() -> None:
    graph = build_graph(np.array([0]), np.array([2]), 4, "cpu")
    layers = noisy_layers(graph, torch.ones(4, 3), 2, 0.5, draws())
    assert not layers[0][[1, 3]].any()
    assert bool((layers[1][[0, 2]] > 1).all())


def test_layer_0_is_left_out() -> None:
    graph, table, _ = example()
    matrix = graph.matrix.to_dense()
    expected = sum(torch.linalg.matrix_power(matrix, power) @ table for power in (1, 2, 3)) / 3
    torch.testing.assert_close(graph.mean_neighbours(table, 3), expected)
    noisy = noisy_layers(graph, table, 3, 0.0, draws())
    torch.testing.assert_close(torch.stack(noisy).mean(0), expected)


def test_simgcl_s_one_backward_pass_is_that_of_three_propagations() -> None:
    graph, table, batch = example()
    method = SimGCL(SimGCLConfig(**SMALL, layers=3, noise=0.4, contrast_weight=0.7))
    clean, loss = method._views(graph, draws())(table, batch)
    (found,) = torch.autograd.grad(loss + clean.square().sum(), table)
    generator = draws()
    one, two = (torch.stack(noisy_layers(graph, table, 3, 0.4, generator)).mean(0) for _ in range(2))
    naive = 0.7 * batch_contrast(one, two, batch, method.config.temperature)
    torch.testing.assert_close(loss, naive)
    (expected,) = torch.autograd.grad(naive + graph.mean_neighbours(table, 3).square().sum(), table)
    torch.testing.assert_close(found, expected)


def test_without_noise_simgcl_s_views_are_one_and_the_same() -> None:
    graph, table, batch = example()
    method = SimGCL(SimGCLConfig(**SMALL, noise=0.0, contrast_weight=1.0))
    clean, loss = method._views(graph, draws())(table, batch)
    torch.testing.assert_close(loss, batch_contrast(clean, clean, batch, method.config.temperature))


def test_xsimgcl_trains_on_the_noisy_vectors_and_compares_them_with_the_chosen_layer() -> None:
    graph, table, batch = example()
    method = XSimGCL(XSimGCLConfig(**SMALL, layers=3, contrast_layer=2, noise=0.3, contrast_weight=0.7))
    final, loss = method._views(graph, draws())(table, batch)
    layers = noisy_layers(graph, table, 3, 0.3, draws())
    torch.testing.assert_close(final, (layers[0] + layers[1] + layers[2]) / 3)
    torch.testing.assert_close(loss, 0.7 * batch_contrast(final, layers[1], batch, method.config.temperature))
    assert not torch.allclose(final, graph.mean_neighbours(table, 3))


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="contrast_layer is 3, but there are only 2 layers"):
        parse(XSimGCLConfig, {"contrast_layer": 3})


@pytest.mark.parametrize("method", methods())
def test_training_learns_and_scores_are_without_noise(method: Method) -> None:
    monitor = QuietMonitor()
    factors = fitted(method, monitor)
    assert Parity()("uk", factors.score) > 0.5
    nodes = sum(view.n_users for view in TASK.markets) + TASK.n_items
    trained = nodes if isinstance(method, SimGCLAll | XSimGCLAll) else UK.n_users + UK.n_items
    assert factors.parameters == ParameterCount(trainable=trained * 8)
    assert all("contrast" in report.metrics for report in monitor.progress if report.done)
    # the last look at validation is at the vectors that are served, where the last epoch was the best one
    best = max(report.metrics["valid"] for report in monitor.progress if "valid" in report.metrics)
    alike = [fitted(method, monitor, target) for target in ("ca", "de", "uk")] if trained == nodes else [factors]
    names = ("ca", "de", "uk") if trained == nodes else ("uk",)
    judged = [Parity()(name, own.score) for name, own in zip(names, alike, strict=True)]
    assert np.mean(judged) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("method", methods())
def test_user_vectors_are_their_items_messages_and_nothing_else(method: Method) -> None:
    factors = fitted(method)
    assert factors.user_base is not None
    assert factors.item_message is not None
    assert not factors.user_base.any()
    assert len(market_nodes(UK)[0]) == len(factors.user)
    for user in range(UK.n_users):
        history = UK.train.item[UK.train.user == user]
        rebuilt = factors.item_message[history].sum(0) / np.sqrt(max(len(history), 1))
        np.testing.assert_allclose(rebuilt, factors.user[user], atol=1e-6)


@pytest.mark.parametrize("method", everywhere())
def test_all_targets_share_one_training_on_the_graph_of_all_markets(method: Method) -> None:
    monitor = QuietMonitor()
    found = {target: fitted(method, monitor, target) for target in SPLIT.markets}
    (arrays,) = monitor.store.values()
    assert sum(report.done == 1 for report in monitor.progress) == 1
    # a dense graph made by hand: users market by market in the order of names, then the items of all markets
    views = [SPLIT.markets[name] for name in sorted(SPLIT.markets)]
    starts = np.cumsum([0, *(view.n_users for view in views)])
    adjacency = np.zeros((starts[-1] + SPLIT.n_items,) * 2)
    for begin, view in zip(starts, views, strict=False):
        adjacency[begin + view.train.user, starts[-1] + view.catalogue[view.train.item]] = 1
    adjacency += adjacency.T
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    normal = scale[:, None] * adjacency * scale
    table = arrays["embedding"].astype(np.float64)
    final = (normal @ table + normal @ normal @ table) / 2
    for begin, view in zip(starts, views, strict=False):
        np.testing.assert_allclose(found[view.name].user, final[begin : begin + view.n_users], atol=1e-5)
        np.testing.assert_allclose(found[view.name].item, final[starts[-1] + view.catalogue], atol=1e-5)


def test_settings_for_all_markets_change_the_training_and_nothing_else() -> None:
    for config, plain in ((SimGCLAllConfig(), SimGCLConfig()), (XSimGCLAllConfig(), XSimGCLConfig())):
        assert config.training().batch_size == 2048
        for name in ("dimensions", "layers", "noise", "temperature", "contrast_weight"):
            assert getattr(config, name) == getattr(plain, name)
    with pytest.raises(SpecError, match="contrast_layer is 3"):
        parse(XSimGCLAllConfig, {"contrast_layer": 3})
