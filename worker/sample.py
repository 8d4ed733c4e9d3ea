"""What a new system shows: a synthetic corpus and a small comparison on it."""

from __future__ import annotations

from worker.services import ROOT
from worker.settings import Settings
from worker.store.audit import LOCAL
from worker.store.corpora import add_corpus, list_corpora
from worker.store.session import open_store
from worker.store.studies import launch_study, list_studies
from worker.store.study_files import load_study

STUDY = ROOT / "studies" / "sample.yaml"


def load_sample(settings: Settings) -> str:
    """Fill an empty store, and say in words what was done. A store that holds anything else is left alone."""
    store = open_store(settings)
    spec = load_study(STUDY)
    if list_studies(store) or any(row.name != spec.corpus for row in list_corpora(store)):
        return "The store is in use; the sample is not needed."
    from cmr_core.data.synthetic import synthetic  # brings numpy and pandas: only where they are needed
    from worker.queue import deliver

    corpus = synthetic(seed=0)
    add_corpus(store, LOCAL, corpus, "made from a seed; no real person or product is in it")
    launched = launch_study(store, LOCAL, spec)
    deliver(store, launched.created)
    return f"Loaded the corpus {corpus.name!r} and queued {len(launched.created)} runs of the study {spec.name!r}."
