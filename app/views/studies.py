"""Studies: what is asked, by whom it was launched, how far it is; and the questions that come with the project."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import actions, auth, cached, frame, queries, study_files, study_table, words
from app.study_files import Offer
from cmr_core.data.catalogue import CATALOGUE
from cmr_core.errors import CmrError, NotFoundError
from cmr_core.spec import StudySpec
from worker.store.session import Store


def body(store: Store) -> None:
    """Launched studies first, then those that can be launched with one click, then files."""
    frame.header(
        "Studies", "A study is one question: methods × markets × protocols × seeds, and the figures that answer it."
    )
    actions.show_notes()
    if queries.corpora(store).empty:
        frame.empty(
            "**There is no data yet.** Add some with `./cmr data add PATH`, or `./cmr data fetch` a public one; the "
            "studies below say which one they need."
        )
    _launched(store)
    _file(store)
    _offered(store)


@st.fragment(run_every=5.0)
def _launched(store: Store) -> None:
    st.subheader("Launched", anchor=False)
    studies = study_table.held(queries.studies(store), "launched")
    if studies.empty:
        st.caption("None yet. Launch one below, or put one together on the page Launch.")
        return
    progress, alive = queries.study_progress(store), len(queries.workers(store))
    left = studies["id"].map(progress["seconds"]).fillna(0.0)
    table = pd.DataFrame(
        {
            "Name": studies["name"],
            "Study": studies["title"].replace("", None).fillna(studies["name"]),
            "Runs": studies["runs"],
            "Ended": studies["over"] / studies["runs"].clip(lower=1),
            "Ended badly": [_bad(progress, study_id) for study_id in studies["id"]],
            "Remaining": [_remaining(seconds, alive) for seconds in left],
            "Launched": studies["created_at"].map(words.minute),
            "By": studies["created_by"],
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    study = study_table.pick(
        table, studies, "launched", height="auto" if len(table) < 8 else 300,
        column_config={"Ended": bar, "Study": st.column_config.Column(width="medium")},  # the rest fits at 1024 pixels
    )  # fmt: skip
    with st.container(horizontal=True):
        study_table.buttons(study)


def _bad(progress: pd.DataFrame, study_id: str) -> str:
    if study_id not in progress.index:
        return ""
    counts = progress.loc[study_id].reindex(["failed", "cancelled"]).fillna(0).astype(int)
    return ", ".join(f"{n} {queries.STATE_WORDS[str(state)]}" for state, n in counts.items() if n)


def _remaining(seconds: float, alive: int) -> str:
    if not seconds:
        return ""
    return f"≈ {words.duration(seconds / alive)}" if alive else "no worker is alive"


def _file(store: Store) -> None:
    with st.expander("Bring a study from a file", icon=":material/upload_file:"):
        if not auth.allowed("import study"):
            st.caption("Your role may look, and not bring studies.")
            return
        file = st.file_uploader(
            "A study file (YAML), to be launched here; or an exported study (ZIP) with its finished runs",
            [*study_files.YAML, *study_files.ARCHIVE], key="study-file", max_upload_size=study_files.MOST_MEGABYTES,
        )  # fmt: skip
        if file is None:
            return
        try:
            if file.name.lower().endswith(study_files.ARCHIVE):
                if st.button("Import its runs", type="primary", key="import"):
                    _import(store, file.name, file.getvalue())
                return
            spec = study_files.take(store, file.name, file.getvalue())
            if isinstance(spec, StudySpec):
                found = study_files.offer(store, spec)
                if found.fault is not None:
                    raise found.fault
                _card(store, found, None, "_file")  # no study has such a name
        except CmrError as error:
            frame.tell(error)
            st.caption("Nothing was stored.")


def _import(store: Store, name: str, data: bytes) -> None:
    with st.spinner("Checking and storing …", show_time=True):
        said = study_files.take(store, name, data)
    actions.note(str(said))
    st.rerun()


def _offered(store: Store) -> None:
    st.subheader("Ready to launch", anchor=False)
    st.caption(
        "Times are for one worker. They come from earlier runs; a method that has never run here counts a minute."
    )
    newest = queries.studies(store).drop_duplicates("name").set_index("name")["id"].to_dict()
    launched = {str(name): str(study) for name, study in newest.items()}
    stamp = queries.estimate_stamp(store)
    with st.spinner("Counting runs …", show_time=False):
        offers = [cached.offer(spec, stamp) for spec in study_files.specs()]
    _cards(store, [offer for offer in offers if offer.fault is None], launched)
    faulty = [offer for offer in offers if offer.fault is not None]
    for said in dict.fromkeys(_why_not(offer) for offer in faulty):
        st.markdown(f"**Not yet:** {frame.literal(said, keep='`')}")
        _cards(store, [offer for offer in faulty if _why_not(offer) == said], launched)


def _cards(store: Store, offers: list[Offer], launched: dict[str, str]) -> None:
    for at in range(0, len(offers), 2):
        for place, offer in zip(st.columns(2), offers[at : at + 2], strict=False):
            with place:
                _card(store, offer, launched.get(offer.spec.name), offer.spec.name)


def _why_not(offer: Offer) -> str:
    name = offer.spec.corpus
    if offer.markets == 0 or (isinstance(offer.fault, NotFoundError) and name in CATALOGUE):
        return (
            f"these need the corpus {name}: `./cmr data fetch {name}`." if name in CATALOGUE else f"no corpus {name}."
        )
    return "" if offer.fault is None else offer.fault.explain()


def _card(store: Store, offer: Offer, launched: str | None, key: str) -> None:
    spec = offer.spec
    with st.container(border=True, key=f"card-{key.replace('.', '-')}", height="stretch"):
        st.markdown(f"**{frame.literal(spec.title or spec.name)}**")
        st.caption(f"{frame.literal(spec.name)} · {offer.size} · {frame.literal(spec.corpus[:40])}")
        if offer.cost is not None:
            _cost(offer)
        with st.container(horizontal=True, vertical_alignment="center"):
            if offer.cost is None or offer.new or launched is None:
                _launch_button(store, offer, key)
            if launched is not None:
                st.page_link(
                    "views/study.py", label="Open", icon=":material/arrow_forward:", query_params={"study": launched}
                )


def _launch_button(store: Store, offer: Offer, key: str) -> None:
    may = auth.allowed("launch")
    clicked = st.button(
        "Launch" if offer.cost is None or offer.new else "Show the figures",
        key=f"launch-{key}",
        type="primary" if offer.new else "secondary",
        disabled=offer.cost is None or not may,
        help=None if may else "Your role may look, and not launch.",
    )
    if clicked:
        actions.launch(store, offer.spec, then="views/study.py")


def _cost(offer: Offer) -> None:
    if offer.cost is None:
        return
    st.progress(
        offer.cost.reused / max(offer.cost.runs, 1),
        text=f"{words.count(offer.cost.reused)} of {words.plural(offer.cost.runs, 'run')} there or on their way"
        + (f" · ≈ {words.duration(offer.cost.seconds)} to compute" if offer.new else ""),
    )


frame.show(body)
