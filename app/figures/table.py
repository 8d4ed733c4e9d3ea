"""Methods x markets with intervals and marks, and the published numbers beside ours."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, comparison, exports, frame, panels
from app.figures import shared
from app.study import paper
from app.study.view import View
from cmr_core.published import PROTOCOLS, load
from worker.store.session import Store

MARKS = (
    ". Mean ± half of the 95 % bootstrap interval over users. {legend} ▲ ▼: better or worse than the market's "
    "strongest single-market method (ref), paired Wilcoxon test over users, Holm-corrected over the table, p < 0.05. "
)


def draw(view: View, store: Store) -> None:
    """The table, what is missing in it, and its exports."""
    runs = view.labelled()
    if runs.empty:
        shared.nothing(view, view.wanted())
        return
    found = cached.compare(runs, view.metric)
    text, style = comparison.grid(found)
    theirs = paper.numbers(view.spec.paper, view.metric, found.targets, load()) if view.spec.paper else pd.DataFrame()
    if len(theirs) and st.toggle("Published numbers beside ours", True, key=f"paper-{view.text}"):
        text, style = beside(text, style, _pairs(view, runs, theirs), theirs)
    panels.grid(text, style)
    shared.partial(view.wanted())
    marks = MARKS.format(legend=panels.legend(style))
    shared.caption(view, runs, marks + panels.about_rows(found.labels) + _source(view, theirs))
    if len(theirs) and (near := paper.nearness(found.cells, theirs, _pairs(view, runs, theirs))):
        where = frame.literal(str(view.spec.paper))
        st.markdown(f"**Markets within {paper.NEAR} of {where}, by {view.title}:** {frame.literal(near)}.")
    notes = [f"{view.title}, {view.text}", found.note(), f"study {view.spec.name} {view.study_id}"]
    rows = exports.csv(comparison.export_rows(found, view.text), notes)
    st.download_button("CSV", rows, f"{view.spec.name}-table.csv", "text/csv", on_click="ignore", key="table-csv")


def beside(
    text: pd.DataFrame, style: pd.DataFrame, pairs: dict[str, str], theirs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table with a column of the paper's numbers right of each market, and the paper's other methods below."""
    rest = [name for name in theirs.index if name not in pairs.values()]
    names = [*text.index, *(f"{name} (paper only)" for name in rest)]
    rows = [*(pairs.get(label, "") for label in text.index), *rest]
    columns, styles = {}, {}
    for name in text.columns:
        columns[name] = [*text[name], *["—"] * len(rest)]
        styles[name] = [*style[name], *[""] * len(rest)]
        if name in theirs:
            numbers = theirs[name].reindex(rows)
            columns[f"{name}, paper"] = ["—" if pd.isna(value) else f"{value:.4f}" for value in numbers]
            styles[f"{name}, paper"] = ["paper"] * len(names)
    return pd.DataFrame(columns, index=names), pd.DataFrame(styles, index=names)


def _pairs(view: View, runs: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, str]:
    return paper.pairs(paper.names(runs, view.known), list(theirs.index))


def _source(view: View, theirs: pd.DataFrame) -> str:
    if not view.spec.paper:
        return ""
    source = frame.literal(view.spec.paper)
    if theirs.empty:
        return f" {source} reports no {view.title} for these markets."
    how = PROTOCOLS.get(view.spec.paper.split()[0].lower(), "another protocol")
    return f" Columns “paper”: {source}, under its own protocol ({frame.literal(how)}); never averaged with ours."
