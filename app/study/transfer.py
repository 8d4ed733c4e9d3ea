"""Which source markets help which target: what a source adds to the others, and what it gives alone.

Each effect is a mean difference over the same users of a target. Validation decides what is recommended; the test only
reports it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from app.comparison import RESAMPLES, PerUser
from app.study.view import View
from cmr_core.evaluation.compare import adjust, against, over_seeds
from worker.store.comparable import same_splits

TOGETHER = "all together"  # the source in the rows of all sources
_BASE = ""
COLUMNS = ["kind", "target", "source", "difference", "low", "high", "valid", "n", "p_wilcoxon"]
# what a method is without source markets, where its name does not say it
ALONE = {"finetune": "lightgcn", "dcmpt": "lightgcn", "backbone-teacher-sum": "lightgcn"}


@dataclass(frozen=True)
class Sets:
    """One method's finished runs by the set of its sources, and what it is compared with where it has none."""

    label: str
    method: str
    alone: str | None  # label of the runs on the target alone
    runs: pd.DataFrame  # with `valid`, and `set`: the sources, sorted, with spaces between them
    wanted: pd.DataFrame  # all of them, whatever their state


def methods(view: View, valid: pd.Series) -> list[Sets]:
    """The study's methods that learn from sources, in its order. `valid`: by run, the metric on validation."""
    runs = view.results.assign(valid=view.results["run_id"].map(valid))
    single = {method: label for method, label, used in _facts(view.runs) if not used}
    found = []
    for method, label, used in _facts(view.runs):
        if used:
            alone = single.get(_without_sources(method), next(iter(single.values()), None))
            finished, wanted = (_mine(frame, label, alone) for frame in (runs, view.runs))
            found.append(Sets(label, method, alone, same_splits(finished, "set"), wanted))
    return found


def market(target: str, named: Sequence[str], runs: pd.DataFrame, metric: str, per_user: PerUser) -> pd.DataFrame:
    """The effects in one target, columns COLUMNS; p-values are not yet corrected. `named`: all sources of the study.

    kind "adding": all sources minus all but this one. "alone": this source minus the target alone; its row TOGETHER is
    all sources minus the target alone. Effects whose runs have not finished are left out.
    """
    groups = {str(key): part for key, part in runs.groupby("set")}
    series = {key: over_seeds([per_user(*run) for run in _runs(part)], metric) for key, part in groups.items()}
    valid = {key: float(part["valid"].mean()) for key, part in groups.items()}
    full = " ".join(sorted(named))
    without = {" ".join(n for n in sorted(named) if n != source): source for source in named if len(named) > 1}
    only = {source: source for source in sorted(named)} | ({full: TOGETHER} if len(named) > 1 else {})
    adding = _effects("adding", target, full, without, series, valid, -1.0)
    alone = _effects("alone", target, "", only, series, valid, 1.0)
    return pd.concat([frame for frame in (adding, alone) if len(frame)] or [adding], ignore_index=True)


