"""Numbers that the papers report, to be shown beside ours and never averaged with them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

PROTOCOLS = {
    "dcmpt": "ratio 80/10/10 · whole catalogue, as the DCMPT paper describes it",
    "acmr": "leave-one-out · 99 sampled negatives, as the ACMR paper describes it",
}
_TABLES = ("acmr_table3", "acmr_table4_cold_market", "dcmpt_table1", "dcmpt_table2_ablation")


@dataclass(frozen=True)
class Published:
    """One number of a paper; `protocol` says in words how it was measured."""

    source: str
    method: str
    family: str
    market: str
    metric: str  # e.g. ndcg@10
    value: float
    protocol: str


@dataclass(frozen=True)
class PublishedCost:
    """What adapting a model costs according to a paper, with its quality."""

    source: str
    paradigm: str
    method: str
    market: str
    parameters: float
    seconds_per_epoch: float
    minutes: float
    recall_at_10: float


@lru_cache(maxsize=1)
def load() -> tuple[Published, ...]:
    """All published quality numbers, in the papers' order."""
    return tuple(
        Published(
            row["source"],
            row["method"],
            row["family"],
            row["market"],
            row["metric"],
            float(row["value"]),
            PROTOCOLS[name.split("_")[0]],
        )
        for name in _TABLES
        for row in _rows(name)
    )


@lru_cache(maxsize=1)
def load_costs() -> tuple[PublishedCost, ...]:
    """Updated parameters and training time by paradigm (DCMPT paper, table 3)."""
    return tuple(
        PublishedCost(
            row["source"],
            row["paradigm"],
            row["method"],
            row["market"],
            _count(row["parameters_updated"]),
            float(row["seconds_per_epoch"]),
            float(row["training_minutes"]),
            float(row["recall@10"]),
        )
        for row in _rows("dcmpt_table3_efficiency")
    )


def _rows(name: str) -> list[dict[str, str]]:
    text = (files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _count(text: str) -> float:
    units = {"K": 1e3, "M": 1e6}
    return float(text.rstrip("KM")) * units.get(text[-1], 1.0)
