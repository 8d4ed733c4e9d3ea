"""What methods cost and what they reach (DCMPT paper, table 3)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import cached, charts, exports, frame, queries, words
from app.figures import shared
from app.study import efficiency, paper
from app.study.view import View
from cmr_core.published import load_costs
from worker.store.session import Store

JUDGE = "recall@10"  # what the paper's table reports
COSTS = {"parameters": "Parameters updated", "total": "Seconds in total", "memory": "Peak memory (MiB)"}
PAPERS = {"parameters": "paper_parameters", "total": "paper_seconds"}  # the papers' columns of these costs


def draw(view: View, store: Store) -> None:
    """A table of costs with the paper's beside, and quality against a cost."""
    if JUDGE in queries.study_metrics(store, view.study_id, str(view.runs["protocol"].iloc[0])):
        view = view.judged_by(JUDGE, queries.study_values(store, view.study_id, JUDGE))
    runs = view.labelled()
    if runs.empty:
        shared.nothing(view, view.wanted())
        return
    left, right = st.columns(2)
    targets = sorted(set(runs["target"]))
    with left:
        target = frame.choose("Market", targets, "cost-market", default="uk")
    with right:
        cost = frame.choose("Cost", list(COSTS), "cost", text=COSTS.__getitem__)
    mine = runs[runs["target"] == target]
    found = efficiency.costs(mine, queries.study_stages(store, view.study_id))
    papers = [p for p in load_costs() if p.market == target and view.metric == JUDGE]
    beside = efficiency.beside(found, papers, paper.names(mine, view.known))
    theirs = "Columns “paper”" + (" and open diamonds" if cost in PAPERS else "")
    _table(view, beside, papers=bool(papers))
    _scatter(view, beside, mine, cost)
    shared.partial(view.wanted()[view.wanted()["target"] == target])
    shared.caption(
        view,
        mine,
        f". Market {target}, means over seeds. Parameters: updated by the last stage, or solved for. Epoch: of the "
        "longest stage that is the method's own. In total: with stages that another run of the study had built, at the "
        "time they took there; — where a run outside the study had. Memory: the worker process at its peak, libraries "
        "included." + (f" {theirs}: DCMPT paper, table 3, other machines and another protocol." if papers else ""),
    )


def _table(view: View, rows: pd.DataFrame, *, papers: bool) -> None:
    columns = {
        "Method": rows["label"],
        view.title: rows["quality"],
        "Parameters": rows["parameters"],
        "Epoch (s)": rows["epoch"],
        "Run (s)": rows["seconds"],
        "In total (s)": rows["total"],
        "Memory (MiB)": rows["memory"],
        "GPU memory (MiB)": rows["gpu_memory"],
    }
    if papers:
        columns |= {
            f"{view.title}, paper": rows["paper_quality"],
            "Parameters, paper": rows["paper_parameters"],
            "Epoch (s), paper": rows["paper_epoch"],
            "In total (s), paper": rows["paper_seconds"],
        }
    table = pd.DataFrame(columns)
    shown = table.drop(columns=[name for name in table if table[name].isna().all()])
    formats: dict[Any, Any] = {name: _format(name) for name in shown.columns[1:]}
    st.dataframe(shown.style.format(formats, na_rep="—"), hide_index=True, placeholder="—")
    data = exports.csv(table, [view.text, f"study {view.spec.name} {view.study_id}"])
    st.download_button("CSV", data, f"{view.spec.name}-costs.csv", "text/csv", on_click="ignore", key="costs-csv")


def _format(name: str) -> str:
    if name.startswith("Parameters") or "MiB" in name:
        return "{:,.0f}"
    return "{:,.1f}" if "(s)" in name else "{:.4f}"


def _scatter(view: View, rows: pd.DataFrame, runs: pd.DataFrame, cost: str) -> None:
    ours = rows[rows["quality"].notna() & rows[cost].notna()]
    if ours.empty:
        st.caption(f"No run of this study has measured it: {COSTS[cost].lower()}.")
        return
    intervals = cached.compare(runs, view.metric).cells.set_index("label")
    points = pd.DataFrame(
        {
            "label": ours["label"],
            "x": ours[cost].clip(lower=1 if cost == "parameters" else 0.001),
            "y": ours["quality"],
            "low": ours["label"].map(intervals["low"]),
            "high": ours["label"].map(intervals["high"]),
            "text": ours[cost].map(words.short),
            "symbol": "circle",
        }
    )
    theirs = PAPERS.get(cost)
    if theirs is not None and rows[theirs].notna().any():
        known = rows[rows[theirs].notna()]
        names = known["label"].str.replace(" (paper only)", "", regex=False) + " (paper)"
        published = {
            "label": names,
            "x": known[theirs],
            "y": known["paper_quality"],
            "text": known[theirs].map(words.short),
        }
        points = pd.concat([points, pd.DataFrame(published).assign(symbol="diamond-open")], ignore_index=True)
    figure = charts.tradeoff(points, shared.palette(runs), COSTS[cost], view.title)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-{cost}"), key="costs-chart")
