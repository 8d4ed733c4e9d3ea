"""What is lost without each part of a method (DCMPT paper, table 2; ACMR paper, figure 3)."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, exports, frame
from app.figures import shared
from app.study import ablation
from app.study.view import View
from cmr_core.published import load
from worker.store.session import Store


def draw(view: View, store: Store) -> None:
    """A chart for each method whose parts are taken away."""
    groups = ablation.groups(view)
    for at, group in enumerate(groups):
        if len(groups) > 1:
            st.markdown(f"**{frame.literal(group.full)}**")
        _one(view, group, f"ablation-{at}")


def _one(view: View, group: ablation.Group, key: str) -> None:
    there = group.runs.groupby("target")["label"].agg(set)
    if not any(group.full in labels and labels & set(group.variants) for labels in there):
        shared.nothing(view, group.wanted, f"It needs {group.full} itself and a variant of it, finished on one market.")
        return
    found = ablation.differences(cached.compare(group.runs, view.metric, group.full).cells, group)
    source, targets = view.spec.paper, sorted(set(group.runs["target"]))
    theirs = ablation.published(group, source, view.metric, targets, load())
    figure = charts.ablation(found, theirs, f"{view.title}, difference to the full method")
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-ablation"), key=key)
    shared.partial(group.wanted)
    diamonds = (
        f" Open diamonds: the same differences in {frame.literal(source)}, under its own protocol."
        if len(theirs)
        else ""
    )
    shared.caption(
        view,
        group.runs,
        f". Each variant minus {frame.literal(group.full)} on the same users, with the 95 % bootstrap interval of the "
        f"difference; below zero the part helps.{diamonds}",
    )
    with st.expander("The differences in numbers"):
        _table(found, theirs, view, f"{key}-csv")


def _table(found: pd.DataFrame, theirs: pd.DataFrame, view: View, key: str) -> None:
    names = {"label": "Variant", "target": "Market", "difference": "Difference", "low": "95 % from", "high": "to"}
    names |= {"p_holm": "p (Holm)", "significant": "Significant", "n": "N"}
    shown = found
    if len(theirs):
        shown = found.merge(theirs, how="left", on=["label", "target"])
        names["value"] = "Difference in the paper"
    table = shown[list(names)].rename(columns=names)
    st.dataframe(table, hide_index=True)
    data = exports.csv(table, [f"{view.title}, {view.text}", f"study {view.spec.name} {view.study_id}"])
    st.download_button(
        "CSV",
        data,
        f"{view.spec.name}-ablation.csv",
        "text/csv",
        on_click="ignore",
        key=key,
    )
