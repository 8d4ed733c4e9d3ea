"""Propagation against dense matrix powers, plain autograd and PyG's LightGCN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.interfaces import MarketView, Pairs, Task
from cmr_core.models import graph as graphs
from cmr_core.models.graph import Graph, build_graph, combined_graph, market_graph


def view(name: str, n_users: int, catalogue: list[int], pairs: list[tuple[int, int]]) -> MarketView:
    user, item = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    day = np.full(len(user), -1, dtype=np.int32)
    return MarketView(name, n_users, np.array(catalogue, dtype=np.int32), Pairs(user, item, day))


def dense(n_users: int, n_items: int, pairs: set[tuple[int, int]]) -> torch.Tensor:
    """D^-1/2 A D^-1/2 by loops."""
    matrix = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    for user, item in pairs:
        matrix[user, n_users + item] = matrix[n_users + item, user] = 1
    degree = matrix.sum(1)
    for row in range(len(matrix)):
        for column in range(len(matrix)):
            if matrix[row, column]:
                matrix[row, column] = 1 / torch.sqrt(degree[row] * degree[column])
    return matrix


def random_graph(seed: int = 0, n_users: int = 6, n_items: int = 5) -> tuple[Graph, torch.Tensor, set[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    pairs = {
        (int(u), int(i)) for u, i in zip(rng.integers(n_users, size=14), rng.integers(n_items, size=14), strict=True)
    }
    graph = market_graph(view("m", n_users, list(range(n_items)), sorted(pairs)), "cpu")
    return graph, dense(n_users, n_items, pairs), pairs


def test_a_path_by_hand() -> None:
    # user 0 - item 0 - user 1: degrees 1, 1, 2, so every entry of A is 1 / sqrt(2).
    graph = market_graph(view("m", 2, [7], [(0, 0), (1, 0)]), "cpu")
    x = torch.tensor([[1.0], [2.0], [4.0]])
    root = 2**-0.5
    torch.testing.assert_close(graph.propagate(x), torch.tensor([[4 * root], [4 * root], [3 * root]]))
    torch.testing.assert_close(graph.mean_layers(x, 1), (x + graph.propagate(x)) / 2)
    np.testing.assert_array_equal(graph.degree, [1, 1, 2])


def test_the_product_in_fixed_order_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # item 0 has every user, in three segments and a part; the last user and item have nothing
    n_users = 3 * graphs.SEGMENT + 5
    pairs = [(user, 0) for user in range(n_users - 1)] + [(user, 1) for user in range(0, n_users - 1, 3)]
    graph = market_graph(view("m", n_users, [3, 5, 7], pairs), "cpu")
    x = torch.randn(n_users + 3, 5, generator=torch.Generator().manual_seed(0))
    expected = graph.matrix @ x
    torch.testing.assert_close(graph.ordered_product(x), expected)
    monkeypatch.setattr(graphs, "CELLS", 2 * len(graph.matrix.values()) + 1)  # blocks of two columns, and one left over
    torch.testing.assert_close(graph.ordered_product(x), expected)


@given(seed=st.integers(0, 10_000), layers=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_mean_layers_equals_dense_powers(seed: int, layers: int) -> None:
    graph, matrix, _ = random_graph(seed)
    x = torch.randn(len(matrix), 3, generator=torch.Generator().manual_seed(seed))
    powers = [torch.linalg.matrix_power(matrix, power) @ x.double() for power in range(layers + 1)]
    expected = torch.stack(powers).mean(0)
    torch.testing.assert_close(graph.mean_layers(x, layers).double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_symmetric_backward_equals_autograd_through_the_dense_matrix(layers: int) -> None:
    graph, matrix, _ = random_graph(4)
    x = torch.randn(len(matrix), 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight = torch.randn(len(matrix), 3, generator=torch.Generator().manual_seed(2))
    (graph.mean_layers(x, layers).square() * weight).sum().backward()
    assert x.grad is not None
    ours, x.grad = x.grad.clone(), None
    layer, total = x, x
    for _ in range(layers):
        layer = matrix.float() @ layer
        total = total + layer
    ((total / (layers + 1)).square() * weight).sum().backward()
    torch.testing.assert_close(ours, x.grad, atol=1e-6, rtol=1e-5)


def test_the_gradient_passes_a_numerical_check() -> None:
    graph, matrix, _ = random_graph(5, 3, 3)
    precise = Graph(graph.matrix.to(torch.float64), graph.degree)
    x = torch.randn(len(matrix), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: precise.mean_layers(x, 3), (x,), check_batched_grad=False)
    assert torch.autograd.gradcheck(precise.propagate, (x,), check_batched_grad=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_propagation_equals_pyg_lightgcn() -> None:
    from torch_geometric.nn import LightGCN  # importing it warns

    graph, matrix, pairs = random_graph(9)
    edges = torch.tensor([[u, 6 + i] for u, i in sorted(pairs)]).T
    peer = LightGCN(len(matrix), 4, num_layers=3)
    expected = peer.get_embedding(torch.cat([edges, edges.flip(0)], dim=1))
    torch.testing.assert_close(graph.mean_layers(peer.embedding.weight, 3), expected, atol=1e-6, rtol=1e-5)


def test_propagation_does_not_change_its_input() -> None:
    graph, matrix, _ = random_graph(2)
    x = torch.ones(len(matrix), 2)
    graph.mean_layers(x, 3)
    assert torch.equal(x, torch.ones(len(matrix), 2))


def test_a_repeated_pair_counts_once_and_a_lone_node_gets_nothing() -> None:
    once = build_graph(np.array([0]), np.array([2]), 4, "cpu")
    twice = build_graph(np.array([0, 0]), np.array([2, 2]), 4, "cpu")
    assert torch.equal(once.matrix.to_dense(), twice.matrix.to_dense())
    np.testing.assert_array_equal(once.degree, [1, 0, 1, 0])
    assert once.propagate(torch.ones(4, 1))[:, 0].tolist() == [1, 0, 1, 0]


def test_a_graph_without_edges_halves_nothing_but_the_mean() -> None:
    graph = market_graph(view("m", 2, [0], []), "cpu")
    torch.testing.assert_close(graph.mean_layers(torch.ones(3, 1), 3), torch.full((3, 1), 0.25))


def test_the_combined_graph_stacks_users_by_name_and_shares_items() -> None:
    target = view("uk", 2, [1, 3], [(0, 0), (1, 1)])  # global items 1 and 3
    source = view("de", 1, [0, 3], [(0, 1)])  # global item 3
    whole = combined_graph(Task(target, (source,), 4, "d", "t"), "cpu")
    assert whole.user_offset == {"de": 0, "uk": 1}
    assert whole.item_offset == 3
    np.testing.assert_array_equal(whole.users(target), [1, 2])
    np.testing.assert_array_equal(whole.items(target), [4, 6])
    edges = {tuple(sorted(edge)) for edge in whole.graph.matrix.to_dense().nonzero().tolist()}
    assert edges == {(0, 6), (1, 4), (2, 6)}


def test_the_combined_graph_is_the_same_whoever_is_the_target() -> None:
    a, b = view("a", 2, [0, 1], [(0, 0), (1, 1)]), view("b", 1, [1], [(0, 0)])
    one, other = (combined_graph(Task(t, (s,), 2, "d", "t"), "cpu").graph for t, s in ((a, b), (b, a)))
    assert torch.equal(one.matrix.to_dense(), other.matrix.to_dense())
