"""What every registered method keeps on a GPU: the same answers as on the CPU, within a tolerance.

Generators of the two draw different numbers, so trained arrays differ; what must agree is the answer of training, the
arrays of methods that draw nothing, and the scores of equal weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmr_core.experiment import torch_device
from cmr_core.models.neural import NeuralScorer
from cmr_core.models.registry import MethodInfo, load
from tests.conformance.board import SIZE, TARGET, Fits, fit
from tests.conformance.test_methods import EVERYBODY, PERSONAL, assert_same

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU and torch's GPU build", allow_module_level=True)

GPU = torch_device("gpu")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # sums in another order, in single precision
METHODS = list(load().values())
every_method = pytest.mark.parametrize("info", METHODS, ids=lambda info: info.name)


@pytest.mark.parametrize("info", PERSONAL, ids=lambda info: info.name)
def test_finds_the_only_right_answer_there_too(info: MethodInfo, fits: Fits) -> None:
    market = fits.split.markets[TARGET]

    def right(seed: int) -> float:
        scores = fit(info, fits.split, seed=seed, epochs=40, device=GPU).score(EVERYBODY).copy()
        for part in (market.train, market.valid):
            scores[part.user, part.item] = -np.inf
        return float((scores.argmax(axis=1) == EVERYBODY).mean())

    # a seed whose validation, on 30 users, stops it early misses some, on a CPU too
    assert any(right(seed) > 0.95 for seed in range(4))


@every_method
def test_same_seed_same_arrays_there_too(info: MethodInfo, fits: Fits) -> None:
    assert_same(fit(info, fits.split, device=GPU), fit(info, fits.split, device=GPU))


@every_method
def test_methods_that_draw_nothing_agree_with_the_cpu(info: MethodInfo, fits: Fits) -> None:
    if info.deterministic:
        there, here = fit(info, fits.split, device=GPU), fits.get(info)[0]
        np.testing.assert_allclose(there.score(EVERYBODY), here.score(EVERYBODY), **CLOSE)


@every_method
def test_equal_weights_score_alike(info: MethodInfo, fits: Fits) -> None:
    here = fits.get(info)[0]
    if isinstance(here, NeuralScorer):
        there = replace(here, device=GPU)
        np.testing.assert_allclose(there.score(EVERYBODY), here.score(EVERYBODY), **CLOSE)
        lists = np.arange(SIZE)[:, None] * [0, 1] + 1
        np.testing.assert_allclose(there.listed(EVERYBODY, lists % SIZE), here.listed(EVERYBODY, lists % SIZE), **CLOSE)
