"""Sparse and rich markets (DCMPT paper, figure 3): which half a market belongs to, by a measure of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

MEASURES = {
    "pairs": "Interactions",
    "density": "Density (interactions per user and item)",
    "users": "Users",
    "paper": "As the DCMPT paper divides them",
}
SPARSE, RICH = "Sparse markets", "Rich markets"
PAPER = {"ca": SPARSE, "uk": SPARSE, "jp": SPARSE, "fr": RICH, "mx": RICH, "in": RICH}


def halves(markets: Sequence[str], facts: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, str]:
    """Market -> SPARSE or RICH, sparsest first; of an odd number the middle one is sparse.

    The paper names six markets and no measure; others than its six are in no half.
    """
    if measure == "paper":
        return {name: PAPER[name] for name in PAPER if name in markets}
    order = sorted(markets, key=lambda name: (float(facts[name][measure]), name))
    return {name: SPARSE if at < (len(order) + 1) // 2 else RICH for at, name in enumerate(order)}


def frame(cells: pd.DataFrame, half: Mapping[str, str]) -> pd.DataFrame:
    """Cells of a comparison in their halves: label, target, half, mean, low, high, n; methods in the cells' order."""
    kept = cells[cells["target"].isin(half)].assign(half=lambda rows: rows["target"].map(half))
    at = kept["target"].map({name: n for n, name in enumerate(half)})
    first = {label: n for n, label in enumerate(dict.fromkeys(kept["label"]))}
    order = pd.DataFrame({"method": kept["label"].map(first), "market": at}).sort_values(["method", "market"]).index
    return kept.loc[order, ["label", "target", "half", "mean", "low", "high", "n"]].reset_index(drop=True)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread (largest minus smallest) over each half's markets: label, half, mean, spread, markets."""
    groups = found.groupby(["label", "half"], sort=False)["mean"]
    table = groups.agg(mean="mean", spread=lambda values: values.max() - values.min(), markets="size")
    return table.reset_index()
