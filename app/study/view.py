"""What a study's page looks at: one study, one protocol, one metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from app import words
from app.study import rows
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import MethodChoice, StudySpec
from worker.store import naming
from worker.store.comparable import left_out, same_splits

STATES = {"running": "running", "lost": "silent", "queued": "waiting", "failed": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True)
class View:
    """All runs of a study under one protocol, and of the finished ones the mean of one metric."""

    study_id: str
    spec: StudySpec
    markets: tuple[str, ...]  # of the corpus
    text: str  # the protocol in words
    metric: str
    runs: pd.DataFrame  # as `queries.study_runs`, named
    results: pd.DataFrame  # the finished ones of them, with `value` and `n`
    known: Mapping[str, MethodInfo]

    @property
    def title(self) -> str:
        """The metric as axes print it."""
        return words.metric(self.metric)

    @property
    def targets(self) -> list[str]:
        """Target markets of the runs, by name."""
        return sorted(set(self.runs["target"]))

    def judged_by(self, metric: str, values: pd.DataFrame) -> View:
        """The same with another metric; `values`: as `queries.study_values`."""
        means = values[values["slice"] == "all"].drop(columns="slice")
        results = self.runs[self.runs["state"] == "succeeded"].merge(means, on="run_id")
        return replace(self, metric=metric, results=results)

    def labelled(self) -> pd.DataFrame:
        """Finished runs with all sources, under names that tell configurations apart, in the study's order.

        Where every seed has a split of its own, those of the seeds that a market's rows share.
        """
        return same_splits(self._finished())

    def wanted(self) -> pd.DataFrame:
        """All runs that `labelled` would have if every run had finished."""
        return self._labels(rows.with_all_sources(self.spec, self.runs, self.markets))

    def left_out(self) -> str:
        """Which finished runs `labelled` leaves out, in words; empty where it has all."""
        mine = self._finished()
        return left_out(mine, same_splits(mine))

    def of(self, choice: MethodChoice, runs: pd.DataFrame) -> pd.DataFrame:
        """Those of `runs` (of this view) that the choice stands for, with its label and point."""
        return naming.belonging(choice, runs, self.known)

    def note(self, runs: pd.DataFrame) -> str:
        """Metric, protocol, N, seeds and date of what a figure shows; `runs` are finished ones."""
        if runs.empty:
            return f"{self.title} · {self.text}"
        users = words.count(runs.groupby("target")["n"].max().sum())
        seeds = words.plural(int(runs.groupby("configuration")["seed"].nunique().max()), "seed")
        return (
            f"{self.title} · {self.text} · N {users} test users · up to {seeds} · newest run "
            f"{words.day(runs['finished_at'].max())}"
        )

    def _finished(self) -> pd.DataFrame:
        return self._labels(rows.with_all_sources(self.spec, self.results, self.markets))

    def _labels(self, runs: pd.DataFrame) -> pd.DataFrame:
        # of what the study names: with a target that is none of its sources, no run would have all sources
        return naming.label_rows(runs, self.markets if self.spec.sources is None else self.spec.sources)


def missing(wanted: pd.DataFrame) -> str:
    """What has not finished, in words, e.g. `3 of 12 runs are missing: 1 running, 2 waiting.`; empty where all have."""
    rest = wanted["state"][wanted["state"] != "succeeded"]
    if rest.empty:
        return ""
    said = [f"{words.count(n)} {STATES[state]}" for state in STATES if (n := int((rest == state).sum()))]
    verb = "is" if len(rest) == 1 else "are"
    return f"{words.count(len(rest))} of {words.plural(len(wanted), 'run')} {verb} missing: {', '.join(said)}."


def states(runs: pd.DataFrame) -> dict[str, int]:
    """Number of runs in each state."""
    return {str(state): int(n) for state, n in runs["state"].value_counts().items()}
