"""The gradients of GMF, MLP and NeuMF that are written out are those that PyTorch finds."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from cmr_core.models.ncf import Sizes, gmf, gmf_start, mlp, mlp_start, neumf, neumf_start
from cmr_core.models.ncf_gradient import Kind, loss_and_gradients
from cmr_core.models.pointwise import bce
from cmr_core.models.towers import Parameters

NETWORKS = {"gmf": (gmf_start, gmf), "mlp": (mlp_start, mlp), "neumf": (neumf_start, neumf)}
USERS, ITEMS, MARKETS, PAIRS, NEGATIVES = 20, 30, 3, 70, 3


def weights_of(kind: Kind, dimensions: int, *, aware: bool) -> Parameters:
    generator = torch.Generator().manual_seed(0)
    sizes = Sizes(users=USERS, items=ITEMS, dimensions=dimensions, units=64)
    found = NETWORKS[kind][0](sizes, generator)
    if aware:
        shape = (MARKETS, dimensions)
        found |= {f"market.{name[5:]}": torch.rand(shape, generator=generator) for name in found if name[:4] == "user"}
    # larger vectors than at the start, so that ReLU has something to do, and biases other than 0
    moved = {
        name: 20 * value.detach() + 0.1 * torch.randn(value.shape, generator=generator) for name, value in found.items()
    }
    return {name: value.double().requires_grad_() for name, value in moved.items()}


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("dimensions", [8, 12])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_gradients_are_those_of_pytorch(kind: Kind, dimensions: int, aware: bool) -> None:
    weights = weights_of(kind, dimensions, aware=aware)
    user, market = torch.randint(USERS, (PAIRS,)), torch.randint(MARKETS, (PAIRS,))
    item = torch.randint(ITEMS, (PAIRS, 1 + NEGATIVES))
    expected = bce(NETWORKS[kind][1](weights, user[:, None], item, market[:, None] if aware else None))
    expected.backward()  # type: ignore[no-untyped-call]
    branches = sorted(name[5:] for name in weights if name.startswith("user."))
    sides = [[weights[f"{side}.{branch}"] for branch in branches] for side in ("user", "item")]
    table = torch.cat([torch.cat([value.detach() for value in side], dim=1) for side in sides])
    slopes = torch.cat([torch.cat([value.grad for value in side if value.grad is not None], dim=1) for side in sides])
    plain = {name: value.detach() for name, value in weights.items()}
    rows = torch.cat([user, item.t().flatten() + USERS])
    loss, slope, others = loss_and_gradients(kind, plain, table[rows], PAIRS, market if aware else None)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(torch.zeros_like(table).index_add_(0, rows, slope), slopes)
    assert others.keys() == {name for name in weights if name[:5] not in ("user.", "item.")}
    for name, found in others.items():
        torch.testing.assert_close(found, weights[name].grad)
