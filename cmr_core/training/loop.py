"""The epoch loop of every trained method: early stopping, best state, cancel, checkpoints, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cmr_core.errors import Cancelled, TrainingError
from cmr_core.interfaces import Monitor, Progress
from cmr_core.training.checkpoint import Position, Trainable, pack, unpack
from cmr_core.training.monitor import shared_key

CHECKPOINT_SECONDS = 20.0  # at most this much work is lost; writing one takes some hundredths of a second


@dataclass(frozen=True)
class Schedule:
    """When to evaluate, to stop and to keep a checkpoint. `patience` counts evaluations without improvement.

    `resets`: an improvement sets that count to zero, as is usual; otherwise it counts all of them.
    """

    epochs: int
    eval_every: int = 1
    patience: int = 10
    checkpoint_seconds: float = field(default_factory=lambda: CHECKPOINT_SECONDS)
    resets: bool = True


@dataclass(frozen=True)
class Trained:
    """The parameters at the best validation value, and where that was. nan and -1: there was nothing to judge by."""

    best: dict[str, torch.Tensor]
    best_epoch: int
    best_value: float
    epochs: int


def train(
    stage: str,
    model: Trainable,
    epoch: Callable[[], Mapping[str, float]],
    validate: Callable[[], float],
    monitor: Monitor,
    schedule: Schedule,
) -> Trained:
    """Run `epoch` until `schedule` ends it; the untrained state is a candidate too (epoch 0).

    `epoch` makes one pass, draws only from `model.generator`, and returns curves, among them `loss`.
    `validate` judges the current parameters, higher is better; nan means there are no validation rows: then all
    epochs are run and the last state is returned. A checkpoint left by an earlier attempt is taken up, and the
    result is equal bit by bit to that of an uninterrupted run.

    Raises Cancelled before the next epoch once the monitor says so, after a last checkpoint; TrainingError on a
    loss that is not finite; IntegrityError on a checkpoint of another model. Cost: the callbacks, and a copy of the
    parameters per improvement.
    """
    kept = monitor.restore(stage)
    position = Position() if kept is None else unpack(model, kept)
    if kept is None:
        if monitor.cancelled():
            raise Cancelled(f"Stopped on request before stage {stage!r}.")
        value = _judge(model, position, validate, schedule)
        monitor.report(Progress(stage, 0, schedule.epochs, _finite({"valid": value})))
    saved = time.monotonic()
    while position.epoch < schedule.epochs and position.bad < schedule.patience:
        if monitor.cancelled():
            # a worker that is asked to make way goes on from here, not from the last regular checkpoint
            monitor.checkpoint(stage, pack(model, position))
            raise Cancelled(f"Stopped on request during stage {stage!r}.")
        metrics = _pass(stage, epoch, position)
        if position.epoch % schedule.eval_every == 0 or position.epoch == schedule.epochs:
            metrics["valid"] = _judge(model, position, validate, schedule)
        if time.monotonic() - saved >= schedule.checkpoint_seconds:
            monitor.checkpoint(stage, pack(model, position))
            saved = time.monotonic()
        monitor.report(Progress(stage, position.epoch, schedule.epochs, _finite(metrics)))
    return _ended(model, position)


def train_along(
    stage: str,
    model: Trainable,
    epoch: Callable[[], Mapping[str, float]],
    validate: Callable[[], float],
    monitor: Monitor,
    schedule: Schedule,
    key: str,
) -> Trained:
    """As `train`, along states that all runs with the same `key` share: they train alike and stop each on its own.

    `key` names everything that decides the passes, not what judges them. The state after each `schedule.eval_every`
    passes is built by whoever comes there first and read by the others, so that seven targets with rules of their own
    cost the passes of the longest one, not the sum. The shared states are the checkpoints: an interrupted run walks
    along them again, judges again, and ends with the same arrays. Storage: parameters and moments at each look.
    Raises as `train`.
    """
    position = Position()
    value = _judge(model, position, validate, schedule)
    monitor.report(Progress(stage, 0, schedule.epochs, _finite({"valid": value})))
    while position.epoch < schedule.epochs and position.bad < schedule.patience:
        start = position.epoch
        stop = min(start + schedule.eval_every, schedule.epochs)

        def build(start: int = start, stop: int = stop) -> dict[str, np.ndarray]:
            there = Position(epoch=start)
            while there.epoch < stop:
                if monitor.cancelled():
                    raise Cancelled(f"Stopped on request during stage {stage!r}.")
                metrics = _pass(stage, epoch, there)
                if there.epoch < stop:
                    monitor.report(Progress(stage, there.epoch, schedule.epochs, _finite(metrics)))
            return {**pack(model, there), "loss": np.array([metrics["loss"]])}

        if monitor.cancelled():
            raise Cancelled(f"Stopped on request during stage {stage!r}.")
        arrays = monitor.shared(shared_key(stage, key, stop), build)
        position.epoch = unpack(model, arrays).epoch  # also by who built it: what is read is what was written
        metrics = {"loss": float(arrays["loss"][0]), "valid": _judge(model, position, validate, schedule)}
        monitor.report(Progress(stage, position.epoch, schedule.epochs, _finite(metrics)))
    return _ended(model, position)


def mean_known(values: Sequence[float]) -> float:
    """The mean of the markets' validation values that are numbers; nan where none is."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _pass(stage: str, epoch: Callable[[], Mapping[str, float]], position: Position) -> dict[str, float]:
    metrics = dict(epoch())
    position.epoch += 1
    if not math.isfinite(metrics["loss"]):
        raise TrainingError(
            f"The loss of stage {stage!r} is {metrics['loss']} in epoch {position.epoch}.",
            hint="Lower the learning rate, or look for extreme settings.",
        )
    return metrics


def _ended(model: Trainable, position: Position) -> Trained:
    best = position.best if position.best_epoch >= 0 else model.snapshot()
    return Trained(best, position.best_epoch, position.best_value, position.epoch)


def _judge(model: Trainable, position: Position, validate: Callable[[], float], schedule: Schedule) -> float:
    value = validate()
    if math.isnan(value):
        return value
    if position.best_epoch < 0 or value > position.best_value:
        position.best, position.best_epoch, position.best_value = model.snapshot(), position.epoch, value
        position.bad = 0 if schedule.resets else position.bad
    else:
        position.bad += 1
    return value


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
