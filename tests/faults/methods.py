"""Methods for the fault tests, loaded into the workers through CMR_PLUGINS, and places where a test can hold a worker.

A file `hold` in the state folder names a place; a worker that comes there writes its process id into `held` and waits
until the file is gone. This patches the worker from outside: the program itself knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pydantic import Field

import cmr_core.experiment
import worker.store.blobs
import worker.tasks
from cmr_core.interfaces import Arrays, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors
from cmr_core.models.registry import Config, register
from cmr_core.training.checkpoint import adam
from cmr_core.training.loop import Schedule, train
from worker.settings import get_settings

ROOT = get_settings().root


def hold(place: str) -> None:
    """Wait here as long as the test wants this place held."""
    wanted = ROOT / "hold"
    if not wanted.exists() or wanted.read_text() != place:
        return
    (ROOT / "held.new").write_text(str(os.getpid()))
    (ROOT / "held.new").rename(ROOT / "held")
    while wanted.exists() and wanted.read_text() == place:
        time.sleep(0.02)


def _holding(module: Any, name: str, place: str | Callable[..., str]) -> None:
    inner = getattr(module, name)

    def held(*args: Any, **kw: Any) -> Any:
        hold(place if isinstance(place, str) else place(*args))
        return inner(*args, **kw)

    setattr(module, name, held)


_holding(worker.tasks, "load_corpus", "claimed")
_holding(cmr_core.experiment, "evaluate", "evaluating")
_holding(worker.tasks, "save_outcome", "before finish")


class _Os:
    """The os module as the blobs see it: `replace` can be held, so that a checkpoint is half written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, *args: Any) -> None:
        hold("mid-checkpoint")
        os.replace(*args)


worker.store.blobs.os = _Os()  # type: ignore[assignment]


class WalkConfig(Config):
    """How long, and how."""

    epochs: int = Field(6, ge=1, description="Steps")
    pause: float = Field(0.05, ge=0, description="Seconds that a step sleeps")
    shared: bool = Field(False, description="Whether the walk is a stage that runs share")


@register("fault-walk", label="Walk", family="reference", color="#000000", config=WalkConfig, uses_sources=False)
class Walk:
    """Noisy steps by Adam: every epoch depends on the optimiser's state and on the generator's."""

    def __init__(self, config: WalkConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train with a checkpoint after each epoch."""

        def build() -> Arrays:
            with (ROOT / "built").open("a") as file:
                file.write("x")
            return self._walk(task, run)

        arrays = run.monitor.shared("walk-stage", build) if self.config.shared else self._walk(task, run)
        user, item = arrays["user"], arrays["item"]
        return Factors(ParameterCount(trainable=user.size + item.size), user, item)

    def _walk(self, task: Task, run: Run) -> Arrays:
        generator = torch.Generator().manual_seed(run.seed)
        shapes = {"user": (task.target.n_users, 4), "item": (task.target.n_items, 4)}
        leaves = {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}
        model = adam(leaves, 0.05, generator)

        def epoch() -> dict[str, float]:
            hold("epoch 1")
            with (ROOT / "epochs").open("a") as file:
                file.write("x")
            time.sleep(self.config.pause)
            model.optimizer.zero_grad()
            noise = torch.randn(shapes["item"], generator=generator)
            loss = ((leaves["item"] - noise) ** 2).mean() + (leaves["user"] ** 2).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            model.optimizer.step()
            return {"loss": float(loss.detach())}

        schedule = Schedule(self.config.epochs, eval_every=1000, checkpoint_seconds=0)
        train("walk", model, epoch, lambda: float("nan"), run.monitor, schedule)
        return {name: np.array(leaf.detach()) for name, leaf in leaves.items()}


@register("fault-poison", label="Poison", family="reference", color="#000000", config=Config, uses_sources=False)
class Poison:
    """Kills its own process, as running out of memory does."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
