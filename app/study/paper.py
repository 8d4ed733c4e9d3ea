"""A paper's numbers beside ours: which of its rows is which of our methods. The numbers themselves are never mixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from cmr_core.published import Published

# names that papers use for one and the same method, without signs: ours -> theirs
ALIASES = {
    "neumf": ("nmf", "neumf"),
    "lightgcn": ("lightgcn", "lightgcntargetonly"),
    "m3rec": ("m3rec", "m³rec"),
    "acmr": ("acmr", "bert4xmr"),
    "widedeep": ("widedeep", "wideanddeep"),
}


def key(name: str) -> str:
    """A name without case, brackets and signs, e.g. `Wide&Deep++` -> `widedeep++`; `no-prompt` -> `w/oprompt`."""
    short = re.sub(r"\s*\(.*?\)|,.*$", "", name.lower())
    short = re.sub(r"^(no-|without |w/o )", "w/o", short)
    return re.sub(r"[^a-z0-9³+/]", "", short.replace("w/o", "/")).replace("/", "w/o")


def counterpart(names: Sequence[str], theirs: Sequence[str]) -> str | None:
    """The paper's row for one of our methods, known by any of `names` (its label, its name), or None."""
    by_key = {key(name): name for name in theirs}
    for mine in map(key, names):
        plus = "++" if mine.endswith("++") else ""
        same = next(
            (group for group in ALIASES.values() if mine.removesuffix("++") in group), (mine.removesuffix("++"),)
        )
        for candidate in (mine, *(name + plus for name in same)):
            if candidate in by_key:
                return by_key[candidate]
    return None


def numbers(source: str, metric: str, targets: Sequence[str], known: Sequence[Published]) -> pd.DataFrame:
    """The paper's table for a metric: rows its methods in its order, columns markets; empty where it has none."""
    rows = [(p.method, p.market, p.value) for p in known if p.source == source and p.metric == metric]
    frame = pd.DataFrame(rows, columns=["method", "market", "value"])
    order = list(dict.fromkeys(frame["method"]))
    wide = frame.pivot(index="method", columns="market", values="value").reindex(order)
    return wide[[target for target in targets if target in wide.columns]]


def pairs(labels: Mapping[str, str], theirs: Sequence[str]) -> dict[str, str]:
    """Our label -> the paper's row. Of several configurations of a method, the first one stands for it.

    `labels`: label -> method, in the table's order.
    """
    found: dict[str, str] = {}
    for label, method in labels.items():
        row = counterpart((label, method), theirs)
        if row is not None and row not in found.values():
            found[label] = row
    return found
