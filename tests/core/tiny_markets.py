"""Three tiny markets, two judges, and DCMPT on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cmr_core.data.split import MarketSplit, Split
from cmr_core.interfaces import FloatArray, IntArray, Pairs, Run, Task
from cmr_core.models.adaptation import Adaptation
from cmr_core.models.base import Factors
from cmr_core.models.dcmpt import DCMPT, freeze, make_student, prepare
from cmr_core.models.dcmpt_config import DCMPTConfig
from cmr_core.spec import SplitSpec, parse
from cmr_core.training.checkpoint import adam
from cmr_core.training.monitor import QuietMonitor

SMALL: dict[str, Any] = {
    "dimensions": 8, "prompts": 3, "epochs": 4, "users_per_step": 5, "amrdd_list": 6, "wrd_items": 4,
    "backbone_epochs": 4, "backbone_batch": 64, "teacher_epochs": 4, "teacher_batch": 64,
    "learning_rate": 0.02, "eval_every": 1,
}  # fmt: skip


def pairs(user: IntArray, item: IntArray) -> Pairs:
    return Pairs(user.astype(np.int32), item.astype(np.int32), np.full(len(user), -1, dtype=np.int32))


def market(name: str, n_users: int, n_items: int, seed: int) -> MarketSplit:
    """Users like items of their own parity; a tenth of that is held out in either part."""
    rng = np.random.default_rng(seed)
    catalogue = np.sort(rng.choice(24, n_items, replace=False)).astype(np.int32)
    likes = catalogue[None] % 2 == np.arange(n_users)[:, None] % 2
    user, item = np.nonzero(likes & (rng.random((n_users, n_items)) < 0.7))
    part = rng.choice(3, len(user), p=[0.8, 0.1, 0.1])
    return MarketSplit(name, n_users, catalogue, *(pairs(user[part == p], item[part == p]) for p in range(3)))


SPLIT = Split(
    SplitSpec(),
    "0" * 64,
    24,
    {name: market(name, *size) for name, size in {"ca": (12, 16, 1), "de": (9, 15, 2), "uk": (13, 14, 3)}.items()},
)
TASK = SPLIT.task("uk", ("ca", "de"))


class Parity:
    """Judges by how much higher the items of the user's own parity score."""

    digest = "parity"

    def __call__(self, name: str, score: Callable[[IntArray], FloatArray]) -> float:
        view = SPLIT.markets[name]
        users = np.arange(view.n_users)
        own = view.catalogue[None] % 2 == users[:, None] % 2
        scores = score(users)
        return float((scores[own].mean() - scores[~own].mean()) / scores.std())


class Blind:
    """Has no validation rows: every stage runs all its epochs."""

    digest = "blind"

    def __call__(self, name: str, score: Callable[[IntArray], FloatArray]) -> float:
        return float("nan")


def settings(**changes: Any) -> DCMPTConfig:
    return parse(DCMPTConfig, SMALL | changes)


def start(monitor: QuietMonitor | None = None, seed: int = 0, judge: Any = None) -> Run:
    return Run(seed, "cpu", judge or Parity(), monitor or QuietMonitor())


def fit(task: Task = TASK, run: Run | None = None, **changes: Any) -> Factors:
    fitted = DCMPT(settings(**changes)).fit(task, run or start())
    assert isinstance(fitted, Factors)
    return fitted


def ready(way: str = "fast", **changes: Any) -> tuple[Adaptation, torch.Tensor]:
    config, run = settings(**changes), start()
    frozen = freeze(config, TASK, run)
    student = make_student(config, frozen.field)
    adaptation, _ = prepare(config, TASK, run, frozen, student)
    adaptation.propagation = way  # type: ignore[assignment]
    return adaptation, frozen.field.features


def losses(adaptation: Adaptation, epochs: int = 4) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    model = adam(adaptation.student.initial(generator), 0.02, generator)
    return [adaptation.epoch(model.parameters, model.optimizer, generator)["loss"] for _ in range(epochs)]
