"""Numbers, times and states as people say them. No Streamlit here."""

from __future__ import annotations

import datetime as dt
import math


def duration(seconds: float | None) -> str:
    """Seconds in the largest two fitting units, e.g. `2 min 5 s`; an em dash where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if seconds < 10:
        return "< 0.1 s" if seconds < 0.1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def day(moment: dt.datetime | None) -> str:
    """A moment's date, in UTC."""
    return "—" if moment is None or moment != moment else f"{moment:%Y-%m-%d}"


def minute(moment: dt.datetime | None) -> str:
    """A moment to the minute, in UTC."""
    return "—" if moment is None or moment != moment else f"{moment:%Y-%m-%d %H:%M} UTC"


def ago(moment: dt.datetime, now: dt.datetime) -> str:
    """How long ago a moment was, in the largest unit, e.g. `3 min ago`."""
    seconds = max(0.0, (now - moment).total_seconds())
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return "just now"


def size(n: float) -> str:
    """Bytes, e.g. `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def count(n: float) -> str:
    """A whole number with separators, e.g. `131,827`."""
    return f"{n:,.0f}"


def metric(name: str) -> str:
    """A metric's name as tables print it, e.g. `NDCG@10`."""
    kind, _, cutoff = name.partition("@")
    shown = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP", "gini": "Gini"}.get(kind, kind.capitalize())
    return f"{shown}@{cutoff}" if cutoff else shown


def plural(n: int, thing: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count(n)} {thing}" + ("" if n == 1 else "s")


def short(n: float) -> str:
    """A large number in three digits, e.g. `46.1K`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(n) >= limit:
            return f"{n / limit:.3g}{unit}"
    return f"{n:.3g}"
