"""Prompted features: the fast propagation against the naive one, zero prompts, counts, explanations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cmr_core.interfaces import ParameterCount
from cmr_core.models.dcmpt import assemble
from cmr_core.models.graph import Graph, build_graph
from cmr_core.models.prompts import PromptShape, attention, describe, initial
from cmr_core.models.student import Field, Prompted, Unfrozen, neighbourhood
from tests.core.tiny_markets import SMALL, fit

DIMENSIONS, USERS, ITEMS = 12, 40, 30


def graph(seed: int = 0, edges: int = 70) -> Graph:
    """A thin graph, so that three steps from a few nodes do not reach everything."""
    rng = np.random.default_rng(seed)
    return build_graph(rng.integers(0, USERS, edges), USERS + rng.integers(0, ITEMS, edges), USERS + ITEMS, "cpu")


def field(layers: int = 3, seed: int = 0) -> Field:
    """A market whose users and items lie scattered among the nodes of a larger graph."""
    features = torch.randn(USERS + ITEMS, DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return Field(graph(seed), features, np.array([7, 3, 11]), USERS + np.array([4, 0, 9, 20]), layers)


def filled(student: Prompted, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator).requires_grad_()
        for name, value in student.initial(generator).items()
    }


def shapes(layers: int) -> list[PromptShape]:
    sizes = itertools.product((3, 20), (1, 2), {1, max(layers, 1)}, (False, True))
    return [PromptShape(m, DIMENSIONS, sets, prompted, bias) for m, sets, prompted, bias in sizes]


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
def test_fast_propagation_and_its_gradient_equal_the_naive_ones(layers: int) -> None:
    for shape in shapes(layers):
        student = Prompted(field(layers), shape, "glorot")
        parameters = filled(student)
        found = []
        for way in ("fast", "naive"):
            tables = student.tables(parameters, way)
            gradients = torch.autograd.grad(tables.square().sum(), list(parameters.values()))
            found.append([tables.detach(), *gradients])
        for fast, naive in zip(*found, strict=True):
            assert torch.allclose(fast, naive, rtol=1e-4, atol=1e-4 * float(naive.abs().max())), shape


def test_zero_prompts_are_the_backbone_on_the_same_graph() -> None:
    where = field()
    student = Prompted(where, PromptShape(5, DIMENSIONS), "zero")
    backbone = where.graph.mean_layers(where.features, 3)[where.nodes]
    assert torch.equal(student.tables(student.initial(torch.Generator().manual_seed(0))), backbone)


def test_unfrozen_features_begin_at_the_backbone_and_move_like_features() -> None:
    student = Unfrozen(field())
    parameters = student.initial(torch.Generator())
    assert torch.equal(student.tables(parameters), student.frozen)
    moved = {"shift": torch.randn(7, DIMENSIONS)}
    assert torch.allclose(student.tables(moved), student.tables(moved, "naive"), atol=1e-6)


def test_the_neighbourhood_leaves_out_only_what_cannot_matter() -> None:
    where = field()
    inner = neighbourhood(where.graph, where.nodes.numpy(), 1)
    assert inner.n_nodes < where.graph.n_nodes, "nothing was left out: the test proves nothing"
    change = torch.randn(7, 4)
    whole = torch.zeros(where.graph.n_nodes, 4).index_copy(0, where.nodes, change)
    padded = torch.cat([change, torch.zeros(inner.n_nodes - 7, 4)])
    expected = where.graph.mean_layers(whole, 3)[where.nodes]
    assert torch.allclose(inner.mean_layers(padded, 3)[:7], expected, atol=1e-6)
    too_small = neighbourhood(where.graph, where.nodes.numpy(), 0)
    assert not torch.allclose(too_small.mean_layers(padded[:7], 3)[:7], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (PromptShape(20, 64), 2560),
        (PromptShape(20, 64, bias=True), 2580),
        (PromptShape(20, 64, sets=2), 5120),
        (PromptShape(5, 64), 640),
        (PromptShape(20, 64, layers=3), 7680),
    ],
)
def test_parameter_counts(shape: PromptShape, count: int) -> None:
    parameters = initial(shape, "zero", torch.Generator().manual_seed(0))
    assert sum(value.numel() for value in parameters.values()) == shape.count == count


def test_attention_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    parameters = {"attention": torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]), "basis": torch.eye(2)[None, None]}
    e = float(np.e)
    expected = torch.tensor([[e / (e + 1), 1 / (e + 1)], [1 / (1 + e * e), e * e / (1 + e * e)]])
    assert torch.allclose(attention(features, parameters, 0, 1), expected)
    parameters["bias"] = torch.tensor([[[0.0, 1.0]]])
    assert torch.allclose(attention(features, parameters, 0, 1)[0], torch.tensor([0.5, 0.5]))


def test_two_sets_keep_users_and_items_apart() -> None:
    weights = attention(torch.randn(5, 4), initial(PromptShape(3, 4, 2), "zero", torch.Generator()), 0, 2)
    assert weights.shape == (5, 6)
    assert (weights[:2, 3:] == 0).all()
    assert (weights[2:, :3] == 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(5))


def test_attention_that_tells_nodes_apart_has_low_entropy_and_spread_prompts() -> None:
    features = 50 * torch.eye(3)
    apart = {"attention": torch.eye(3)[None, None], "basis": torch.eye(3)[None, None]}
    alike = {"attention": torch.zeros(1, 1, 3, 3), "basis": torch.eye(3)[None, None]}
    assert describe(features, apart, 1)["attention entropy"] == pytest.approx(0, abs=1e-4)
    assert describe(features, apart, 1)["centred prompt norm"] == pytest.approx(np.sqrt(2 / 3), abs=1e-4)
    assert describe(features, alike, 1) == {
        "attention entropy": pytest.approx(1), "centred prompt norm": pytest.approx(0, abs=1e-6)
    }  # fmt: skip


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_a_users_vector_is_the_sum_of_its_explanation(layers: int) -> None:
    where = field(layers)
    # The market's users must have no neighbours outside it, as in a graph of train pairs.
    user, item = np.array([7, 7, 3, 11, 20]), USERS + np.array([4, 9, 0, 20, 4])
    where = Field(build_graph(user, item, USERS + ITEMS, "cpu"), where.features, where.users, where.items, layers)
    student = Prompted(where, PromptShape(3, DIMENSIONS, 2, max(layers, 1)), "glorot")
    parameters = filled(student)
    factors = assemble(where, student, parameters, ParameterCount(), {})
    tables = student.tables(parameters).detach().numpy()
    assert np.allclose(factors.user, tables[:3], atol=1e-5)
    assert np.allclose(factors.item, tables[3:], atol=1e-5)
    assert factors.user_base is not None
    assert factors.item_message is not None
    local = {0: [0, 2], 1: [1], 2: [3]}
    for at, items in local.items():
        rebuilt = factors.user_base[at] + factors.item_message[items].sum(0) / np.sqrt(len(items))
        assert np.allclose(rebuilt, factors.user[at], atol=1e-5)
    assert np.allclose(factors.user_plain, student.frozen[:3], atol=1e-5)


def test_a_stored_student_says_how_much_each_node_takes_of_each_prompt() -> None:
    fitted = fit()
    assert fitted.user_attention is not None
    assert fitted.item_attention is not None
    for shares, rows in ((fitted.user_attention, fitted.user), (fitted.item_attention, fitted.item)):
        assert shares.shape == (len(rows), SMALL["prompts"])
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
