"""Which runs belong to which method choice of a study, under which name, and at which point of its grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cmr_core.errors import SpecError
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import Member, MethodChoice, Scalar, StudySpec
from worker.store.studies import make_label

Point = dict[str, Scalar]


@dataclass(frozen=True)
class Configuration:
    """One point of a choice's grid: what a run's settings have to be, and its name in tables (None: the run's own)."""

    method: str
    point: Point
    settings: Mapping[str, Any]
    given: Mapping[str, Scalar]
    members: tuple[Member, ...]
    label: str | None

    def fits(self, run: Mapping[Any, Any]) -> bool:
        """Whether a run (method, settings, members) is one of this configuration.

        Settings that a method has got since then say nothing about an older run; those that the study names must be in
        the run.
        """
        theirs: Mapping[str, Any] = run["settings"]
        return (
            run["method"] == self.method
            and self._combines(run["members"] or [])
            and all(name in theirs for name in self.given)
            and all(self.settings.get(name, value) == value for name, value in theirs.items())
        )

    def _combines(self, members: Sequence[Mapping[str, Any]]) -> bool:
        return len(members) == len(self.members) and all(
            theirs["method"] == mine.method and mine.settings.items() <= theirs["settings"].items()
            for theirs, mine in zip(members, self.members, strict=True)
        )


def configurations(choice: MethodChoice, known: Mapping[str, MethodInfo]) -> list[Configuration]:
    """The choice's grid, point by point, in the order of the file. `known`: all methods by name."""
    found = []
    for values in itertools.product(*choice.grid.values()):
        point = dict(zip(choice.grid, values, strict=True))
        given = {**choice.settings, **point}
        info = known.get(choice.method)
        full = _full(info, given)
        settings = {name: value for name, value in full.items() if value is not None}
        said = ", ".join(f"{name}={value}" for name, value in point.items())
        if choice.label is not None:
            label: str | None = f"{choice.label} ({said})" if said else choice.label
        else:
            label = None if info is None or choice.members else make_label(info, settings)
        found.append(Configuration(choice.method, point, full, given, choice.members, label))
    return found


def belonging(choice: MethodChoice, runs: pd.DataFrame, known: Mapping[str, MethodInfo]) -> pd.DataFrame:
    """The rows of `runs` (see `queries.study_runs`) that the choice stands for, with its `label` and `point`.

    A run may belong to several choices: the default is a point of every grid.
    """
    facts = runs.drop_duplicates("configuration").set_index("configuration")[["method", "settings", "members", "label"]]
    wanted = configurations(choice, known)
    points: dict[str, tuple[str, Point]] = {}
    for name, run in facts.to_dict("index").items():
        fit = next((one for one in wanted if one.fits(run)), None)
        if fit is not None:
            points[str(name)] = (fit.label or str(run["label"]), fit.point)
    mine = runs[runs["configuration"].isin(points)]
    pairs = [points[name] for name in mine["configuration"]]
    columns = pd.DataFrame(pairs, columns=["label", "point"], index=mine.index, dtype=object)
    return mine.assign(label=columns["label"], point=columns["point"])


def named(spec: StudySpec, runs: pd.DataFrame, known: Mapping[str, MethodInfo]) -> pd.DataFrame:
    """The runs in the order and under the names of the study's choices; what fits none keeps its own name."""
    parts = [belonging(choice, runs, known) for choice in spec.methods]
    rest = runs.assign(point=pd.Series([{} for _ in range(len(runs))], index=runs.index, dtype=object))
    frame: pd.DataFrame = pd.concat([*parts, rest])
    return frame.drop_duplicates("run_id").reset_index(drop=True)


def with_all_sources(spec: StudySpec, runs: pd.DataFrame, markets: Sequence[str]) -> pd.DataFrame:
    """The runs that got all sources that the study names, or need none; all runs of a study without such ones."""
    if "all" not in spec.source_sets:
        return runs
    pairs = zip(runs["sources"], runs["target"], strict=True)
    return runs[[not sources or set(sources) == full_set(spec, markets, target) for sources, target in pairs]]


def full_set(spec: StudySpec, markets: Sequence[str], target: str) -> set[str]:
    """All sources that the study names for a target."""
    return set(markets if spec.sources is None else spec.sources) - {target}


def _full(info: MethodInfo | None, given: Mapping[str, Scalar]) -> dict[str, Any]:
    if info is None:
        return dict(given)  # a method of a plug-in that is not here: only what the study says can be compared
    try:
        return info.configure(given).model_dump(mode="json")
    except SpecError:
        return dict(given)  # a setting that this version does not have any more
