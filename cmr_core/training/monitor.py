"""Those who watch a run: a list in memory, a progress bar, and a recorder that keeps curves and stage times.

The worker's monitor, which writes database rows, lives with the worker.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from cmr_core.interfaces import Arrays, Monitor, Progress

Point = tuple[str, int, str, float]
"""One point of a curve: stage, step, name of the value, value."""
DIGITS = 16  # of a shared key's digest that are kept with a stage
_CURVES = "recorder.curves"


def shared_key(stage: str, *parts: object) -> str:
    """A key for `Monitor.shared`: `<stage>-<sha256 of the parts>`. Equal parts give equal keys."""
    text = json.dumps([str(part) for part in parts])
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()}"


def device_kind(device: str) -> str:
    """`cpu` or `cuda`, for keys: generators of the two draw different numbers, those of two GPUs the same."""
    return device.partition(":")[0]


class QuietMonitor:
    """Keeps everything in memory and shows nothing. `cancel_after` asks for a stop after that many reports."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.progress: list[Progress] = []
        self.checkpoints: dict[str, Arrays] = {}
        self.store: dict[str, Arrays] = {}
        self.cancel_after = cancel_after

    def report(self, progress: Progress) -> None:
        """Append to `progress`."""
        self.progress.append(progress)

    def cancelled(self) -> bool:
        """Whether `cancel_after` reports have come in."""
        return self.cancel_after is not None and len(self.progress) >= self.cancel_after

    def checkpoint(self, stage: str, arrays: Arrays) -> None:
        """Keep copies: the caller goes on writing into its own arrays."""
        self.checkpoints[stage] = {name: np.array(value) for name, value in arrays.items()}

    def restore(self, stage: str) -> Arrays | None:
        """The stage's checkpoint, or None."""
        return self.checkpoints.get(stage)

    def shared(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """Build once per key."""
        if key not in self.store:
            self.store[key] = build()
        return self.store[key]


class ProgressBarMonitor(QuietMonitor):
    """One bar per stage in the terminal, with the stage's latest metrics. Use as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self._tasks: dict[str, TaskID] = {}

    def report(self, progress: Progress) -> None:
        """Move the stage's bar."""
        super().report(progress)
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(progress.stage, total=progress.total, metrics=metrics)
        self._bar.update(self._tasks[progress.stage], completed=progress.done, total=progress.total, metrics=metrics)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class PrefixedMonitor:
    """Another monitor, with a prefix on the names of stages, so that two methods in one run keep apart."""

    def __init__(self, monitor: Monitor, prefix: str) -> None:
        self._monitor, self._prefix = monitor, prefix

    def report(self, progress: Progress) -> None:
        """Of the prefixed stage."""
        self._monitor.report(replace(progress, stage=self._prefix + progress.stage))

    def cancelled(self) -> bool:
        """As the inner monitor says."""
        return self._monitor.cancelled()

    def checkpoint(self, stage: str, arrays: Arrays) -> None:
        """Of the prefixed stage."""
        self._monitor.checkpoint(self._prefix + stage, arrays)

    def restore(self, stage: str) -> Arrays | None:
        """Of the prefixed stage."""
        return self._monitor.restore(self._prefix + stage)

    def shared(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """As the inner monitor: the key says already what it is about."""
        return self._monitor.shared(key, build)


@dataclass(frozen=True)
class StageTime:
    """Wall-clock seconds of a stage. `cached`: another run had built it; the seconds went into waiting.

    `key`: for a shared stage the beginning of its key's digest, which tells two stages of one name apart. Where a stage
    has several keys (see `training.loop.train_along`), that of the first.
    """

    name: str
    seconds: float
    cached: bool
    key: str | None = None


class Recorder:
    """Passes everything on to another monitor and keeps the curves and the time of each stage.

    Time between two reports goes to the stage of the later one; a shared stage takes the time of its
    `shared` call, and its name is the key's part before the last hyphen. The curves of a stage travel inside its
    checkpoint, so that a resumed run has whole curves.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._mark = time.perf_counter()
        self._depth = 0
        self._seconds: dict[str, float] = {}
        self._cached: dict[str, bool] = {}
        self._keys: dict[str, str] = {}
        self._curves: dict[tuple[str, int, str], float] = {}

    @property
    def curves(self) -> list[Point]:
        """Every reported metric, in the order of the first report of its step."""
        return [(*key, value) for key, value in self._curves.items()]

    @property
    def stages(self) -> list[StageTime]:
        """Stages in the order in which they began to be counted."""
        return [StageTime(name, n, self._cached[name], self._keys.get(name)) for name, n in self._seconds.items()]

    def report(self, progress: Progress) -> None:
        """Keep the metrics, charge the time, pass on."""
        for name, value in progress.metrics.items():
            self._curves[progress.stage, progress.done, name] = float(value)
        if self._depth == 0:
            self._charge(progress.stage, cached=False)
        self._monitor.report(progress)

    def cancelled(self) -> bool:
        """As the inner monitor says."""
        return self._monitor.cancelled()

    def checkpoint(self, stage: str, arrays: Arrays) -> None:
        """Pass on, with the stage's curves so far."""
        points = [point for point in self.curves if point[0] == stage]
        text = np.frombuffer(json.dumps(points).encode(), dtype=np.uint8)
        self._monitor.checkpoint(stage, {**arrays, _CURVES: text})

    def restore(self, stage: str) -> Arrays | None:
        """As the inner monitor, and take back the stage's curves."""
        kept = self._monitor.restore(stage)
        if kept is None:
            return None
        arrays = dict(kept)
        if _CURVES in arrays:
            for where, step, name, value in json.loads(arrays.pop(_CURVES).tobytes()):
                self._curves[where, step, name] = value
        return arrays

    def shared(self, key: str, build: Callable[[], Arrays]) -> Arrays:
        """As the inner monitor; notes whether this run built it."""
        built = False

        def noting() -> Arrays:
            nonlocal built
            built = True
            return build()

        if self._depth == 0:
            self._mark = time.perf_counter()
        self._depth += 1
        try:
            arrays = self._monitor.shared(key, noting)
        finally:
            self._depth -= 1
        if self._depth == 0:
            stage, _, digest = key.rpartition("-")
            self._keys.setdefault(stage or key, digest[:DIGITS])
            self._charge(stage or key, cached=not built)
        return arrays

    def _charge(self, stage: str, *, cached: bool) -> None:
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._mark
        self._cached[stage] = self._cached.get(stage, True) and cached
        self._mark = now
