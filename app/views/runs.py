"""Runs: the live table, with cancel, retry and copy."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import actions, auth, frame, queries, words
from worker.store.session import Store

SHOWN = 200
WIDTHS = {"Method": 220, "Market": 60, "Seed": 50, "Stage": 130, "Worker": 110, "Protocol": 130}  # pixels
STATE_COLORS = {
    "waiting": "gray",
    "running": "blue",
    "finished": "green",
    "failed": "red",
    "cancelled": "orange",
    "worker silent": "violet",
}


def body(store: Store) -> None:
    """Filters, then the table that renews itself."""
    frame.header("Runs", "Every job: active ones first, then the newest. The table renews itself every two seconds.")
    if not sum(queries.state_counts(store).values()):
        frame.empty("**No run yet.** Launch a study and watch it here.", "views/launch.py", "Launch a study")
        return
    filters = _filters(store)
    _live(store, filters)


def _filters(store: Store) -> dict[str, object]:
    studies = queries.studies(store)
    launched = zip(studies["id"], studies["name"], studies["created_at"], strict=True)
    names = {study_id: f"{name}, {words.minute(at)}" for study_id, name, at in launched}
    study, state, method, target, text = st.columns([3, 2, 2, 2, 2])
    with study:
        chosen = frame.choose("Study", ["all", *names], "study", text=lambda i: names.get(i, "All studies"))
    with state:
        said = frame.choose_many("State", list(STATE_COLORS), "state", placeholder="Any")
    with method:
        methods = frame.choose_many("Method", queries.distinct(store, "method"), "method", placeholder="Any")
    with target:
        targets = frame.choose_many("Market", queries.distinct(store, "target"), "market", placeholder="Any")
    with text:
        search = st.text_input("Search", key="q", bind="query-params", placeholder="Label or run id", max_chars=80)
    states = [state for state, word in queries.STATE_WORDS.items() if word in said]
    return {
        "study": None if chosen == "all" else chosen,
        "states": states,
        "methods": methods,
        "targets": targets,
        "text": (search or "").strip(),
    }


@st.fragment(run_every=2.0)
def _live(store: Store, filters: dict[str, object]) -> None:
    # while rows are ticked, the same rows stay in the same order: a tick must never slide to another run, and filters
    # that would take rows away wait
    key = f"table-{st.session_state.setdefault('table_number', 0)}"
    state = st.session_state.get(key)
    ticked = list(state["selection"]["rows"]) if state else []
    fixed: list[str] = st.session_state.get("table_ids", []) if ticked else []
    if fixed:
        runs, total = queries.runs(store, only=fixed, limit=SHOWN)
        runs = runs.set_index("id").loc[fixed].reset_index()
    else:
        runs, total = queries.runs(store, **filters, limit=SHOWN)  # type: ignore[arg-type]
    st.session_state["table_ids"] = list(runs["id"])
    alive = queries.workers(store)
    _status(queries.state_counts(store, filters["study"]), alive)  # type: ignore[arg-type]
    actions.show_notes()
    if runs.empty:
        st.info("No run fits these filters.")
        return
    _table(runs, key)
    if fixed and any(filters.values()):
        st.caption("The table stays as it is while rows are ticked; filters that you change apply once none is.")
    if total > len(runs) and not fixed:
        st.caption(f"Showing the first {len(runs)} of {words.count(total)}. Narrow the filters to see others.")
    _buttons(store, runs.iloc[[i for i in ticked if i < len(runs)]])


def _status(counts: dict[str, int], alive: pd.DataFrame) -> None:
    said = [f"{words.count(n)} {queries.STATE_WORDS[state]}" for state, n in sorted(counts.items())]
    busy = int(alive["run_id"].notna().sum())
    outside = counts.get("running", 0) - busy
    elsewhere = f", {words.plural(outside, 'run')} elsewhere" if outside > 0 else ""
    st.markdown(" · ".join([*said, f"**{words.plural(len(alive), 'worker')} alive**, {busy} busy{elsewhere}"]))
    if counts.get("queued") and alive.empty:
        st.warning("Runs are waiting and no worker is alive. Start one with `./cmr worker`; nothing is lost meanwhile.")


def _table(runs: pd.DataFrame, key: str) -> None:
    progress = (runs["done"] / runs["total"].clip(lower=1)).where(runs["state"] != "succeeded", 1.0)
    table = pd.DataFrame(
        {
            "State": [[queries.STATE_WORDS[state]] for state in runs["state"]],
            "Method": runs["label"],
            "Market": runs["target"],
            "Seed": runs["seed"],
            "Stage": runs["stage"].fillna(""),
            "Progress": progress,
            "Remaining": runs["remaining_seconds"].map(words.duration).where(runs["state"] == "running", ""),
            "Took": runs["seconds"].map(words.duration).where(runs["seconds"].notna(), ""),
            "Worker": runs["worker"].fillna(""),
            "Protocol": runs["protocol_text"],
            "Launched": runs["created_at"].map(words.minute),
            "By": runs["created_by"],
            "Run": runs["id"].str[:8],
        }
    )
    states = st.column_config.MultiselectColumn(options=list(STATE_COLORS), color=list(STATE_COLORS.values()))
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        height="auto" if len(table) < 16 else 620,
        column_config={"State": states, "Progress": bar}
        | {name: st.column_config.Column(width=pixels) for name, pixels in WIDTHS.items()},
    )


def _buttons(store: Store, ticked: pd.DataFrame) -> None:
    ids, states = list(ticked["id"]), ticked["state"]
    stoppable = list(ticked["id"][states.isin(actions.CAN_CANCEL)])
    failed = list(ticked["id"][states.isin(actions.CAN_RETRY)])
    with st.container(horizontal=True):
        if st.button("Open", type="primary", disabled=len(ids) != 1, help="Tick one run"):
            st.switch_page("views/run.py", query_params={"id": ids[0]})
        if st.button("Cancel", disabled=not stoppable or not auth.allowed("cancel"), help="Tick runs that go on"):
            actions.cancel(store, stoppable)
            _untick()
        if st.button("Retry", disabled=not failed or not auth.allowed("retry"), help="Tick runs that ended badly"):
            actions.retry(store, failed)
            _untick()
        if st.button("Clone and edit", disabled=len(ids) != 1, help="Tick one run"):
            st.switch_page("views/launch.py", query_params={"run": ids[0]})


def _untick() -> None:
    st.session_state["table_number"] += 1
    st.rerun(scope="fragment")


frame.show(body)
