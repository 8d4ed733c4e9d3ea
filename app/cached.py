"""Stored results that never change, kept between reruns. Keys are ids and digests; values are our own frames."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import comparison, study_files, words
from app.frame import get_store
from app.study import transfer
from app.study_files import Offer
from cmr_core.data.market import Corpus
from cmr_core.data.split import Split, make_split
from cmr_core.interfaces import Recommender
from cmr_core.models.registry import MethodInfo, load
from cmr_core.spec import SplitSpec, StudySpec
from worker.store.artifacts import Table, load_model, load_table
from worker.store.corpora import load_corpus


@st.cache_resource(show_spinner=False, max_entries=60)
def table(run_id: str, finished: str, kind: Table) -> pd.DataFrame:
    """A table of a finished run, not to be changed. `finished`: when, because a run may be retried."""
    return load_table(get_store(), run_id, kind)


@st.cache_resource(show_spinner=False, max_entries=500)
def per_user(run_id: str, finished: str) -> pd.DataFrame:
    """The users' metrics of a finished run, without their ids: a third of a megabyte for 2,000 users."""
    return load_table(get_store(), run_id, "per_user").drop(columns=["user_id", "n_train"])


@st.cache_resource(show_spinner=False, max_entries=500)
def market(
    target: str, key: tuple[tuple[str, str, str], ...], metric: str, reference: str, _runs: pd.DataFrame
) -> pd.DataFrame:
    """A market's cells of a comparison, not to be changed. `key`: run, end and label of each row of `_runs`."""
    families = {name: info.family for name, info in methods().items()}
    return comparison.market(target, _runs, metric, per_user, families, reference)


def compare(runs: pd.DataFrame, metric: str, reference: str = comparison.STRONGEST) -> comparison.Comparison:
    """The comparison of labelled runs; bootstrap and tests take seconds, so each market is kept until a run changes."""
    groups = [(str(target), rows) for target, rows in runs.groupby("target")]
    place, parts = st.empty(), []
    for at, (target, rows) in enumerate(groups):
        place.progress(at / len(groups), text=f"Comparing {words.plural(len(runs), 'run')}: market {target} …")
        key = tuple(zip(rows["run_id"], rows["finished_at"].map(str), rows["label"], strict=True))
        parts.append(market(target, key, metric, reference, rows))
    place.empty()
    return comparison.assemble(metric, parts)


@st.cache_resource(show_spinner=False, max_entries=500)
def effects(
    target: str, named: tuple[str, ...], key: tuple[tuple[str, str], ...], metric: str, _runs: pd.DataFrame
) -> pd.DataFrame:
    """What sources do to a target, not to be changed. `key`: run and end of each row of `_runs`."""
    return transfer.market(target, named, _runs, metric, per_user)


@st.cache_resource(show_spinner=False, max_entries=100, ttl=3600)
def offer(spec: StudySpec, stamp: tuple[object, ...]) -> Offer:
    """What a study would cost here. `stamp`: `queries.estimate_stamp`, because that changes the answer."""
    return study_files.offer(get_store(), spec)


@st.cache_resource(show_spinner=False, max_entries=4)
def model(run_id: str, finished: str) -> Recommender:
    """The fitted method of a finished run; up to some hundred megabytes each."""
    return load_model(get_store(), run_id)


@st.cache_resource(show_spinner=False, max_entries=4)
def split(corpus: str, spec: SplitSpec) -> Split:
    """The corpus divided as the runs divided it."""
    return make_split(load_corpus(get_store(), corpus), spec)


def corpus(digest: str) -> Corpus:
    """The corpus itself."""
    return load_corpus(get_store(), digest)


@st.cache_resource(show_spinner="Reading the methods …")
def methods() -> dict[str, MethodInfo]:
    """All methods; the first call takes seconds, because it imports torch."""
    return load()


def colors() -> dict[str, str]:
    """Each method's colour, the same on every page."""
    return {name: info.color for name, info in methods().items()}
