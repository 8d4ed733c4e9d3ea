"""Adam on tables: they end where `torch.optim.Adam` brings them, and resume with the same bits."""

from __future__ import annotations

import pytest
import torch

from cmr_core.training.checkpoint import Position, Trainable, pack, unpack
from cmr_core.training.table_adam import TableAdam

USERS, ITEMS, WIDTH, RATE = 40, 60, 3, 1e-2
Parameters = dict[str, torch.Tensor]


def start(dtype: torch.dtype) -> Parameters:
    generator = torch.Generator().manual_seed(1)
    shapes = {f"{side}.{branch}": (n, WIDTH) for side, n in (("user", USERS), ("item", ITEMS)) for branch in "ba"}
    shapes["out"] = (2, 5)
    return {name: 0.1 * torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def drawn(step: int, size: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, some of them twice and some seldom or never, and gradients of them and of `out`."""
    generator = torch.Generator().manual_seed(100 + step)
    rows = (torch.rand(12, generator=generator) ** 4 * (USERS + ITEMS)).long()
    slope = size * torch.randn(12, 2 * WIDTH, generator=generator, dtype=dtype)
    return rows, slope, size * torch.randn(2, 5, generator=generator, dtype=dtype)


def by_torch(steps: int, size: float, dtype: torch.dtype, weight_decay: float = 0.0) -> Parameters:
    found = {name: value.requires_grad_() for name, value in start(dtype).items()}
    optimizer = torch.optim.Adam(found.values(), lr=RATE, weight_decay=weight_decay)
    for step in range(steps):
        rows, slope, out = drawn(step, size, dtype)
        whole = torch.zeros(USERS + ITEMS, 2 * WIDTH, dtype=dtype).index_add_(0, rows, slope)
        for side, part in (("user", whole[:USERS]), ("item", whole[USERS:])):
            found[f"{side}.a"].grad, found[f"{side}.b"].grad = part[:, :WIDTH].clone(), part[:, WIDTH:].clone()
        found["out"].grad = out
        optimizer.step()
    return {name: value.detach() for name, value in found.items()}


def go(tables: TableAdam, steps: range, size: float, dtype: torch.dtype) -> None:
    for step in steps:
        rows, slope, out = drawn(step, size, dtype)
        tables.read(rows)
        tables.update(slope, {"out": out})


def apart(one: Parameters, other: Parameters) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("size", [1e-2, 1e-8])  # Adam's eps is 1e-8
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_it_is_adam_up_to_rounding(size: float, weight_decay: float) -> None:
    tables = TableAdam(start(torch.float64), RATE, weight_decay=weight_decay)
    go(tables, range(50), size, torch.float64)
    assert apart(tables.parameters, by_torch(50, size, torch.float64, weight_decay)) < 1e-12


def test_an_interrupted_training_goes_on_with_the_same_bits() -> None:
    def model() -> Trainable:
        tables = TableAdam(start(torch.float32), RATE)
        return Trainable(tables.parameters, tables, torch.Generator())

    whole, first, second = model(), model(), model()
    for one, steps in ((whole, (range(100), range(100, 250))), (first, (range(100),))):
        for some in steps:
            go(one.optimizer, some, 1e-5, torch.float32)  # type: ignore[arg-type]
    unpack(second, pack(first, Position(epoch=1)))
    go(second.optimizer, range(100, 250), 1e-5, torch.float32)  # type: ignore[arg-type]
    kept, expected = pack(second, Position()), pack(whole, Position())
    assert kept.keys() == expected.keys()
    assert all(kept[name].tobytes() == expected[name].tobytes() for name in kept)


def test_an_update_without_a_read_is_refused() -> None:
    tables = TableAdam(start(torch.float32), RATE)
    with pytest.raises(RuntimeError, match="read"):
        tables.update(torch.zeros(1, 2 * WIDTH), {})
