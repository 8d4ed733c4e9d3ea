"""Overview: what there is, what is going on, and what to do next."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import frame, queries, words
from worker.store.session import Store


def body(store: Store) -> None:
    """Counts, the latest studies and one suggestion."""
    frame.header(
        "Cross-market recommendation",
        "Which method and which source markets recommend best in a target market, is the difference real, "
        "and what does it cost?",
    )
    counts, alive = queries.state_counts(store), queries.workers(store)
    corpora = queries.corpora(store)
    _numbers(counts, len(alive), len(corpora))
    _next_step(counts, len(alive), len(corpora))
    st.subheader("Studies", anchor=False)
    studies = queries.studies(store)
    if studies.empty:
        st.caption("No study yet. A study is a set of runs that were launched together.")
    else:
        _studies(studies)


def _numbers(counts: dict[str, int], alive: int, corpora: int) -> None:
    failed = counts.get("failed", 0) + counts.get("lost", 0)
    shown = {
        "Corpora": corpora,
        "Waiting runs": counts.get("queued", 0),
        "Running": counts.get("running", 0),
        "Finished": counts.get("succeeded", 0),
        "Failed or silent": failed,
        "Workers alive": alive,
    }
    for column, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
        column.metric(label, words.count(value), border=True)


def _next_step(counts: dict[str, int], alive: int, corpora: int) -> None:
    waiting = counts.get("queued", 0) + counts.get("running", 0)
    if not corpora:
        frame.empty(
            "**There is no data yet.** Add market files with `./cmr data add PATH`, or fetch a public corpus with "
            "`./cmr data fetch xmarket-electronics`. Then come back and launch a comparison."
        )
    elif waiting and not alive:
        frame.empty(
            "**Runs are waiting and no worker is alive.** Start one with `./cmr worker`; nothing is lost meanwhile.",
            "views/runs.py",
            "See the waiting runs",
        )
    elif waiting:
        frame.empty("**Runs are under way.**", "views/runs.py", "Watch them")
    elif counts.get("succeeded"):
        frame.empty("**Results are ready.**", "views/compare.py", "Compare methods and markets")
    else:
        frame.empty("**Everything is ready for a first comparison.**", "views/launch.py", "Launch a study")


def _studies(studies: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {
            "Study": studies["name"],
            "Runs": studies["runs"],
            "Progress": studies["over"] / studies["runs"].clip(lower=1),
            "Launched": studies["created_at"].map(words.minute),
            "By": studies["created_by"],
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    chosen = st.dataframe(
        table,
        hide_index=True,
        key="studies",
        on_select="rerun",
        selection_mode="single-row",
        column_config={"Progress": bar},
    )
    rows = chosen["selection"]["rows"]
    study = None if not rows else str(studies["id"].iloc[rows[0]])
    with st.container(horizontal=True):
        if st.button("Show its runs", disabled=study is None, type="primary", help="Tick a study first"):
            st.switch_page("views/runs.py", query_params={"study": str(study)})
        if st.button("Copy as a new study", disabled=study is None, help="Tick a study first"):
            st.switch_page("views/launch.py", query_params={"study": str(study)})


frame.show(body)
