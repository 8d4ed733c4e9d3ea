"""Networks as stored models: the same scores in blocks, in lists, after a round trip, and as the judge asks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmr_core.data.sampling import sample_candidates
from cmr_core.errors import IntegrityError
from cmr_core.evaluation.evaluate import Judge, evaluate
from cmr_core.interfaces import ListScoring, ParameterCount
from cmr_core.models.base import rebuild, shape_of
from cmr_core.models.neural import NeuralScorer, Tensors, network, score_pairs
from cmr_core.models.towers import apply_linear, apply_pair, apply_tower, dropout, linear, tower
from cmr_core.models.transformer import apply_layer, attend, attention, layer
from cmr_core.spec import EvalSpec
from tests.conformance.board import TARGET, checkerboard

GENERATOR = torch.Generator().manual_seed(3)
ASKED: list[tuple[int, ...]] = []


@network("dear-sum", costly=True, cells=50)
def dear_sum(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    ASKED.append(tuple((user + item).shape))
    return weights["user.a"][user] * weights["item.b"][item] + weights["item.c"][item]


@network("cheap-sum")
def cheap_sum(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    return weights["user.a"][user] * weights["item.b"][item] + weights["item.c"][item]


def scorer(name: str, users: int = 30, items: int = 30) -> NeuralScorer:
    draw = np.random.default_rng(5)
    weights = {
        "user.a": draw.normal(size=users).astype(np.float32),
        "item.b": draw.normal(size=items).astype(np.float32),
        "item.c": draw.normal(size=items).astype(np.float32),
    }
    return NeuralScorer(ParameterCount(trainable=3), name, weights, items)


def test_blocks_and_lists_give_the_scores_of_the_formula() -> None:
    fitted = scorer("dear-sum", users=7, items=130)
    w = fitted.weights
    whole = w["user.a"][:, None] * w["item.b"] + w["item.c"]
    users = np.array([6, 0, 0, 3])
    np.testing.assert_allclose(fitted.score(users), whole[users], rtol=1e-6)
    items = np.array([[1, 2], [3, 4], [129, 0], [7, 7]])
    np.testing.assert_allclose(fitted.listed(users, items), np.take_along_axis(whole[users], items, 1), rtol=1e-6)
    one = score_pairs("dear-sum", {n: torch.from_numpy(a) for n, a in w.items()}, users[:1], items[:1], "cpu")
    np.testing.assert_allclose(one[0], whole[6, [1, 2]], rtol=1e-6)


def test_a_stored_network_comes_back_and_an_unknown_one_is_refused() -> None:
    fitted = scorer("cheap-sum")
    arrays = fitted.arrays()
    again = rebuild(shape_of(fitted), arrays, fitted.parameters, {})
    np.testing.assert_array_equal(again.score(np.arange(30)), fitted.score(np.arange(30)))
    strange = {**arrays, "network": np.frombuffer(b"no-such", dtype=np.uint8)}
    with pytest.raises(IntegrityError, match="no-such"):
        rebuild("neural", strange, fitted.parameters, {})
    with pytest.raises(IntegrityError, match="incomplete"):
        rebuild("neural", {"user.a": arrays["user.a"]}, fitted.parameters, {})


def test_a_costly_network_is_asked_about_listed_candidates_only_and_gets_the_same_ranks() -> None:
    split, spec = checkerboard(), EvalSpec(candidates="sampled-market", negatives=9)
    dear, cheap = scorer("dear-sum"), scorer("cheap-sum")
    assert isinstance(dear, ListScoring)
    ASKED.clear()
    judge = Judge(split, spec)
    assert judge(TARGET, dear) == pytest.approx(judge(TARGET, cheap.score), abs=1e-12)
    assert ASKED
    assert all(shape[1] <= 10 for shape in ASKED), "a catalogue has 30 items, a list 10"
    for part in ("valid", "test"):
        drawn = sample_candidates(split, TARGET, part, spec)
        one = evaluate(dear, split.markets[TARGET], part, spec, drawn)
        other = evaluate(cheap.score, split.markets[TARGET], part, spec, drawn)
        np.testing.assert_array_equal(one.held_rank, other.held_rank)
        np.testing.assert_array_equal(one.top_items, other.top_items)
        assert one.means() == other.means()


def test_without_top_lists_every_network_is_asked_about_listed_candidates_only() -> None:
    split, spec = checkerboard(), EvalSpec(candidates="sampled-market", negatives=9)
    cheap = scorer("cheap-sum")
    drawn = sample_candidates(split, TARGET, "valid", spec)
    whole = evaluate(cheap, split.markets[TARGET], "valid", spec, drawn)
    asked: list[tuple[int, ...]] = []

    class Asked:
        costly = False

        def __call__(self, users: np.ndarray) -> np.ndarray:
            raise AssertionError("nobody needs a catalogue")

        def listed(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
            asked.append(items.shape)
            return cheap.listed(users, items)

    short = evaluate(Asked(), split.markets[TARGET], "valid", spec, drawn, lists=0)
    assert asked
    assert all(width <= 10 for _, width in asked), "a list has 10 items"
    np.testing.assert_array_equal(short.held_rank, whole.held_rank)
    assert short.means() == {name: value for name, value in whole.means().items() if name not in whole.overall}
    assert (len(short.top_users), short.top_items.size, short.overall) == (0, 0, {})
    assert whole.overall


def test_a_judge_asks_the_same_few_users_each_time() -> None:
    judge, cheap = Judge(checkerboard(), EvalSpec()), scorer("cheap-sum")
    asked: list[np.ndarray] = []

    def score(users: np.ndarray) -> np.ndarray:
        asked.append(users)
        return cheap.score(users)

    assert judge(TARGET, score, users=7) == judge(TARGET, score, users=7)
    assert [len(users) for users in asked] == [7, 7]
    np.testing.assert_array_equal(asked[0], asked[1])
    assert judge(TARGET, cheap, users=10_000) == judge(TARGET, cheap)


def test_a_first_layer_in_two_parts_is_the_whole_layer() -> None:
    weights = linear("first", 6, 5, GENERATOR)
    user, item = torch.randn(3, 1, 2, generator=GENERATOR), torch.randn(1, 4, 4, generator=GENERATOR)
    whole = apply_linear(weights, "first", torch.cat([user.expand(3, 4, 2), item.expand(3, 4, 4)], dim=2))
    torch.testing.assert_close(apply_pair(weights, "first", user, item), whole)


def test_a_tower_is_its_layers() -> None:
    weights = tower("t", (4, 3, 1), GENERATOR)
    x = torch.randn(5, 4, generator=GENERATOR)
    hidden = torch.relu(x @ weights["t.0.weight"].T + weights["t.0.bias"])
    expected = hidden @ weights["t.1.weight"].T + weights["t.1.bias"]
    torch.testing.assert_close(apply_tower(weights, "t", x, last_relu=False), expected)
    torch.testing.assert_close(apply_tower(weights, "t", x), torch.relu(expected))


def test_dropout_keeps_the_mean_and_is_off_without_a_generator() -> None:
    x = torch.ones(100_000)
    dropped = dropout(x, 0.3, GENERATOR)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropout(x, 0.3, None) is x


def test_a_transformer_layer_has_the_stated_size_and_ignores_absent_places() -> None:
    weights = layer("l", 8, 32, GENERATOR)
    assert sum(value.numel() for value in weights.values()) == 12 * 8**2 + 13 * 8
    x = torch.randn(2, 5, 8, generator=GENERATOR)
    absent = torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    changed = x.clone()
    changed[0, 3:] = 99
    one, other = (apply_layer(weights, "l", value, absent, 2) for value in (x, changed))
    torch.testing.assert_close(one[0, :3], other[0, :3])
    torch.testing.assert_close(one[1], other[1])
    alone = apply_layer(weights, "l", x[:1, :3], None, 2)
    torch.testing.assert_close(one[:1, :3], alone)


def test_attention_by_hand_is_torchs() -> None:
    query, key, value = (torch.randn(2, 2, 5, 4, generator=GENERATOR) for _ in range(3))
    absent = torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    weights = attention(query, key, absent)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 5))
    torch.testing.assert_close(weights @ value, attend(query, key, value, absent))
