"""WRD and AMRDD against cases worked by hand, naive loops and the identities they rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.models.distillation import (
    decoupled_kl,
    exact_ranks,
    list_kl,
    log_preferences,
    market_weights,
    ranks_needed,
    sampled_ranks,
    soft_ranks,
    wrd,
    wrd_weights,
)
from cmr_core.models.histories import History, draw_lists


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def case(seed: int, users: int = 5, items: int = 17) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores with ties, blocked items, and two items per user that are not blocked."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 5, (users, items), generator=generator).float()
    blocked = torch.rand(users, items, generator=generator) < 0.3
    blocked[:, :2] = False
    return scores, blocked, torch.tensor([[0, 1]] * users)


def test_wrd_weights_worked_by_hand() -> None:
    # lambda 2, mu 0.5; the student ranks the teacher's first item 3rd and its second item 2nd.
    first = math.exp(-1 / 2) * sigmoid(0.5 * (3 - 1))
    second = math.exp(-2 / 2) * sigmoid(0.5 * (2 - 2))
    found = wrd_weights(torch.tensor([[3.0, 2.0]]), torch.ones(1, 2), position=2, deviation=0.5, log_scale=False)
    assert found[0].tolist() == pytest.approx([first / (first + second), second / (first + second)], abs=1e-6)
    assert found[0].tolist() == pytest.approx([0.7068, 0.2932], abs=1e-4)


def test_wrd_weights_on_log_ranks() -> None:
    first = math.exp(-1 / 2) * sigmoid(0.5 * math.log(100))
    second = math.exp(-2 / 2) * sigmoid(0.5 * math.log(8 / 2))
    found = wrd_weights(torch.tensor([[100.0, 8.0]]), torch.ones(1, 2), position=2, deviation=0.5, log_scale=True)
    assert found[0, 0].item() == pytest.approx(first / (first + second), abs=1e-6)


def test_wrd_of_a_list_that_is_too_short_ignores_the_missing_places() -> None:
    ranks = torch.tensor([[3.0, 2.0, 9.0]])
    rule = {"position": 2.0, "deviation": 0.5, "log_scale": False}
    full = wrd_weights(ranks[:, :2], torch.ones(1, 2), **rule)
    short = wrd_weights(ranks, torch.tensor([[True, True, False]]), **rule)
    assert short[0].tolist() == pytest.approx([*full[0].tolist(), 0])
    assert wrd_weights(ranks, torch.zeros(1, 3), **rule).sum() == 0


def test_wrd_worked_by_hand() -> None:
    loss = wrd(torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    first = 0.25 * math.log(2) + 0.75 * -math.log(sigmoid(2))
    assert loss.item() == pytest.approx((first - math.log(sigmoid(1))) / 2, abs=1e-6)


def test_wrd_only_attracts() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    wrd(scores, torch.full((2, 3), 1 / 3)).backward()
    assert scores.grad is not None
    assert (scores.grad < 0).all()


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_exact_ranks_equal_counting(seed: int) -> None:
    scores, blocked, chosen = case(seed)
    naive = [
        [1 + sum(bool(s > row[c]) and not b for s, b in zip(row, barred, strict=True)) for c in picks]
        for row, barred, picks in zip(scores, blocked, chosen, strict=True)
    ]
    assert exact_ranks(scores, blocked, chosen).tolist() == naive


def test_ranks_beyond_what_the_weights_can_tell_apart_are_not_needed() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 900, generator=generator)
    blocked = torch.rand(4, 900, generator=generator) < 0.2
    chosen = scores.masked_fill(blocked, -torch.inf).argsort(dim=1, descending=True)[:, :640:32].contiguous()
    upto = ranks_needed(20, 0.1)
    assert upto == 200
    whole, near = exact_ranks(scores, blocked, chosen), exact_ranks(scores, blocked, chosen, upto)
    assert torch.equal(near, whole.clamp(max=201))
    assert (whole > 201).any()
    rule = {"position": 10.0, "deviation": 0.1, "log_scale": False}
    present = torch.ones_like(near)
    assert torch.equal(wrd_weights(near, present, **rule), wrd_weights(whole, present, **rule))
    assert ranks_needed(20, 0.0) is None


def test_ranks_of_the_whole_catalogue_as_a_sample_are_exact() -> None:
    scores, blocked, chosen = case(3)
    scores = scores + torch.arange(17) * 1e-3  # no ties
    everything = torch.arange(17).expand(5, 17)
    exact, rest = exact_ranks(scores, blocked, chosen), (~blocked).sum(1, keepdim=True)
    share = (exact - 1) / rest
    assert torch.allclose(sampled_ranks(scores, blocked, chosen, everything), 1 + share * (rest - 1))


def test_soft_ranks_approach_exact_ones_and_carry_a_gradient() -> None:
    scores, blocked, chosen = case(4)
    scores = ((scores + torch.arange(17) * 0.01) * 1e4).requires_grad_()
    soft = soft_ranks(scores, blocked, chosen)
    assert torch.allclose(soft, exact_ranks(scores, blocked, chosen), atol=1e-3)
    gentle = soft_ranks(scores * 1e-4, blocked, chosen)
    gentle.sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0


@given(st.integers(0, 10_000), st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_decoupled_divergence_is_the_whole_lists(seed: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (3 * torch.randn(4, length, generator=generator, dtype=torch.float64) for _ in range(2))
    absent = torch.zeros_like(teacher, dtype=torch.bool)
    log_teacher, log_student = log_preferences(teacher, absent), log_preferences(student, absent)
    whole = list_kl(log_teacher, log_student, absent)
    assert torch.allclose(whole, decoupled_kl(log_teacher.exp(), log_student.exp()), atol=1e-6)


def test_absent_entries_are_as_if_the_list_were_shorter() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(3, 6), torch.randn(3, 6, requires_grad=True)
    absent = torch.zeros(3, 6, dtype=torch.bool)
    absent[:, 4:] = True
    long = list_kl(log_preferences(teacher, absent), log_preferences(student, absent), absent)
    kept = absent[:, :4]
    short = list_kl(log_preferences(teacher[:, :4], kept), log_preferences(student[:, :4], kept), kept)
    assert torch.allclose(long, short)
    long.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert (student.grad[:, 4:] == 0).all()


def test_equal_preferences_diverge_by_nothing_at_any_temperature() -> None:
    scores, absent = torch.randn(3, 5), torch.zeros(3, 5, dtype=torch.bool)
    same = log_preferences(scores, absent, 3)
    assert list_kl(same, log_preferences(scores + 7, absent, 3), absent).abs().max() < 1e-6


def test_market_weights_worked_by_hand() -> None:
    # |0.5 - 0.5| = 0, |0.9 - 0.4| = 0.5, |0.1 - 0.4| = 0.3
    student, teacher = torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0.5, 0.4, 0.4])
    total = 1 + math.exp(-0.5) + math.exp(-0.3)
    found = market_weights(student, teacher, temperature=1, gradient=False)
    assert found.tolist() == pytest.approx([1 / total, math.exp(-0.5) / total, math.exp(-0.3) / total], abs=1e-6)
    assert found.tolist() == pytest.approx([0.4260, 0.2584, 0.3156], abs=1e-4)
    sharp = market_weights(student, teacher, temperature=0.1, gradient=False)
    assert sharp[0] > 0.9


def test_market_weights_are_constants_unless_asked() -> None:
    student, teacher = torch.tensor([0.5, 0.9], requires_grad=True), torch.tensor([0.4, 0.4])
    assert not market_weights(student, teacher, temperature=1, gradient=False).requires_grad
    market_weights(student, teacher, temperature=1, gradient=True)[0].backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_lists_hold_one_positive_and_different_unseen_items() -> None:
    generator = torch.Generator().manual_seed(0)
    history = History(np.array([0, 0, 1, 2, 2]), np.array([0, 5, 3, 1, 7]), 3, 30, "cpu")
    users, pool = torch.tensor([0, 1, 2] * 50), torch.arange(0, 30, 2)
    positive, mask = history.any_one(users, generator), history.mask(users)
    items, absent = draw_lists(pool, positive, 8, mask, generator)
    assert (items[:, 0] == positive).all()
    assert not absent[:, 0].any()
    for row, gone, had in zip(items, absent, mask, strict=True):
        negatives = row[1:][~gone[1:]]
        assert len(negatives.unique()) == len(negatives)
        assert set(negatives.tolist()) <= set(pool.tolist())
        assert not had[negatives].any()


def test_lists_beyond_the_pool_stay_empty_and_items_come_up_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    pool, users = torch.tensor([2, 4, 6]), 3000
    mask = torch.zeros(users, 8, dtype=torch.bool)
    positive = torch.full((users,), 7)
    _, absent = draw_lists(pool, positive, 6, mask, generator)
    assert (~absent).sum(1).tolist() == [4] * users
    one, _ = draw_lists(pool, positive, 2, mask, generator)
    counts = torch.bincount(one[:, 1], minlength=8)
    assert counts[[2, 4, 6]].min() > 900


def test_histories_list_each_pair_once() -> None:
    history = History(np.array([2, 0, 2, 0]), np.array([1, 3, 1, 0]), 4, 5, "cpu")
    row, item = history.pairs(torch.tensor([2, 3, 0]))
    assert row.tolist() == [0, 2, 2]
    assert item.tolist() == [1, 0, 3]
    assert history.length.tolist() == [2, 0, 1, 0]
    assert history.mask(torch.tensor([0])).nonzero().tolist() == [[0, 0], [0, 3]]
