"""Which runs a picture of vectors shows, and what it says about the markets. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cmr_core.data.market import Corpus
from cmr_core.data.split import Split

STAGES = {"before": "without prompts", "after": "with prompts"}


@dataclass(frozen=True)
class Choice:
    """A configuration, its first seed, and the runs of that seed, one per market."""

    label: str
    seed: int
    wanted: pd.DataFrame

    @property
    def runs(self) -> pd.DataFrame:
        """Those that have finished, by market."""
        return self.wanted[self.wanted["state"] == "succeeded"].sort_values("target")


def choices(wanted: pd.DataFrame) -> list[Choice]:
    """A choice per label, in the order of the runs. wanted: label, target, seed, state, run_id."""
    found = []
    for label, runs in wanted.groupby("label", sort=False):
        first = runs[runs["seed"] == runs["seed"].min()]
        found.append(Choice(str(label), int(first["seed"].iloc[0]), first.drop_duplicates("target")))
    return found


def titles(label: str, stages: Sequence[str]) -> dict[str, str]:
    """What stands above the picture of each stage."""
    return {stage: f"{label}, {STAGES[stage]}" if len(stages) > 1 else label for stage in stages}


def separations(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per picture: Picture, All, and a column per market. results: title -> separation, silhouette."""
    rows = [{"Picture": title, "All": found["separation"], **found["silhouette"]} for title, found in results.items()]
    markets = sorted({name for found in results.values() for name in found["silhouette"]})
    return pd.DataFrame(rows, columns=["Picture", "All", *markets])


def names(points: pd.DataFrame, kind: str, split: Split, corpus: Corpus) -> pd.Series:
    """The id of each point's item or user. points: market, row (of the market's own table)."""
    found = pd.Series("", index=points.index, dtype=object)
    for market, rows in points.groupby("market"):
        ids = corpus.items[split.market(str(market)).catalogue] if kind == "item" else corpus.market(str(market)).users
        found[rows.index] = ids[rows["row"].to_numpy()]
    return found
