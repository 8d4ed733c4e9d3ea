"""The step of `fit_steps`: the bound on the gradient by hand and by PyTorch, and who asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.models.pointwise import Steps, fit_steps
from cmr_core.models.registry import get
from tests.conformance.board import SOURCES, TARGET, Rising, checkerboard
from tests.core.tiny_markets import Blind, start

RATE, SLOPES = 0.1, (100.0, 0.5)


def loss_of(parameters: dict[str, torch.Tensor], slope: float) -> torch.Tensor:
    """Its gradient is (3, 4) * slope, of norm 5 * slope."""
    return slope * (3 * parameters["a"] + 4 * parameters["b"]).sum()


def zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1, requires_grad=True) for name in ("a", "b")}


def fitted(clip: float | None) -> list[float]:
    parameters, generator = zeros(), torch.Generator()
    steps = Steps(learning_rate=RATE, weight_decay=0, batch_size=1, epochs=1, eval_every=1, patience=1)

    def batches() -> Iterator[float]:
        return iter(SLOPES)

    arrays = fit_steps(
        "stage",
        parameters,
        batches,
        lambda slope: loss_of(parameters, slope),
        lambda: float("nan"),
        generator,
        steps,
        start(judge=Blind()),
        clip=clip,
    )
    return [arrays[name].item() for name in ("a", "b")]


def by_hand(first: float, second: float) -> float:
    """Where two steps of Adam lead, on gradients in these proportions: the first step is of length RATE."""
    mean = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
    square = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    return -RATE * (1 + mean / square**0.5)


def by_torch(clip: float | None) -> list[float]:
    parameters = zeros()
    optimizer = torch.optim.Adam(parameters.values(), lr=RATE)
    for slope in SLOPES:
        optimizer.zero_grad()
        loss_of(parameters, slope).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
    return [parameters[name].item() for name in ("a", "b")]


@pytest.mark.parametrize(("clip", "kept"), [(5.0, 1.0), (1.0, 0.2), (None, 100.0), (1e6, 100.0)])
def test_a_gradient_longer_than_the_bound_is_cut_to_it_and_a_shorter_one_is_left(
    clip: float | None, kept: float
) -> None:
    """`kept`: the slope that is left of the first batch's 100. The second's gradient has the norm 2.5."""
    second = min(0.5, kept)
    assert fitted(clip) == pytest.approx([by_hand(kept, second)] * 2, rel=1e-5)
    assert fitted(clip) == pytest.approx(by_torch(clip), rel=1e-6)


@pytest.mark.parametrize(("name", "published"), [("conet", 10.0), ("bert4rec", 5.0), ("bert4rec-all", 5.0)])
def test_methods_bound_their_steps_as_their_setting_says(
    name: str, published: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    clip_of_torch = torch.nn.utils.clip_grad_norm_

    def noting(values: Any, most: float) -> torch.Tensor:
        seen.append(most)
        return clip_of_torch(values, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noting)

    def learned(**settings: float) -> dict[str, np.ndarray]:
        run = start(judge=Rising())
        sizes = {"dimensions": 8, "epochs": 2, "batch_size": 64}
        return get(name).create({**sizes, **settings}).fit(checkerboard().task(TARGET, SOURCES), run).arrays()

    usual = learned()
    assert set(seen) == {published}
    seen.clear()
    tight = learned(clip=0.01)
    assert set(seen) == {0.01}
    assert any(not np.array_equal(value, tight[key]) for key, value in usual.items())
