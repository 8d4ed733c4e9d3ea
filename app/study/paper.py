"""A paper's numbers beside ours: which of its rows is which of our methods. The numbers themselves are never mixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from cmr_core.models.registry import MethodInfo
from cmr_core.published import Published

# methods that papers call otherwise than we do, without signs
ALIASES = {"neumf": "nmf", "neumf++": "nmf++", "acmr": "bert4xmr"}

NEAR = 0.03  # what counts as the same figure, made again


def key(name: str) -> str:
    """A name without case and signs: `Wide&Deep++` and `wide-deep-all` -> `widedeep++`; `no-prompt` -> `w/oprompt`."""
    short = re.sub(r"^(no-|without )", "w/o", name.lower())
    return re.sub(r"[^a-z0-9+/]", "", re.sub(r"-all$", "++", short))


def counterpart(names: Sequence[str], theirs: Sequence[str]) -> str | None:
    """The paper's row of what we call by any of `names`, or None."""
    known = {key(name): name for name in theirs}
    mine = [key(name) for name in names]
    found = [known[name] for name in (*mine, *(ALIASES.get(name, "") for name in mine)) if name in known]
    return found[0] if found else None


def numbers(source: str, metric: str, targets: Sequence[str], known: Sequence[Published]) -> pd.DataFrame:
    """The paper's table for a metric: rows its methods in its order, columns markets; empty where it has none."""
    rows = [(p.method, p.market, p.value) for p in known if p.source == source and p.metric == metric]
    frame = pd.DataFrame(rows, columns=["method", "market", "value"])
    order = list(dict.fromkeys(frame["method"]))
    wide = frame.pivot(index="method", columns="market", values="value").reindex(order)
    return wide[[target for target in targets if target in wide.columns]]


def pairs(names: Mapping[str, Sequence[str]], theirs: Sequence[str]) -> dict[str, str]:
    """Our label -> the paper's row, each row once. `names`: by label, all names that it may have there."""
    found: dict[str, str] = {}
    for label, known in names.items():
        row = counterpart(known, theirs)
        if row is not None and row not in found.values():
            found[label] = row
    return found


def variant(point: Mapping[str, object]) -> str:
    """A point of a grid as a variant's name: `no-prompt` becomes `w/o prompt`; numbers keep their setting's name."""
    first = next(iter(point.values()))
    if len(point) == 1 and isinstance(first, str):
        return f"w/o {first[3:]}" if first.startswith("no-") else first
    return ", ".join(f"{name} = {value}" for name, value in point.items())


def nearness(cells: pd.DataFrame, theirs: pd.DataFrame, pairs: Mapping[str, str], reach: float = NEAR) -> str:
    """In how many markets our means are within `reach` of the paper's, by its rows; empty where none is here.

    `cells`: label, target, mean; `theirs`: as `numbers`; `pairs`: as `pairs`. E.g. `DCMPT 1 of 2 (de; farthest: jp
    +.0412)`.
    """
    said = []
    for label, name in pairs.items():
        mine = cells[cells["label"] == label]
        ours, paper = dict(zip(mine["target"], mine["mean"], strict=True)), theirs.loc[name].dropna()
        apart = {market: float(ours[market] - paper[market]) for market in paper.index if market in ours}
        if apart:
            near = [market for market, difference in apart.items() if abs(difference) <= reach]
            worst = max(apart, key=lambda market: abs(apart[market]))
            most = f"farthest: {worst} {apart[worst]:+.4f}".replace("0.", ".", 1)
            where = f"{', '.join(near)}; {most}" if near else most
            said.append(f"{name} {len(near)} of {len(apart)} ({where})")
    return ", ".join(said)


def names(runs: pd.DataFrame, known: Mapping[str, MethodInfo]) -> dict[str, list[str]]:
    """All names of each label, in the order of `runs`: itself, its method's, its grid's point.

    The method's, where nothing is changed in it, or where its settings are the published ones.
    """
    found = {}
    for row in runs.drop_duplicates("label").to_dict("records"):
        label, method, point = str(row["label"]), str(row["method"]), row["point"]
        info = known.get(method)
        standard = info is not None and (info.label == label or _published(info, row["settings"]))
        found[label] = [label, *([method] if standard else [variant(point)] if point else [])]
    return found


def _published(info: MethodInfo, settings: Mapping[str, object]) -> bool:
    return bool(info.published) and all(settings.get(name) == value for name, value in info.published.items())
