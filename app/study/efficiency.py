"""What methods cost beside what they reach: parameters, seconds, memory (DCMPT paper, table 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from app import comparison
from app.study import paper
from cmr_core.published import PublishedCost

MEMORY = ("peak_memory_mib", "peak_gpu_memory_mib")
COLUMNS = ["label", "method", "parameters", "epoch", "seconds", "total", "memory", "gpu_memory", "quality", "seeds"]


def costs(runs: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """One row per label, means over its runs: columns COLUMNS, in the order of `runs`.

    `parameters`: updated by the last stage or solved for. `epoch`: seconds of an epoch, see `_epoch`. `seconds`: of a
    run; `total`: the same with the stages that another run had built, at the time that they took there. `memory`,
    `gpu_memory`: peak MiB. nan: not known. `stages`: as `queries.study_stages` of the whole study.
    """
    facts = runs.assign(
        updated=runs["parameters"].map(comparison.updated),
        host=[_number(env, MEMORY[0]) for env in runs["environment"]],
        gpu=[_number(env, MEMORY[1]) for env in runs["environment"]],
        epoch=runs["run_id"].map(_epoch(stages)),
        total=runs["seconds"] + _built_elsewhere(runs, stages),
    )
    groups = facts.groupby("label", sort=False)
    return groups.agg(
        method=("method", "first"),
        parameters=("updated", "mean"),
        epoch=("epoch", "mean"),
        seconds=("seconds", "mean"),
        total=("total", _whole_mean),
        memory=("host", "max"),
        gpu_memory=("gpu", "max"),
        quality=("value", "mean"),
        seeds=("seed", "nunique"),
    ).reset_index()[COLUMNS]


def beside(frame: pd.DataFrame, papers: Sequence[PublishedCost], names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows with the paper's numbers: paper_parameters, paper_epoch, paper_seconds, paper_quality.

    The paper's methods that we have no row of come last, with nothing of ours. `papers`: those of the market; `names`:
    as `paper.names`.
    """
    mine = {p.method: p for p in papers}
    pairs = paper.pairs(names, list(mine))
    rest = [name for name in mine if name not in pairs.values()]
    rows = pd.concat([frame, pd.DataFrame({"label": [f"{name} (paper only)" for name in rest]})], ignore_index=True)
    theirs = [mine.get(name) for name in [*(pairs.get(label, "") for label in frame["label"]), *rest]]
    columns: Mapping[str, list[float | None]] = {
        "paper_parameters": [None if p is None else p.parameters for p in theirs],
        "paper_epoch": [None if p is None else p.seconds_per_epoch for p in theirs],
        "paper_seconds": [None if p is None else p.minutes * 60 for p in theirs],
        "paper_quality": [None if p is None else p.recall_at_10 for p in theirs],
    }
    return rows.assign(**{name: pd.Series(values, dtype=float) for name, values in columns.items()})


def _epoch(stages: pd.DataFrame) -> pd.Series:
    """By run: seconds of an epoch of the longest stage that it trained, if possible one that no run shares."""
    cached = stages["cached"].astype(bool)
    shared = stages["name"].isin(set(stages["name"][cached]))
    trained = stages.assign(own=~shared)[stages["epochs"].fillna(0).gt(0) & ~cached]
    longest = trained.sort_values(["own", "seconds"]).groupby("run_id").tail(1).set_index("run_id")
    return longest["seconds"] / longest["epochs"]


def _built_elsewhere(runs: pd.DataFrame, stages: pd.DataFrame) -> pd.Series:
    """For each of `runs`: build time of its shared stages minus the wait for them; nan where nobody here built one.

    A stage is the one of the same key. Where a run is older than these keys, it is one of the same name: of the same
    market's runs where there are any.
    """
    placed = stages.merge(runs[["run_id", "target"]], how="left", on="run_id")
    cached, keyed = placed["cached"].astype(bool), placed["key"].notna()
    waited, built, old = placed[cached], placed[~cached], placed[~cached & ~keyed]
    named = _by_name(waited, old).where(keyed[cached], _by_name(waited, built))
    more = _took(waited, built, ["name", "key"]).fillna(named) - waited["seconds"]
    extra = more.groupby(waited["run_id"]).sum(min_count=1).where(more.notna().groupby(waited["run_id"]).all())
    found = runs["run_id"].map(extra)
    return found.where(runs["run_id"].isin(waited["run_id"]), 0.0)


def _by_name(waited: pd.DataFrame, built: pd.DataFrame) -> pd.Series:
    return _took(waited, built, ["name", "target"]).fillna(_took(waited, built, ["name"]))


def _took(waited: pd.DataFrame, built: pd.DataFrame, by: list[str]) -> pd.Series:
    """For each of `waited`: mean seconds of those of `built` that equal it in `by`; nan where there are none."""
    means = built.dropna(subset=by).groupby(by)["seconds"].mean().rename("took").reset_index()
    return waited.merge(means, how="left", on=by).set_index(waited.index)["took"]


def _whole_mean(values: pd.Series) -> float:
    return float(values.mean(skipna=False))


def _number(environment: Mapping[str, str] | None, name: str) -> float:
    return float((environment or {}).get(name, "nan"))
