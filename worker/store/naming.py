"""What a run is called: the name of its study's choice, told apart from others, one name per configuration.

Not imported where runs are only executed: it brings pandas.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cmr_core.errors import SpecError
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import Member, MethodChoice, Scalar, StudySpec
from worker.store.tables import RunRow

RUN = (  # columns of a run that naming reads, and pages with it
    RunRow.id.label("run_id"),
    RunRow.configuration,
    RunRow.label,
    RunRow.method,
    RunRow.target,
    RunRow.seed,
    RunRow.corpus,
    RunRow.protocol,
    RunRow.protocol_text.label("text"),
    RunRow.spec["sources"].label("sources"),
    RunRow.spec["settings"].label("settings"),
    RunRow.spec["members"].label("members"),
    RunRow.spec["revision"].label("revision"),
    RunRow.spec["split"]["each_seed"].label("each_seed"),
    RunRow.finished_at,
)
MOST_DIFFERENCES = 2  # settings that a label names
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
            label = None if info is None else info.named(settings)
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


def one_name(runs: pd.DataFrame, by: str) -> pd.Series:
    """Label of each run's configuration: that of its first run by the column `by`.

    A run keeps the name that its first launch gave it; seeds of one configuration may come from several launches.
    """
    first = runs.sort_values(by, kind="stable").groupby("configuration")["label"].transform("first")
    return first.reindex(runs.index)


def label_rows(results: pd.DataFrame, markets: Sequence[str]) -> pd.DataFrame:
    """The results, one run per row of a table, market and seed, with labels that are such rows.

    A row is one configuration with one choice of sources: it has the name of the configuration's first finished run,
    and the sources where they are not all of `markets`. Configurations of one name are told apart by the one or two
    settings in which they differ, where `results` has `settings` and they do; otherwise by the beginning of their
    digest. Of runs with the same seed, as on a CPU and on a GPU, the one that finished last counts.
    """
    everything = {target: sorted(set(markets) - {target}) for target in set(results["target"])}
    chosen = [
        "" if not sources or sorted(sources) == everything[target] else f", from {' '.join(sources)}"
        for sources, target in zip(results["sources"], results["target"], strict=True)
    ]
    sources = pd.Series(chosen, index=results.index, dtype=object)
    frame = results.assign(label=one_name(results, "finished_at") + sources)
    shared = _shared(frame)
    apart: dict[str, str] = {}
    for _, twins in frame[shared].groupby("label"):
        apart |= _differences(twins.drop_duplicates("configuration"))
    suffixes = [apart[name] if twin else "" for name, twin in zip(frame["configuration"], shared, strict=True)]
    frame = frame.assign(label=frame["label"] + pd.Series(suffixes, index=frame.index, dtype=object))
    # a difference in words may be what a third configuration is called
    digests = " #" + frame["configuration"].str[:4]
    frame = frame.assign(label=frame["label"].where(~_shared(frame), frame["label"] + digests))
    order = frame.sort_values("finished_at", kind="stable", na_position="first")
    return frame.drop(order.index[order.duplicated(["label", "target", "seed"], keep="last")])


def protocol_names(texts: Mapping[str, str]) -> dict[str, str]:
    """Protocols in words, by digest: those that read alike, as their cutoffs differ, with the digest's beginning."""
    many = Counter(texts.values())
    return {digest: text if many[text] == 1 else f"{text} ({digest[:12]})" for digest, text in texts.items()}


def _shared(frame: pd.DataFrame) -> pd.Series:
    return frame.groupby("label")["configuration"].transform("nunique") > 1


def _differences(twins: pd.DataFrame) -> dict[str, str]:
    """What to append to the label of each configuration."""
    names = list(twins["configuration"])
    settings: list[Mapping[str, Any]] = list(twins["settings"]) if "settings" in twins else [{}]
    if "revision" in twins:
        revisions = [1 if pd.isna(one) else int(one) for one in twins["revision"]]
        settings = [{**one, "revision": at} for one, at in zip(settings, revisions, strict=True)]
    known = set(settings[0]).intersection(*settings[1:])
    differ = [name for name in settings[0] if name in known and len({repr(one[name]) for one in settings}) > 1]
    said = [", ".join(f"{name}={one[name]}" for name in differ) for one in settings]
    if not 1 <= len(differ) <= MOST_DIFFERENCES or len(set(said)) < len(names):
        return {name: f" #{name[:4]}" for name in names}
    return {name: f" ({text})" for name, text in zip(names, said, strict=True)}


def _full(info: MethodInfo | None, given: Mapping[str, Scalar]) -> dict[str, Any]:
    if info is None:
        return dict(given)  # a method of a plug-in that is not here: only what the study says can be compared
    try:
        return info.configure(given).model_dump(mode="json")
    except SpecError:
        return dict(given)  # a setting that this version does not have any more
