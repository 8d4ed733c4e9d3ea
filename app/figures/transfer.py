"""Which source markets help which target, and which to use."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, exports, frame, queries
from app.figures import shared
from app.study import rows, transfer
from app.study.view import View
from worker.store.session import Store


def draw(view: View, store: Store) -> None:
    """Two matrices and the advice that follows, for one method."""
    valid = queries.study_values(store, view.study_id, view.metric, part="valid")
    by_run = valid[valid["slice"] == "all"].set_index("run_id")["value"]
    methods = {sets.label: sets for sets in transfer.methods(view, by_run)}
    if not methods:
        shared.nothing(view, view.wanted().iloc[:0], "No method of this study learns from source markets.")
        return
    label = frame.choose("Method", list(methods), "transfer")
    sets = methods[label]
    effects = _effects(view, sets)
    if effects.empty:
        shared.nothing(view, sets.wanted, "It needs runs with all sources and with one left out, or with one alone.")
        return
    left, right = st.columns(2, gap="medium")
    with left:
        _matrix(view, effects, "adding", "What a source adds to all others", "with all sources − without this one")
    with right:
        alone = f"with this source only − {sets.alone}, target alone"
        _matrix(view, effects, "alone", "What a source gives alone", alone)
    shared.partial(sets.wanted)
    shared.caption(
        view,
        sets.runs,
        ". Differences on the same test users; blue gains, red loses. ▲ ▼: significant, paired Wilcoxon test over "
        "users, Holm-corrected over the matrix, p < 0.05.",
    )
    _advice(view, effects, sets)


def _effects(view: View, sets: transfer.Sets) -> pd.DataFrame:
    parts = []
    for target, runs in sets.runs.groupby("target"):
        named = tuple(sorted(rows.full_set(view.spec, view.markets, str(target))))
        key = tuple(zip(runs["run_id"], runs["finished_at"].map(str), strict=True))
        parts.append(cached.effects(str(target), named, key, view.metric, runs))
    return transfer.assemble([part for part in parts if len(part)])


def _matrix(view: View, effects: pd.DataFrame, kind: str, title: str, how: str) -> None:
    st.markdown(f"**{title}**")
    st.caption(frame.literal(how))
    values, texts = transfer.matrix(effects, kind)
    if values.empty:
        needs = "a method that uses no sources" if kind == "alone" else "runs without one source each"
        st.caption(f"No cell is complete yet. It needs {needs}.")
        return
    figure = charts.effects(values, texts, "source", "target")
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-{kind}"), key=f"transfer-{kind}")


def _advice(view: View, effects: pd.DataFrame, sets: transfer.Sets) -> None:
    st.markdown("**Which sources to use**")
    lines = []
    for target in sorted(set(effects["target"])):
        said = transfer.advice(effects, target, sets.alone)
        if said:
            lines.append(f"- **{frame.literal(target)}**: {frame.literal(said)}")
    st.markdown("\n".join(lines))
    st.caption(
        f"A source is used where adding it raised {view.title} on validation. What it adds or takes is the test's, and "
        "decides nothing; where “significant” is not said, it is not. Each source was judged with all others present; "
        "leaving out several at once was not tried."
    )
    data = exports.csv(effects, [f"{view.title}, {view.text}", f"study {view.spec.name} {view.study_id}"])
    st.download_button("CSV", data, f"{view.spec.name}-transfer.csv", "text/csv", on_click="ignore", key="transfer-csv")
