"""Overview: the newest comparison, what is going on, and what to do next."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import auth, cached, charts, comparison, frame, queries, study_table, words
from worker.store import naming
from worker.store.comparable import left_out, same_splits
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store

METRIC = "ndcg@10"
MOST = 10  # configurations in the picture
ENDED = {"succeeded": ":material/check_circle:", "failed": ":material/error:", "lost": ":material/help:"}


def body(store: Store) -> None:
    """A picture first; beside it what runs and what has ended; below it the studies."""
    _head(store)
    counts, alive, corpora = queries.state_counts(store), queries.workers(store), queries.corpora(store)
    _advice(counts, len(alive), len(corpora))
    newest = queries.newest_protocol(store)
    if counts:
        left, right = st.columns([5, 2], gap="large")
        with right:
            _activity(store)
        place = left.container()
        with left:
            _verdict(store, str(corpora["digest"].iloc[0]) if newest is None else newest[0])
    elif len(corpora):
        _verdict(store, str(corpora["digest"].iloc[0]))
    _studies(queries.studies(store))
    if newest is not None:
        # drawn last: the first look at the methods' colours in a process takes seconds
        _picture(store, place, *newest)


def _head(store: Store) -> None:
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    with left:
        frame.header(
            "Cross-market recommendation",
            "Which method and which source markets recommend best in a target market, is the difference real, "
            "and what does it cost?",
        )
    may = auth.allowed("launch")
    if right.button("Launch a study", type="primary", width="stretch", disabled=not may, icon=":material/play_circle:"):
        st.switch_page("views/launch.py")


def _advice(counts: dict[str, int], alive: int, corpora: int) -> None:
    waiting = counts.get("queued", 0) + counts.get("running", 0)
    if not corpora:
        frame.empty(
            "**There is no data yet.** Add market files with `./cmr data add PATH`, or fetch a public corpus with "
            "`./cmr data fetch xmarket-electronics`. Then come back and launch a comparison.",
            "views/markets.py",
            "Or bring files on the page Markets",
        )
    elif waiting and not alive:
        frame.empty(
            "**Runs are waiting and no worker is alive.** Start one with `./cmr worker`; nothing is lost meanwhile.",
            "views/runs.py",
            "See the waiting runs",
        )
    elif not counts:
        frame.empty("**Everything is ready for a first comparison.**", "views/launch.py", "Launch a study")


def _picture(store: Store, place: DeltaGenerator, corpus: str, protocol: str, text: str) -> None:
    row = get_corpus(store, corpus)
    finished = naming.label_rows(queries.results(store, corpus, protocol, METRIC), market_names(row))
    results = same_splits(finished)
    with place:
        st.subheader(f"{words.metric(METRIC)} by market", anchor=False)
        if results.empty:
            st.caption(f"The newest runs do not report {words.metric(METRIC)}.")
            return
        everything = comparison.means(results)
        best = list(everything["label"].drop_duplicates()[:MOST])
        cells = everything[everything["label"].isin(best)]
        with st.spinner("Drawing …", show_time=False):
            labels = dict(zip(cells["label"], cells["method"], strict=True))
            figure = charts.bars(
                cells,
                results[results["label"].isin(best)],
                charts.palette(labels, cached.colors()),
                words.metric(METRIC),
            )
        st.plotly_chart(figure, config=charts.config("newest-comparison"), key="newest")
        users = words.count(cells.groupby("target")["n"].max().sum())
        st.caption(
            f"{frame.literal(row.name)} · {text} · N {users} test users · {words.plural(len(results), 'run')}, "
            f"{words.plural(results['seed'].nunique(), 'seed')} · newest {words.minute(results['finished_at'].max())}. "
            + (f"The {MOST} best of {words.count(many)}. " if (many := everything["label"].nunique()) > MOST else "")
            + "Means over seeds; intervals and tests are on the page Compare."
        )
        frame.remark(left_out(finished, results))
        address = {"corpus": corpus[:12], "protocol": protocol[:12], "view": "chart"}
        st.page_link(
            "views/compare.py", label="Compare these methods", icon=":material/arrow_forward:", query_params=address
        )


def _verdict(store: Store, digest: str) -> None:
    row = get_corpus(store, digest)
    found = [finding for finding in row.audit["findings"] if finding["severity"] == "warning"]
    first = found[0]["text"].partition(". ")[0].rstrip(".") if found else ""
    said = f"{words.plural(len(found), 'warning')}. {first}." if found else "nothing that misleads was found."
    st.markdown(
        f"**Leak audit of {frame.literal(row.name)}:** {frame.literal(said, keep='`')} "
        f"Safe protocol: **{row.audit['protocol']['kind']}**."
    )
    st.page_link(
        "views/markets.py", label="The audit, and the markets", icon=":material/arrow_forward:",
        query_params={"corpus": digest[:12]},
    )  # fmt: skip


@st.fragment(run_every=3.0)
def _activity(store: Store) -> None:
    counts = queries.state_counts(store)
    st.subheader("Now", anchor=False)
    said = [f"{words.count(counts[state])} {queries.STATE_WORDS[state]}" for state in queries.STATE_WORDS if
            counts.get(state)]  # fmt: skip
    st.caption(" · ".join([*said, f"{words.plural(len(queries.workers(store)), 'worker')} alive"]))
    running, _ = queries.runs(store, states=["running"], limit=4)
    for run in running.to_dict("records"):
        remaining = run["remaining_seconds"]
        left = "" if pd.isna(remaining) else f", about {words.duration(remaining)} left"
        frame.run_link(str(run["id"]), _name(run), ":material/sync:")
        share = run["done"] / run["total"] if run["total"] else 0.0
        st.progress(min(max(share, 0.0), 1.0), text=f"{frame.literal(run['stage'] or 'starting')}{left}")
    st.subheader("Ended lately", anchor=False)
    ended, _ = queries.runs(store, states=list(ENDED), limit=6)
    now = queries.clock(store)
    for run in ended.to_dict("records"):
        at, state = run["finished_at"], str(run["state"])
        when = "" if pd.isna(at) else f" · {words.ago(at, now)}"
        word = "" if state == "succeeded" else f" · {queries.STATE_WORDS[state]}"
        frame.run_link(str(run["id"]), _name(run, word + when), ENDED[state])
    if ended.empty:
        st.caption("No run has ended yet.")
    st.page_link("views/runs.py", label="All runs", icon=":material/arrow_forward:")


def _name(run: Mapping[Hashable, Any], more: str = "") -> str:
    # the label last: it may be long, and the narrow column cuts it
    return f"{run['target']} · seed {run['seed']}{more} · {run['label']}"


def _studies(studies: pd.DataFrame) -> None:
    st.subheader("Studies", anchor=False)
    if studies.empty:
        st.caption("No study yet. A study is a set of runs that were launched together.")
        return
    studies = study_table.held(studies, "studies")
    table = pd.DataFrame(
        {
            "Study": studies["title"].replace("", None).fillna(studies["name"]),
            "Runs": studies["runs"],
            "Progress": studies["over"] / studies["runs"].clip(lower=1),
            "Launched": studies["created_at"].map(words.minute),
            "By": studies["created_by"],
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    study = study_table.pick(
        table, studies, "studies", height="auto" if len(table) < 9 else 320, column_config={"Progress": bar}
    )
    with st.container(horizontal=True):
        study_table.buttons(study)
        st.page_link("views/studies.py", label="All studies, and more to launch", icon=":material/arrow_forward:")


frame.show(body)
