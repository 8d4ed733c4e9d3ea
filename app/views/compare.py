"""Compare: methods x markets under one protocol, never two."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, choices, comparison, frame, panels, queries
from worker.store import naming
from worker.store.comparable import left_out, same_splits
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store

VIEWS = {
    "table": "Table",
    "chart": "Chart",
    "tradeoff": "Trade-off",
    "richness": "By market richness",
    "groups": "Cold items and users",
    "wins": "Wins and losses",
    "beyond": "Beyond accuracy",
}
OTHER = "not known here"


def body(store: Store) -> None:
    """Selections, then the view that the address names."""
    frame.header("Compare", "A row is a configuration, its seeds are inside it. Protocols are never mixed.")
    *first, left, right = st.columns([2, 4, 2, 1])
    chosen = choices.both(store, first)
    if chosen is None:
        return
    digest, protocol, text = chosen
    metric = choices.metric(choices.accuracy(queries.metric_names(store, digest, protocol)), left, right)
    results = queries.results(store, digest, protocol, metric)
    markets = market_names(get_corpus(store, digest))
    labelled = naming.label_rows(results, markets)
    chosen_rows, reference = _rows(labelled)
    kept = same_splits(chosen_rows)
    if kept.empty:
        frame.empty("**Nothing fits these filters.** Clear the methods or the markets above.")
        return
    frame.remark(left_out(chosen_rows, kept))
    table = cached.compare(kept, metric, reference)
    view = panels.View(digest, protocol, text, metric, kept, table, markets)
    name = frame.choose(
        "View", list(VIEWS), "view", text=VIEWS.__getitem__, control=st.segmented_control, required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    if name in ("groups", "beyond", "richness"):
        getattr(panels, name)(view, store)
    else:
        getattr(panels, name)(view)
    address = {"corpus": digest[:12], "protocol": protocol[:12]}
    st.page_link(
        "views/inspect.py", label="Inspect single users", icon=":material/arrow_forward:", query_params=address
    )


def _rows(results: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    families = {name: info.family for name, info in cached.methods().items()}
    known = results["method"].map(families).fillna(OTHER)
    first, left, middle, right = st.columns([2, 4, 2, 3])
    with first:
        picked = frame.choose_many("Families", sorted(set(known)), "family", placeholder="All")
    results = results[known.isin(picked or set(known))]
    labels = sorted(set(results["label"]))
    with left:
        methods = frame.choose_many("Methods", labels, "row", placeholder="All")
    with middle:
        targets = frame.choose_many("Markets", sorted(set(results["target"])), "target", placeholder="All")
    kept = results[results["label"].isin(methods or labels) & results["target"].isin(targets or set(results["target"]))]
    with right:
        reference = frame.choose(
            "Compared with", [comparison.STRONGEST, *sorted(set(kept["label"]))], "against",
            text=lambda key: "Strongest single-market method" if key == comparison.STRONGEST else key,
        )  # fmt: skip
    return kept, reference


frame.show(body)
