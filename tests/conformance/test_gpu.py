"""What every registered method keeps on a GPU: the same answers as on the CPU, within a tolerance.

Generators of the two draw different numbers, so trained arrays differ; what must agree is the answer of training, the
arrays of methods that draw nothing, and the scores of equal weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmr_core.evaluation.evaluate import Judge
from cmr_core.experiment import torch_device
from cmr_core.interfaces import Run
from cmr_core.models.acmr import ACMRConfig, Stage
from cmr_core.models.acmr_network import Reader, Sized
from cmr_core.models.neural import NeuralScorer
from cmr_core.models.pointwise import Rows, bce
from cmr_core.models.registry import MethodInfo, load
from cmr_core.models.towers import Noise
from cmr_core.spec import EvalSpec
from cmr_core.training.checkpoint import Position, adam, pack, unpack
from cmr_core.training.monitor import QuietMonitor
from cmr_core.training.replay import Replayed
from tests.conformance.board import SIZE, SOURCES, TARGET, Fits, fit
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


def test_recorded_steps_are_the_steps(fits: Fits) -> None:
    run = Run(0, GPU, Judge(fits.split, EvalSpec()), QuietMonitor())
    config = ACMRConfig(dimensions=16, heads=2, layers=2, batch_size=128)

    def after(replayed: bool) -> dict[str, torch.Tensor]:
        stage = Stage(config, fits.split.task(TARGET, SOURCES), run)
        generator = stage.fresh()
        model = adam(stage.initial(generator), 1e-3, generator)
        reader = Reader(stage.histories, 2, Noise(0.3, generator), with_candidate=False)
        rows = Rows(stage.layout, 4, GPU)

        def plain(batch: Sized) -> torch.Tensor:
            loss = bce(reader.logits(model.parameters, batch))
            model.optimizer.zero_grad()
            loss.backward()
            model.optimizer.step()
            return loss.detach()

        step = Replayed(plain, model) if replayed else plain
        losses: list[torch.Tensor] = []
        for epoch in range(4):
            losses += [step(batch) for batch in reader.arrange(rows.batches(1024, generator), 128, generator)]
            if epoch == 2:  # as a checkpoint that is taken up does
                unpack(model, pack(model, Position()))
        if isinstance(step, Replayed):
            assert len(losses) > 2 * len(step._records) > 0  # most of them were replayed
        return {**model.parameters, "losses": torch.stack(losses)}

    one, other = after(False), after(True)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


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
