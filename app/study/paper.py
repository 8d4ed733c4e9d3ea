"""A paper's numbers beside ours: which of its rows is which of our methods. The numbers themselves are never mixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from cmr_core.models.registry import MethodInfo
from cmr_core.published import Published

# methods that papers call otherwise than we do, without signs
ALIASES = {"neumf": "nmf", "neumf++": "nmf++", "acmr": "bert4xmr"}


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


def pairs(labels: Mapping[str, str], theirs: Sequence[str], known: Mapping[str, MethodInfo]) -> dict[str, str]:
    """Our label -> the paper's row. A label may be the paper's own name; a method with its defaults has its name too.

    `labels`: label -> method, in the study's order. Each row is given once.
    """
    found: dict[str, str] = {}
    for label, method in labels.items():
        standard = method in known and known[method].label == label
        row = counterpart((label, method) if standard else (label,), theirs)
        if row is not None and row not in found.values():
            found[label] = row
    return found
