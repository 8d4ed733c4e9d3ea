"""A corpus's stored description and audit as tables. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def sizes(description: Mapping[str, Any]) -> pd.DataFrame:
    """One row per market, largest first."""
    rows = [
        {
            "Market": name,
            "Users": m["users"],
            "Items": m["items"],
            "Interactions": m["rows"],
            "Pairs": m["pairs"],
            "Density": m["density"],
            "Median per user": m["user_quantiles"]["50"],
            "Median per item": m["item_quantiles"]["50"],
            "Sold elsewhere too": m["items_shared"],
            "Top 10 % of items": m["top_share"],
            "Gini": round(m["gini"], 3),
            "First day": m["first_day"] or "—",
            "Last day": m["last_day"] or "—",
        }
        for name, m in description["markets"].items()
    ]
    return pd.DataFrame(rows).sort_values("Pairs", ascending=False, ignore_index=True)


def overlap(description: Mapping[str, Any]) -> pd.DataFrame:
    """Square: the share of the row market's items that the column market sells too."""
    names = description["overlap"]["markets"]
    shared = np.asarray(description["overlap"]["items"], dtype=float)
    return pd.DataFrame(shared / np.maximum(np.diag(shared), 1)[:, None], index=names, columns=names)


def tail(description: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """By market: (n, share of its items with at least n interactions)."""
    result = {}
    for name, market in description["markets"].items():
        counts = np.asarray(market["long_tail"]["items"], dtype=float)
        share = counts[::-1].cumsum()[::-1] / max(counts.sum(), 1)
        pairs = zip(market["long_tail"]["from"], share.tolist(), strict=True)
        result[name] = [(float(n), value) for n, value in pairs if value > 0]
    return result


def audit(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per market with the audit's counts and shares."""
    names = {
        "rows": "Interactions",
        "repeats": "Repeats",
        "same_day": "Same day and rating",
        "one_day": "Users with one day only",
        "short_users": "Users with < 3 items",
        "rare_items": "Items with < 3 interactions",
        "dated": "Dated",
    }
    rows = [
        {"Market": name} | {text: m.get(key) for key, text in names.items()} for name, m in found["markets"].items()
    ]
    table = pd.DataFrame(rows)
    for text in (names["same_day"], names["one_day"], names["rare_items"], names["dated"]):
        table[text] = table[text].map(lambda share: "—" if share is None else f"{share:.1%}")
    return table