def assemble(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The effects of all targets, p-values Holm-corrected over each kind: COLUMNS, p_holm and significant."""
    effects = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    kinds = [adjust(group) for _, group in effects.astype({"p_wilcoxon": float}).groupby("kind", sort=False)]
    return pd.concat(kinds, ignore_index=True) if kinds else adjust(effects.astype({"p_wilcoxon": float}))


def matrix(effects: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Differences and their texts (with ▲ ▼ where significant); rows sources, columns targets."""
    mine = effects[effects["kind"] == kind]
    marks = [("▲" if d > 0 else "▼") if s else "" for d, s in zip(mine["difference"], mine["significant"], strict=True)]
    texts = [f"{d:+z.4f}".replace("0.", ".", 1) + mark for d, mark in zip(mine["difference"], marks, strict=True)]
    order = sorted(set(mine["source"]) - {TOGETHER}) + ([TOGETHER] if TOGETHER in set(mine["source"]) else [])
    wide = mine.pivot(index="source", columns="target", values="difference").reindex(order).astype(float)
    said = mine.assign(text=texts).pivot(index="source", columns="target", values="text").reindex(order).fillna("")
    return wide, said


def advice(effects: pd.DataFrame, target: str, alone: str | None) -> str:
    """Which sources to use for the target, in words: chosen on validation, with what each one does on the test.

    E.g. `use ca (adds 0.0120, significant) and uk (adds 0.0010); leave out in (takes 0.0040, significant).` Where all
    sources together lose on validation, the best single one or none is recommended instead.
    """
    mine = effects[effects["target"] == target].sort_values("valid", ascending=False)
    adding = mine[mine["kind"] == "adding"]
    single = mine[(mine["kind"] == "alone") & (mine["source"] != TOGETHER)]
    together = mine[(mine["kind"] == "alone") & (mine["source"] == TOGETHER)].to_dict("records")
    whole = "".join(f" All sources together: {_signed(row)} against {alone} on the target alone." for row in together)
    if adding.empty or any(row["valid"] <= 0 for row in together):
        return _best(single) + whole
    return _each(adding) + whole


def _each(adding: pd.DataFrame) -> str:
    parts = []
    for verb, chosen in (("use", adding["valid"] > 0), ("leave out", adding["valid"] <= 0)):
        found = [f"{row['source']} ({_effect(row)})" for row in adding[chosen].to_dict("records")]
        parts += [f"{verb} {_listed(found)}"] if found else []
    return "; ".join(parts) + "."


def _best(single: pd.DataFrame) -> str:
    if single.empty:
        return ""
    row = single.iloc[0].to_dict()
    if row["valid"] <= 0:
        return "use no source: on validation none was better than the target alone."
    return f"use {row['source']} alone ({_effect(row)})."


def _signed(row: dict[Hashable, Any]) -> str:
    return f"{row['difference']:+z.4f}{', significant,' if row['significant'] else ''}"


def _effect(row: dict[Hashable, Any]) -> str:
    if abs(row["difference"]) < 0.00005:
        return "changes nothing"
    verb = "adds" if row["difference"] > 0 else "takes"
    against = row["significant"] and (row["difference"] > 0) != (row["valid"] > 0)
    luck = ", significant" if row["significant"] else ""
    return f"{verb} {abs(row['difference']):.4f}{luck}" + (" and against what validation said" if against else "")


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _without_sources(method: str) -> str:
    return ALONE.get(method, method.removesuffix("-all").removesuffix("-weighted"))


def _facts(runs: pd.DataFrame) -> list[tuple[str, str, bool]]:
    used = (
        runs.assign(used=runs["sources"].map(bool)).groupby("label", sort=False).agg({"method": "first", "used": "any"})
    )
    return [(str(method), str(label), bool(uses)) for label, method, uses in used.itertuples()]


def _mine(runs: pd.DataFrame, label: str, alone: str | None) -> pd.DataFrame:
    kept = runs[runs["label"].isin([label, alone])]
    return kept.assign(set=[" ".join(sorted(sources)) for sources in kept["sources"]])


def _runs(part: pd.DataFrame) -> list[tuple[str, str]]:
    return [(str(run), str(at)) for run, at in zip(part["run_id"], part["finished_at"], strict=True)]


def _effects(
    kind: str,
    target: str,
    base: str,
    others: dict[str, str],
    series: dict[str, pd.Series],
    valid: dict[str, float],
    sign: float,
) -> pd.DataFrame:
    there = {key: name for key, name in others.items() if key in series and key != base}
    if base not in series or not there:
        return pd.DataFrame(columns=COLUMNS)
    tests = against(
        {_BASE: series[base]} | {name: series[key] for key, name in there.items()}, _BASE, resamples=RESAMPLES
    )
    ends = ("low", "high") if sign > 0 else ("high", "low")
    gains = {name: sign * (valid[key] - valid[base]) for key, name in there.items()}
    return pd.DataFrame(
        {
            "kind": kind,
            "target": target,
            "source": tests["method"],
            "difference": sign * tests["difference"],
            "low": sign * tests[ends[0]],
            "high": sign * tests[ends[1]],
            "valid": tests["method"].map(gains),
            "n": tests["n"],
            "p_wilcoxon": tests["p_wilcoxon"],
        }
    )
