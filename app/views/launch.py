"""Launch: put a study together, see what it costs, send it off."""

from __future__ import annotations

import streamlit as st

from app import actions, auth, draft, forms, frame, method_form, protocol_form, study_form, words
from cmr_core.errors import CmrError
from cmr_core.spec import Budget, StudySpec, parse
from worker.store.corpora import list_corpora, market_names
from worker.store.lists import list_lists
from worker.store.session import Store
from worker.store.studies import estimate
from worker.store.study_files import read_study
from worker.store.tables import CorpusRow


def body(store: Store) -> None:
    """The form on the left, its price and the button on the right."""
    frame.header("Launch a study", "Methods × target markets × protocols × seeds. What has been computed is reused.")
    corpora = list_corpora(store)
    if not corpora:
        frame.empty(
            "**There is no data yet.** Add some with `./cmr data add PATH`, or `./cmr data fetch` a public one."
        )
        return
    given = _given(store)
    left, right = st.columns([5, 3], gap="large")
    with left:
        spec = _form(store, corpora, given)
    with right, st.container(border=True):
        _price(store, spec)


def _given(store: Store) -> StudySpec | None:
    """What the form starts with: a file, a run or a study that the address names, or nothing."""
    with st.expander("Start from a study file (YAML)"):
        file = st.file_uploader("Study file", type=["yaml", "yml"], label_visibility="collapsed")
    try:
        if file is not None:
            return read_study(file.getvalue())
        return draft.start(store, run=st.query_params.get("run"), study=st.query_params.get("study"))
    except CmrError as error:
        frame.tell(error)
        st.caption("The form starts empty instead.")
        return None


def _form(store: Store, corpora: list[CorpusRow], given: StudySpec | None) -> StudySpec | CmrError:
    # every widget belongs to what the form started with, so that another file or run fills all of them anew
    tag = "new" if given is None else given.digest()[:8]
    faults: list[CmrError] = []
    try:
        corpus, targets, sources = _data(corpora, given, tag)
        sets = study_form.source_sets(given, tag)
        methods = method_form.methods(given, tag, faults)
        protocols = protocol_form.protocols(corpus, list_lists(store, corpus.digest), given, tag, faults)
        rest = _rest(given, tag) | study_form.page(given, tag)
        if faults:
            return faults[0]
        body = {"corpus": corpus.name, "targets": targets, "sources": sources, "methods": methods}
        return parse(StudySpec, body | {"protocols": protocols, "source_sets": sets} | rest)
    except CmrError as error:
        return error


def _data(
    corpora: list[CorpusRow], given: StudySpec | None, tag: str
) -> tuple[CorpusRow, tuple[str, ...], tuple[str, ...] | None]:
    st.subheader("1 Data", anchor=False)
    names = [row.name for row in corpora]
    digests = {row.digest: row.name for row in corpora}
    wanted = "" if given is None else digests.get(given.corpus, given.corpus)
    if wanted and wanted not in names:
        frame.unknown("corpus", wanted, names)
    first = names.index(wanted) if wanted in names else 0
    corpus = corpora[names.index(st.selectbox("Corpus", names, first, key=f"corpus-{tag}"))]
    markets = market_names(corpus)
    known = [] if given is None else [name for name in given.targets if name in markets]
    left, right = st.columns(2)
    targets = left.multiselect("Target markets", markets, known, key=f"targets-{tag}", placeholder="All")
    known = [] if given is None else [name for name in given.sources or () if name in markets]
    sources = right.multiselect(
        "Source markets", markets, known, key=f"sources-{tag}", placeholder="All others",
        help="A market that is also a target is a source for the other targets only.",
    )  # fmt: skip
    return corpus, tuple(targets), tuple(sources) or None


def _rest(given: StudySpec | None, tag: str) -> dict[str, object]:
    st.subheader("4 Seeds and limits", anchor=False)
    seeds, device, hours = st.columns(3)
    text = seeds.text_input(
        "Seeds", "0" if given is None else ", ".join(map(str, given.seeds)), key=f"seeds-{tag}", max_chars=200,
        help="Such as 0, 1, 2 or 0-2. Methods that do not depend on a seed run once.",
    )  # fmt: skip
    budget = Budget() if given is None else given.budget
    kinds = ["cpu", "gpu"]
    kind = device.selectbox("Device", kinds, kinds.index(budget.device), key=f"device-{tag}", format_func=str.upper)
    most = hours.number_input(
        "Limit per run (minutes)", 1, 7 * 24 * 60, budget.max_seconds // 60 or 1, key=f"limit-{tag}"
    )
    name = st.text_input(
        "Name of the study", "comparison" if given is None else given.name, key=f"name-{tag}", max_chars=64
    )
    limits = Budget(device=kind, max_seconds=int(most) * 60)
    return {"seeds": draft.seeds(text), "budget": limits, "name": draft.file_name(name)}


def _price(store: Store, spec: StudySpec | CmrError) -> None:
    st.subheader("What it comes to", anchor=False)
    try:
        if isinstance(spec, CmrError):
            raise spec
        cost = estimate(store, spec)
    except CmrError as error:
        frame.tell(error)
        st.button("Launch", type="primary", disabled=True, width="stretch")
        return
    new = cost.runs - cost.reused
    left, right = st.columns(2)
    left.metric("New runs", words.count(new))
    right.metric("Computing time", ("≈ " + words.duration(cost.seconds)) if new else "none")
    said = f"{words.plural(cost.runs, 'run')} in all, {words.count(cost.reused)} of them there already. "
    if new:
        st.caption(
            f"{said}The time is for one worker; it is known from earlier runs for {words.count(cost.known)} of the new "
            "ones and taken as a minute for each of the others."
        )
    else:
        st.caption(f"{said}Nothing is left to compute: launching puts them together under this name.")
    may = auth.allowed("launch")
    if st.button("Launch", type="primary", disabled=not may, width="stretch", key="launch"):
        actions.launch(store, spec, then="views/runs.py")
    if not may:
        st.caption("Your role may look, and not launch.")
    st.download_button(
        "Save as a study file", forms.study_yaml(spec), f"{spec.name}.yaml", "application/yaml",
        width="stretch", on_click="ignore", help="Launch it later here, or with `./cmr launch study.yaml`",
    )  # fmt: skip


frame.show(body)
