"""Entries of a product and their gradient against torch's own, where the backward is sparse and where it is dense."""

from __future__ import annotations

import pytest
import torch

from cmr_core.models import scores as module
from cmr_core.models.scores import Scores


def vectors(users: int, items: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 4, generator=generator, dtype=torch.float64).requires_grad_() for n in (users, items))  # type: ignore[return-value]


@pytest.mark.parametrize("per_entry", [0, 10**9], ids=["sparse", "dense"])
def test_entries_and_their_gradient_equal_the_dense_products(per_entry: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_SPARSE", per_entry)
    user, item = vectors(3, 7)
    start = torch.tensor([0, 2, 2, 5])  # the second user reads nothing; the third reads an item twice
    items = torch.tensor([6, 0, 3, 3, 1])
    lists = torch.tensor([[0, 1], [5, 5], [2, 6]])

    def loss(scores: torch.Tensor, listed: torch.Tensor) -> torch.Tensor:
        return (scores.sin() * torch.arange(1, 6)).sum() + listed.square().prod(1).sum()

    found = Scores.of(user, item)
    got = torch.autograd.grad(loss(found.pairs(start, items), found.at(lists)), [user, item])
    whole = found.whole()
    rows = torch.tensor([0, 0, 2, 2, 2])
    expected = torch.autograd.grad(loss(whole[rows, items], whole.gather(1, lists)), [user, item])
    assert torch.equal(found.pairs(start, items), whole[rows, items])
    assert not found.table.requires_grad
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_no_entries_have_no_gradient() -> None:
    user, item = vectors(2, 3)
    empty = torch.zeros(0, dtype=torch.int64)
    found = Scores.of(user, item).pairs(torch.zeros(3, dtype=torch.int64), empty)
    assert found.shape == (0,)
    assert all((g == 0).all() for g in torch.autograd.grad(found.sum(), [user, item]))
