"""DCMPT end to end on tiny markets: what is trained, what is not, and what its numbers depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.data.split import Split
from cmr_core.errors import Cancelled
from cmr_core.models.adaptation import Adaptation
from cmr_core.models.scores import Scores
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import SPLIT, Blind, Parity, fit, losses, pairs, ready, start


@pytest.mark.parametrize(
    "changes",
    [{}, {"student_graph": "combined"}, {"prompt_layers": "all", "prompt_sets": 2}, {"prompts": 20}],
    ids=["default", "combined", "all-layers", "wide"],
)
def test_fast_and_naive_propagation_draw_the_same_loss_curve(changes: dict[str, Any]) -> None:
    fast, naive = (losses(ready(way, **changes)[0]) for way in ("fast", "naive"))
    assert fast == pytest.approx(naive, abs=1e-5)
    assert fast[-1] < fast[0]


def test_frozen_features_are_bit_identical_after_tuning() -> None:
    adaptation, features = ready()
    before = features.clone()
    trained, parameters = adaptation.fit()
    assert trained.epochs > 0
    assert any(value.abs().sum() > 0 for value in parameters.values())
    assert torch.equal(features, before)
    assert not features.requires_grad


def test_bpr_falls_when_a_positive_rises() -> None:
    adaptation, _ = ready(ablation="no-distillation")
    users = adaptation.users[:5]
    mask = adaptation.history.mask(users).float()
    low, high = (
        adaptation._bpr(users, Scores.of(mask * gap, torch.eye(mask.shape[1])), torch.Generator().manual_seed(0))
        for gap in (0.1, 2.0)
    )
    assert high < low < np.log(2)


def test_zero_prompts_score_like_the_frozen_backbone() -> None:
    for graph in ("target", "combined"):
        frozen = fit(ablation="no-prompt", student_graph=graph)
        untuned = fit(learning_rate=1e-30, student_graph=graph)
        assert np.allclose(frozen.user, untuned.user, atol=1e-6)
        assert np.allclose(frozen.item, untuned.item, atol=1e-6)
        assert untuned.user_plain is not None
        assert np.allclose(untuned.user_plain, untuned.user, atol=1e-6)


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others() -> None:
    first, again, other = fit(), fit(), fit(run=start(seed=1))
    for name, array in first.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    assert not np.allclose(first.user, other.user)


@pytest.mark.parametrize("judge", [Parity(), Blind()], ids=["judged", "unjudged"])
def test_a_resumed_run_ends_in_the_same_arrays(judge: Any) -> None:
    class Interrupted(QuietMonitor):
        def checkpoint(self, stage: str, arrays: dict[str, np.ndarray]) -> None:
            super().checkpoint(stage, arrays)
            if stage == "prompts" and len(self.checkpoints) and int(arrays["position"][0]) == 2:
                raise KeyboardInterrupt

    whole = fit(run=start(judge=judge), **{"prompt_init": "glorot"})
    monitor = Interrupted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmr_core.training.loop.time.monotonic", _hurried())
        with pytest.raises(KeyboardInterrupt):
            fit(run=start(monitor, judge=judge), prompt_init="glorot")
    rest = QuietMonitor()
    rest.checkpoints, rest.store = monitor.checkpoints, monitor.store
    resumed = fit(run=start(rest, judge=judge), prompt_init="glorot")
    assert [p.done for p in rest.progress if p.stage == "prompts"] == [3, 4]
    for name, array in whole.arrays().items():
        assert np.array_equal(array, resumed.arrays()[name]), name


def _hurried() -> Callable[[], float]:
    """A clock on which every look is a minute later, so that each epoch leaves a checkpoint."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 60
        return now

    return monotonic


def test_a_cancel_stops_within_an_epoch_of_tuning() -> None:
    warm = QuietMonitor()
    fit(run=start(warm))
    before = sum(p.stage != "prompts" for p in warm.progress)
    monitor = QuietMonitor(cancel_after=before + 2)
    with pytest.raises(Cancelled):
        fit(run=start(monitor))
    assert [p.done for p in monitor.progress if p.stage == "prompts"] == [0, 1]


def test_validation_and_test_labels_reach_no_trained_weight() -> None:
    uk, rng = SPLIT.markets["uk"], np.random.default_rng(0)
    moved = {
        part: pairs(rng.permutation(rows.user), rows.item) for part, rows in (("valid", uk.valid), ("test", uk.test))
    }
    assert any(not np.array_equal(moved[part].user, getattr(uk, part).user) for part in moved)
    other = Split(SPLIT.spec, SPLIT.corpus_digest, SPLIT.n_items, SPLIT.markets | {"uk": replace(uk, **moved)})
    found = [fit(split.task("uk", ("ca", "de")), start(judge=Blind())) for split in (SPLIT, other)]
    for name, array in found[0].arrays().items():
        assert np.array_equal(array, found[1].arrays()[name]), name


def test_no_held_out_pair_is_an_edge_or_a_training_pair() -> None:
    adaptation, _ = ready()
    uk = SPLIT.markets["uk"]
    matrix = market_edges(adaptation)
    for part in (uk.valid, uk.test):
        held = set(zip(part.user.tolist(), part.item.tolist(), strict=True))
        assert held
        assert not held & matrix
        row, item = adaptation.history.pairs(torch.arange(uk.n_users))
        assert not held & set(zip(row.tolist(), item.tolist(), strict=True))


def market_edges(adaptation: Adaptation) -> set[tuple[int, int]]:
    row, column = adaptation.student.field.graph.matrix.to_dense().nonzero().T.tolist()  # type: ignore[attr-defined]
    n_users = adaptation.student.n_users
    return {(u, i - n_users) for u, i in zip(row, column, strict=True) if u < n_users <= i}


def test_counts_and_details() -> None:
    fitted = fit()
    nodes = sum(m.n_users for m in SPLIT.markets.values()) + SPLIT.n_items
    assert fitted.parameters.trainable == 2 * 3 * 8
    assert fitted.parameters.frozen == nodes * 8
    assert fitted.details["teacher_parameters"] == (13 + 14) * 8
    shares = [fitted.details[f"final weight:{name}"] for name in ("ca", "de")]
    assert sum(float(share) for share in shares) == pytest.approx(1)
    tuned = fit(ablation="no-prompt", no_prompt_as="fine-tuned")
    assert tuned.parameters.trainable == (13 + 14) * 8
    assert tuned.parameters.total == nodes * 8


def test_curves_of_every_loss_and_market_weight_are_reported() -> None:
    monitor = QuietMonitor()
    fit(run=start(monitor))
    curve = [p for p in monitor.progress if p.stage == "prompts"]
    assert [p.done for p in curve] == list(range(len(curve)))
    wanted = {"loss", "bpr", "wrd", "amrdd", "weight:ca", "weight:de", "mean |score|"}
    assert wanted | {"attention entropy", "centred prompt norm", "valid"} <= set(curve[-1].metrics)
