"""A small filled store for page tests: made-up data, real jobs."""

from __future__ import annotations

from pathlib import Path

import torch

from cmr_core.data.synthetic import synthetic
from cmr_core.spec import MethodChoice, Protocol, SplitSpec, StudySpec
from worker.settings import Settings
from worker.store.audit import Actor
from worker.store.corpora import add_corpus
from worker.store.runs import claim, fail, get_run, request_cancel
from worker.store.session import Store, migrate, open_store
from worker.store.studies import launch_study
from worker.tasks import perform

ANALYST = Actor("ana", "analyst")
MARKETS = ("de", "jp")
QUICK = {"dimensions": 8, "teacher_epochs": 6, "teacher_eval_every": 2}


def study(**changes: object) -> StudySpec:
    """Four methods on two markets with two seeds."""
    methods = (
        MethodChoice(method="popularity"),
        MethodChoice(method="ease", settings={"tune": False}),
        MethodChoice(method="ease-weighted", settings={"tune": False}),
        MethodChoice(method="lightgcn", settings=QUICK),
    )
    fields: dict[str, object] = {"name": "first", "corpus": "synthetic", "targets": MARKETS, "methods": methods}
    return StudySpec.model_validate(fields | {"seeds": (0, 1)} | changes)


def empty(home: Path) -> Store:
    """A store with tables and nothing in them."""
    settings = Settings(home=home)
    migrate(settings)
    return open_store(settings)


def fill(home: Path) -> Store:
    """A corpus, a finished study, and one run in each of the other states."""
    torch.set_num_threads(1)
    store = empty(home)
    add_corpus(store, ANALYST, synthetic(seed=0, scale=0.04), "made from a seed, for tests")
    for run_id in launch_study(store, ANALYST, study()).created:
        execute(store, run_id)
    other = Protocol(split=SplitSpec(kind="ratio"))
    ids = launch_study(store, ANALYST, study(name="second", protocols=(other,), seeds=(0,))).created
    execute(store, ids[0])
    request_cancel(store, ANALYST, ids[1])
    failing = claim(store, ids[2], "worker-1")
    assert failing is not None
    fail(store, failing, "The loss is not a number.", "Use a smaller learning rate.", detail="step 3")
    assert claim(store, ids[3], "worker-1") is not None
    return store


def execute(store: Store, run_id: str) -> None:
    """Carry a run to its end, in this process."""
    claimed = claim(store, run_id, "worker-1")
    assert claimed is not None
    perform(store, claimed)
    run = get_run(store, run_id)
    assert run.state == "succeeded", f"{run.label}: {run.error}"
