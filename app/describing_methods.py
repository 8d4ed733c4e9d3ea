"""A method as tables: what it is, what it can be told, and where it stands. No Streamlit here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
import yaml

from app import comparison
from app.forms import Field, fields
from cmr_core.models.registry import MethodInfo

BEST = "Best of the market"


def overview(methods: Iterable[MethodInfo]) -> pd.DataFrame:
    """One row per method: name, family, whether it learns from other markets, and its first sentence."""
    rows = [(info.label, info.family, info.uses_sources, info.summary) for info in methods]
    return pd.DataFrame(rows, columns=["Method", "Family", "Learns from other markets", "What it does"])


def paragraphs(info: MethodInfo) -> list[str]:
    """The description after its first sentence."""
    body = info.doc.removeprefix(info.summary).strip()
    return [" ".join(part.split()) for part in body.split("\n\n") if part.strip()]


def facts(info: MethodInfo) -> Iterator[str]:
    """What decides how it is to be launched and read."""
    if info.combines:
        yield "It is made of other methods, its members, which run first where they have not yet."
    elif info.uses_sources:
        yield "It learns from the source markets too; a study can choose which."
    else:
        yield "It learns from the target market alone; the choice of sources does not change it."
    if info.deterministic:
        yield "Nothing in it is random but the order of ties: one seed is enough."
    else:
        yield "It starts from random numbers: judge it by several seeds."
    if info.pretrains:
        yield "Its result is the backbone that other methods adapt; it is trained once and shared."


def settings(info: MethodInfo) -> pd.DataFrame:
    """One row per setting: name in study files, default, what was published where that differs, limits, meaning."""
    known = info.published
    rows = [
        (field.name, _value(field.default), _value(known[field.name]) if field.name in known else "", _allowed(field),
         field.help)
        for field in fields(info.config)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Setting", "Default", "Published", "Allowed", "What it does"])


def as_published(info: MethodInfo) -> str:
    """The lines of a study file that ask for the method with what was published in place of our defaults."""
    method = {"method": info.name, "label": f"{info.label}, as published", "settings": dict(info.published)}
    return yaml.safe_dump([method], sort_keys=False, allow_unicode=True)


def standing(cells: pd.DataFrame, method: str) -> pd.DataFrame:
    """The method's configurations beside the target's popularity and the best, in each market where it has run.

    `cells` as `comparison.means` gives them. Columns: label (the market), series, value, n, holder (whose value it is).
    """
    best = cells.loc[cells.groupby("target")["mean"].idxmax()].assign(series=BEST)
    base = cells[cells["method"] == comparison.POPULARITY]
    mine = cells[cells["method"] == method]
    parts = [mine.assign(series=mine["label"]), best]
    if method != comparison.POPULARITY:
        parts.insert(1, base.assign(series=base["label"]))
    joined = pd.concat(parts, ignore_index=True)
    shown = joined[joined["target"].isin(mine["target"])].rename(columns={"label": "holder", "mean": "value"})
    order = shown.assign(label=shown["target"]).sort_values("label", kind="stable", ignore_index=True)
    return order[["label", "series", "value", "n", "holder"]]


def compared(stands: pd.DataFrame) -> pd.DataFrame:
    """The same as a table: a row per market, a column per series, and who is best."""
    wide = stands.pivot_table(index="label", columns="series", values="value", sort=False)
    holder = stands[stands["series"] == BEST].set_index("label")["holder"]
    table = wide.rename(columns={BEST: "Best"}).assign(
        **{"Which is": holder, "Test users": stands.groupby("label")["n"].max()}
    )
    return table.rename_axis("Market", axis=0).rename_axis(None, axis=1).reset_index()


def _value(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(field: Field) -> str:
    if field.choices:
        return ", ".join(map(str, field.choices))
    return field.range or {"switch": "on, off", "text": "text"}.get(field.kind, "")
