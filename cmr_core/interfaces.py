"""The contracts between data, methods and the world. Arrays have shapes in comments: B users, I items, D dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pairs:
    """Interactions in the local codes of one market: `user` in 0..n_users-1, `item` in 0..n_items-1."""

    user: IntArray  # (n,) int32
    item: IntArray  # (n,) int32, index into the market's catalogue
    day: IntArray  # (n,) int32, days since 1970-01-01; -1 where the file has no date

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class MarketView:
    """What a method may see of one market: its catalogue and its training pairs. No validation, no test."""

    name: str
    n_users: int
    catalogue: IntArray  # (n_items,) int32 global item codes, ascending
    train: Pairs

    @property
    def n_items(self) -> int:
        """Items that the market sells."""
        return len(self.catalogue)


@dataclass(frozen=True)
class Task:
    """The input of `Method.fit`: one target market, its sources, and the global item vocabulary.

    `digest` names exactly the training pairs of all markets in `markets`; it does not depend on which of
    them is the target, so stages that use all markets alike can be shared between targets.
    `target_digest` names the target's own training pairs, for stages that use nothing else.
    """

    target: MarketView
    sources: tuple[MarketView, ...]
    n_items: int  # size of the global vocabulary
    digest: str
    target_digest: str

    @property
    def markets(self) -> tuple[MarketView, ...]:
        """Target and sources, by name."""
        return tuple(sorted((self.target, *self.sources), key=lambda m: m.name))


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of scalars. `trainable`: updated in the last stage. `closed_form`: solved for, not trained."""

    trainable: int = 0
    frozen: int = 0
    closed_form: int = 0

    @property
    def total(self) -> int:
        """All scalars that the fitted method needs."""
        return self.trainable + self.frozen + self.closed_form


@dataclass(frozen=True)
class Progress:
    """One report. `done` and `total` count steps of `stage`; metrics are drawn as curves over `done`."""

    stage: str
    done: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Monitor(Protocol):
    """How a run talks to whoever watches it. Implementations: worker rows, a progress bar, a list in tests."""

    def report(self, progress: Progress) -> None:
        """Tell how far a stage is. Must be cheap: it is called once per epoch or step group."""

    def cancelled(self) -> bool:
        """Whether somebody asked the run to stop. Read once per epoch."""

    def checkpoint(self, stage: str, arrays: Arrays) -> None:
        """Keep the whole state of an unfinished stage; replaces the stage's earlier checkpoint."""

    def restore(self, stage: str) -> Arrays | None:
        """The state kept for an unfinished stage by an earlier attempt of the same run, or None."""

    def shared(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """Arrays addressed by `key`, built at most once among all runs that ask for the key.

        Who comes second waits for, or reads, what the first one built.
        """


@runtime_checkable
class Recommender(Protocol):
    """A fitted method. Plain arrays, no module: it can be stored, served and explained."""

    @property
    def parameters(self) -> ParameterCount:
        """What the method consists of."""

    @property
    def details(self) -> Mapping[str, float | str]:
        """What the method chose or measured on the way (source weights, best epoch, entropy, ...)."""

    def score(self, users: IntArray) -> FloatArray:
        """Scores (B, n_items) of the target catalogue for local user codes (B,); higher is better."""

    def arrays(self) -> Arrays:
        """The whole state, as named arrays."""


@runtime_checkable
class ListScoring(Protocol):
    """Scores of single items, for methods to which a whole catalogue is dear. Where it is there, it is made use of."""

    costly: bool  # scoring whole catalogues for everybody takes minutes

    def __call__(self, users: IntArray) -> FloatArray:
        """(B, n_items), as `Recommender.score`."""

    def listed(self, users: IntArray, items: IntArray) -> FloatArray:
        """(B, C) for local item codes (B, C), one row per user."""


class Validator(Protocol):
    """Judges scores on validation rows, without showing them. Higher is better."""

    @property
    def digest(self) -> str:
        """Names the rule (candidates, metric, seed): stages that stop on it carry it in their shared key."""

    def __call__(
        self, market: str, score: Callable[[IntArray], FloatArray] | ListScoring, *, users: int | None = None
    ) -> float:
        """Selection metric of `score` on the market's validation rows; nan where it has none.

        `users`: ask at most so many of the market's users, always the same ones; None asks everybody.
        """


@dataclass(frozen=True)
class Fitted:
    """A method that takes part in a combination, fitted on the run's task; `refit` fits it on another one."""

    label: str
    recommender: Recommender
    refit: Callable[[Task, Monitor], Recommender]


@dataclass(frozen=True)
class Run:
    """What `fit` gets beside the data: the seed, the device, the judge, the monitor, and what a method combines."""

    seed: int
    device: str  # a torch device string, "cpu" or "cuda:0"
    validate: Validator
    monitor: Monitor
    members: tuple[Fitted, ...] = ()


class Method(Protocol):
    """A recommendation method, configured. `fit` is deterministic in (task, run.seed) on one device."""

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the task. Raises Cancelled within one epoch of a cancel, TrainingError on a fault."""
