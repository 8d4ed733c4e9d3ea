"""Study: the figures of one study; each appears when the runs that it needs are done."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import actions, auth, cached, choices, figures, forms, frame, queries, study_files, words
from app.study import view as views
from app.study.view import View
from cmr_core import published
from cmr_core.errors import CmrError
from cmr_core.spec import StudySpec
from worker.store import naming
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store
from worker.store.studies import get_study, study_spec
from worker.store.tables import StudyRow


def body(store: Store) -> None:
    """The study that the address names."""
    study_id = st.query_params.get("study")
    if study_id is None:
        frame.header("Study")
        frame.empty("**Which study?** Pick one on the page Studies.", "views/studies.py", "To the studies")
        return
    try:
        row = get_study(store, study_id)
        spec = study_spec(row)
    except CmrError:
        frame.header("Study")
        raise
    _head(row, spec)
    runs = queries.study_runs(store, row.id)
    _buttons(store, row, spec, runs)
    actions.show_notes()
    if runs.empty:
        frame.empty("**This study has no runs.** Launch its file again.", "views/studies.py", "To the studies")
        return
    _progress(store, row.id, int((runs["state"] == "succeeded").sum()))
    with st.spinner("Reading the methods …", show_time=False):
        named = naming.named(spec, runs, cached.methods())
    view = _view(store, row.id, spec, named)
    if view is not None:
        _figures(view, store)


def _head(row: StudyRow, spec: StudySpec) -> None:
    frame.header(frame.literal(spec.title or spec.name))
    seeds, protocols = words.plural(len(spec.seeds), "seed"), words.plural(len(spec.protocols), "protocol")
    st.markdown(
        f"**{frame.literal(spec.name)}** on {frame.literal(spec.corpus[:40])} · {protocols} · {seeds} · launched "
        f"{words.minute(row.created_at)} by {frame.literal(row.created_by)}"
    )
    if spec.note:
        st.caption(frame.literal(spec.note))


def _buttons(store: Store, row: StudyRow, spec: StudySpec, runs: pd.DataFrame) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Copy as a new study", disabled=not auth.allowed("launch")):
            st.switch_page("views/launch.py", query_params={"study": row.id})
        st.download_button(
            "Study file", partial(forms.study_yaml, spec), f"{spec.name}.yaml", "application/yaml",
            on_click="ignore", help="Launch it elsewhere on the page Studies, or with `./cmr launch`",
        )  # fmt: skip
        st.download_button(
            "Export with results", partial(study_files.export, store, row.id), f"{spec.name}.zip", "application/zip",
            on_click="ignore", disabled=not auth.allowed("export study") or not (runs["state"] == "succeeded").any(),
            help="All finished runs in one file, for the page Studies of another machine, with the first "
            f"{study_files.PLACES} recommendations of each user (`./cmr study export` takes all, and models). It holds "
            "users' ids",
        )  # fmt: skip
        st.page_link("views/runs.py", label="Its runs", query_params={"study": row.id})


def _progress(store: Store, study_id: str, finished: int) -> None:
    counts = queries.state_counts(store, study_id)
    if sum(counts.get(state, 0) for state in queries.WAITING):
        _live(store, study_id, finished)
    elif counts.get("failed") or counts.get("cancelled"):
        bad = [f"{words.count(counts[s])} {queries.STATE_WORDS[s]}" for s in ("failed", "cancelled") if counts.get(s)]
        st.warning(
            f"Not all runs ended well: {', '.join(bad)}. The figures show what is there; retry on the page Runs."
        )


@st.fragment(run_every=3.0)
def _live(store: Store, study_id: str, finished: int) -> None:
    counts = queries.state_counts(store, study_id)
    done, total = counts.get("succeeded", 0), sum(counts.values())
    if done != finished or not sum(counts.get(state, 0) for state in queries.WAITING):
        st.rerun()
    progress, alive = queries.study_progress(store), len(queries.workers(store))
    left = float(progress["seconds"].get(study_id, 0.0))
    said = [
        f"{words.count(n)} {queries.STATE_WORDS[state]}" for state in queries.STATE_WORDS if (n := counts.get(state))
    ]
    time = (
        f"about {words.duration(left / alive)} left" if alive else "no worker is alive: start one with `./cmr worker`"
    )
    st.progress(done / max(total, 1), text=f"{' · '.join(said)} · {time}")


def _view(store: Store, study_id: str, spec: StudySpec, runs: pd.DataFrame) -> View | None:
    corpus = get_corpus(store, str(runs["corpus"].iloc[0]))
    left, middle, right = st.columns([5, 2, 1])
    texts = runs.drop_duplicates("protocol").set_index("protocol")["text"]
    short = {digest[:12]: name for digest, name in naming.protocol_names(dict(texts)).items()}
    with left:
        chosen = frame.choose("Protocol", list(short), "protocol", text=short.__getitem__)
    mine = runs[runs["protocol"].str[:12] == chosen]
    names = choices.accuracy(queries.study_metrics(store, study_id, str(mine["protocol"].iloc[0])))
    if not names:
        frame.empty(
            f"**No run has finished yet.** {views.missing(mine)} The figures appear here one after the other.",
            "views/runs.py",
            "Watch the runs",
        )
        return None
    paper = {number.metric for number in published.load() if number.source == spec.paper}
    metric = choices.metric(names, middle, right, paper)
    view = View(study_id, spec, tuple(market_names(corpus)), short[chosen], metric, mine, mine, cached.methods())
    return view.judged_by(metric, queries.study_values(store, study_id, metric))


def _figures(view: View, store: Store) -> None:
    frame.remark(view.left_out())
    for kind in dict.fromkeys(view.spec.figures):
        with st.container(key=f"figure-{kind}"):
            st.subheader(figures.TITLES[kind], anchor=False)
            try:
                figures.RENDERERS[kind](view, store)
            except CmrError as error:  # one figure that cannot be drawn leaves the others
                frame.tell(error)


frame.show(body)
