"""Where methods differ: sparse against rich markets, rare against popular items (DCMPT paper, figures 3 and 4)."""

from __future__ import annotations

import streamlit as st

from app import cached, charts, comparison, frame, panels, queries, words
from app.figures import shared
from app.study import richness
from app.study.view import View
from worker.store.corpora import get_corpus
from worker.store.session import Store


def sparse_and_rich(view: View, store: Store) -> None:
    """Bars per market in two panels, sparse and rich, and each method's mean and spread over both halves."""
    runs = view.labelled()
    if runs.empty:
        shared.nothing(view, view.wanted())
        return
    names = richness.MEASURES
    by = frame.choose("Markets divided by", list(names), "halves", text=names.__getitem__)
    facts = get_corpus(store, view.spec.corpus).description["markets"]
    found = cached.compare(runs, view.metric)
    half = richness.halves(found.targets, facts, by)
    rows = richness.frame(found.cells, half)
    if rows.empty:
        st.caption("None of these markets is among the six that the paper divides.")
        return
    order = (richness.SPARSE, richness.RICH)
    if rows["label"].nunique() > charts.MANY:
        dots = rows.rename(columns={"target": "series", "mean": "value", "half": "panel"})
        known = charts.series_colors(view.markets)  # the colour that a market has on other pages
        figure = charts.dots(dots, {name: known[name] for name in half}, view.title, order)
    else:
        figure = charts.halves(rows, order, shared.palette(runs), view.title)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-halves"), key="halves-chart")
    shared.partial(view.wanted())
    how = "" if by == "paper" else " The sparser half of the markets stands left, the sparsest market first."
    shared.caption(view, runs, f". Means with their 95 % interval over users.{how}")
    with st.expander("Mean and spread over the markets of each half"):
        table = richness.summary(rows)
        names = {"label": "Method", "half": "Half", "mean": "Mean", "spread": "Largest minus smallest"}
        numbers = dict.fromkeys(("Mean", "Largest minus smallest"), st.column_config.NumberColumn(format="%.4f"))
        st.dataframe(table.rename(columns=names | {"markets": "Markets"}), hide_index=True, column_config=numbers)


def items(view: View, store: Store) -> None:
    """The metric for items by how often they occur in the target's training part."""
    runs = view.labelled()
    if runs.empty:
        shared.nothing(view, view.wanted())
        return
    targets = sorted(set(runs["target"]))
    target = frame.choose("Market of the item groups", targets, "groups-market", default="mx")
    values = queries.study_values(store, view.study_id, view.metric)
    mine = runs[runs["target"] == target]
    slices = values.merge(mine[["run_id", "label"]], on="run_id")
    order = mine.groupby("label")["value"].mean().sort_values(ascending=False)
    shown = comparison.by_group(slices, "item", list(order.index))
    if shown.empty:
        st.caption("No item group was stored for these runs.")
        return
    figure = panels.groups_chart(shown, shared.palette(runs), view.title)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-items-{target}"), key="items-chart")
    wanted = view.wanted()
    shared.partial(wanted[wanted["target"] == target])
    shared.caption(
        view,
        mine,
        f". Market {target}. Groups by the item's training interactions in the target; N of a group: users with a "
        f"held-out item in it, of {words.count(mine['n'].max())}.",
    )
