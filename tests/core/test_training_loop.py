"""The epoch loop: what it keeps, when it stops, and that an interrupted run ends like an uninterrupted one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cmr_core.errors import Cancelled, IntegrityError, TrainingError
from cmr_core.training.checkpoint import Trainable, adam
from cmr_core.training.loop import Schedule, Trained, train, train_along
from cmr_core.training.monitor import QuietMonitor


def make_model(seed: int = 3, size: int = 5) -> Trainable:
    """A noisy regression on one leaf: every epoch draws from the generator."""
    generator = torch.Generator().manual_seed(seed)
    leaf = torch.randn(size, generator=generator).requires_grad_()
    return adam({"leaf": leaf}, 0.05, generator)


def make_epoch(model: Trainable) -> Callable[[], dict[str, float]]:
    leaf = model.parameters["leaf"]

    def epoch() -> dict[str, float]:
        target = torch.randn(leaf.shape, generator=model.generator)
        loss = (leaf - 1 - 0.1 * target).square().sum()
        model.optimizer.zero_grad()
        loss.backward()
        model.optimizer.step()
        return {"loss": float(loss.detach())}

    return epoch


def closeness(model: Trainable) -> Callable[[], float]:
    return lambda: -float((model.parameters["leaf"].detach() - 1).square().sum())


def run(monitor: QuietMonitor, epochs: int = 12, *, checkpoint_seconds: float = 0.0) -> Trained:
    model = make_model()
    schedule = Schedule(epochs, eval_every=2, patience=50, checkpoint_seconds=checkpoint_seconds)
    return train("stage", model, make_epoch(model), closeness(model), monitor, schedule)


@pytest.mark.parametrize("reports", [1, 2, 5, 6, 11, 12])
def test_a_run_interrupted_anywhere_ends_with_the_same_bits(reports: int) -> None:
    whole = run(QuietMonitor())
    monitor = QuietMonitor(cancel_after=reports)
    with pytest.raises(Cancelled):
        run(monitor)
    assert len(monitor.progress) == reports
    monitor.cancel_after = None
    resumed = run(monitor)
    assert resumed.best["leaf"].numpy().tobytes() == whole.best["leaf"].numpy().tobytes()
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)


def test_a_resumed_run_does_only_the_epochs_that_are_left() -> None:
    monitor = QuietMonitor(cancel_after=8)
    with pytest.raises(Cancelled):
        run(monitor)
    monitor.cancel_after = None
    run(monitor)
    assert [progress.done for progress in monitor.progress] == list(range(13))


def test_a_stop_keeps_what_was_done_since_the_last_regular_checkpoint() -> None:
    monitor = QuietMonitor(cancel_after=8)
    with pytest.raises(Cancelled):
        run(monitor, checkpoint_seconds=3600)
    monitor.cancel_after = None
    run(monitor, checkpoint_seconds=3600)
    assert [progress.done for progress in monitor.progress] == list(range(13))


def test_checkpoints_wait_for_their_time() -> None:
    monitor = QuietMonitor()
    run(monitor, checkpoint_seconds=3600.0)
    assert monitor.checkpoints == {}


def scripted(values: list[float], schedule: Schedule) -> tuple[Trained, QuietMonitor, int]:
    """Train a counter that grows by one per epoch, judged by a script of values."""
    leaf = torch.zeros(1, requires_grad=True)
    model = adam({"leaf": leaf}, 0.1, torch.Generator())
    monitor, asked = QuietMonitor(), iter(values)

    def epoch() -> dict[str, float]:
        with torch.no_grad():
            leaf.add_(1)
        return {"loss": 1.0}

    trained = train("stage", model, epoch, lambda: next(asked), monitor, schedule)
    return trained, monitor, len(monitor.progress) - 1


def test_the_best_state_is_returned_not_the_last() -> None:
    trained, _, epochs = scripted([0.1, 0.3, 0.5, 0.4, 0.2], Schedule(4))
    assert (trained.best["leaf"].item(), trained.best_epoch, trained.best_value, epochs) == (2.0, 2, 0.5, 4)


def test_patience_counts_evaluations_and_starts_again_after_an_improvement() -> None:
    trained, _, epochs = scripted([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], Schedule(50, patience=2))
    assert (trained.best_epoch, epochs) == (2, 4)


def test_an_equal_value_is_no_improvement() -> None:
    trained, _, epochs = scripted([0.5, 0.5, 0.5, 0.5], Schedule(50, patience=3))
    assert (trained.best_epoch, epochs) == (0, 3)


def test_the_last_epoch_is_judged_even_off_the_beat() -> None:
    trained, _, _ = scripted([0.1, 0.2, 0.3], Schedule(5, eval_every=3))
    assert trained.best_epoch == 5


def test_without_validation_rows_all_epochs_run_and_the_last_state_counts() -> None:
    trained, monitor, epochs = scripted([math.nan] * 6, Schedule(5, patience=1))
    assert (trained.best["leaf"].item(), trained.best_epoch, epochs) == (5.0, -1, 5)
    assert all("valid" not in progress.metrics for progress in monitor.progress)


def test_every_epoch_is_reported_with_its_loss() -> None:
    _, monitor, _ = scripted([0.1] * 9, Schedule(4))
    assert [(p.stage, p.done, p.total, p.metrics.get("loss")) for p in monitor.progress] == [
        ("stage", 0, 4, None),
        *(("stage", epoch, 4, 1.0) for epoch in (1, 2, 3, 4)),
    ]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_says_what_to_do(loss: float) -> None:
    model = make_model()
    with pytest.raises(TrainingError, match="epoch 1") as caught:
        train("stage", model, lambda: {"loss": loss}, lambda: 0.0, QuietMonitor(), Schedule(3))
    assert "learning rate" in caught.value.hint


def test_a_cancel_before_the_first_epoch_trains_nothing() -> None:
    model = make_model()
    before = model.snapshot()["leaf"]
    with pytest.raises(Cancelled):
        train("stage", model, make_epoch(model), lambda: 0.0, QuietMonitor(cancel_after=0), Schedule(3))
    assert torch.equal(model.parameters["leaf"], before)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    monitor = QuietMonitor(cancel_after=3)
    with pytest.raises(Cancelled):
        run(monitor)
    other = make_model(size=7)
    monitor.cancel_after = None
    with pytest.raises(IntegrityError, match="leaf") as caught:
        train("stage", other, make_epoch(other), closeness(other), monitor, Schedule(12))
    assert caught.value.hint


def test_adam_minimises() -> None:
    model = make_model()
    schedule = Schedule(300, patience=300)
    trained = train("stage", model, make_epoch(model), closeness(model), QuietMonitor(), schedule)
    np.testing.assert_allclose(trained.best["leaf"].numpy(), 1, atol=0.15)


def along(monitor: QuietMonitor, patience: int = 50, judge: Callable[[], float] | None = None) -> Trained:
    model = make_model()
    schedule = Schedule(11, eval_every=2, patience=patience)
    return train_along("stage", model, make_epoch(model), judge or closeness(model), monitor, schedule, "key")


def test_walking_along_shared_states_ends_like_training_alone() -> None:
    alone, shared = run(QuietMonitor(), 11), along(QuietMonitor())
    assert shared.best["leaf"].numpy().tobytes() == alone.best["leaf"].numpy().tobytes()
    assert (shared.best_epoch, shared.best_value, shared.epochs) == (alone.best_epoch, alone.best_value, alone.epochs)


@pytest.mark.parametrize("reports", [1, 2, 5, 6, 11])
def test_a_walk_interrupted_anywhere_ends_with_the_same_bits(reports: int) -> None:
    whole = along(QuietMonitor())
    monitor = QuietMonitor(cancel_after=reports)
    with pytest.raises(Cancelled):
        along(monitor)
    monitor.cancel_after = None
    resumed = along(monitor)
    assert resumed.best["leaf"].numpy().tobytes() == whole.best["leaf"].numpy().tobytes()
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)


def test_who_stops_early_and_who_stops_late_pay_for_the_longer_walk_only() -> None:
    monitor = QuietMonitor()
    early = along(monitor, patience=1, judge=lambda: 0.0)
    assert early.epochs == 2
    assert len(monitor.store) == 1
    late = along(monitor)
    assert late.epochs == 11
    assert len(monitor.store) == 6
    assert late.best["leaf"].numpy().tobytes() == along(QuietMonitor()).best["leaf"].numpy().tobytes()


def test_a_walk_reports_every_pass_once_and_stops_on_a_loss_that_is_no_number() -> None:
    monitor = QuietMonitor()
    along(monitor)
    assert [progress.done for progress in monitor.progress] == list(range(12))
    model = make_model()
    with pytest.raises(TrainingError, match="nan"):
        train_along(
            "stage", model, lambda: {"loss": math.nan}, closeness(model), QuietMonitor(), Schedule(4), "other key"
        )
