"""A small store with a study for each figure: made-up data, real jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cmr_core.data.synthetic import synthetic
from cmr_core.spec import FigureKind, MethodChoice, StudySpec
from tests.app import seed
from worker.store.corpora import add_corpus
from worker.store.runs import claim, fail
from worker.store.session import Store
from worker.store.studies import launch_study

EASE = {"tune": False}
TEACHER = {"dimensions": 8, "teacher_epochs": 4, "teacher_eval_every": 2}
TINY = TEACHER | {"backbone_epochs": 4, "epochs": 4}


def choice(method: str, label: str | None = None, **settings: object) -> MethodChoice:
    return MethodChoice.model_validate({"method": method, "label": label, "settings": settings})


def gridded(method: str, grid: dict[str, list[object]], **settings: object) -> MethodChoice:
    return MethodChoice.model_validate({"method": method, "settings": settings, "grid": grid})


def spec(name: str, figures: Sequence[FigureKind], methods: Sequence[MethodChoice], **changes: object) -> StudySpec:
    fields = {"name": name, "title": f"What about {name}?", "corpus": "synthetic", "targets": ["de", "jp"]}
    return StudySpec.model_validate(fields | {"figures": figures, "methods": methods} | changes)


TABLE = spec(
    "table", ("table", "sparse-and-rich", "item-groups", "efficiency", "embedding", "attention"),
    [choice("popularity"), choice("ease", **EASE), choice("lightgcn", "LightGCN", **TEACHER)],
    paper="DCMPT paper, table 1", seeds=(0, 1), targets=("de", "jp", "uk"),
    protocols=[{"split": {"kind": "ratio"}}],
)  # fmt: skip
ABLATION = spec(
    "parts", ("ablation",), [gridded("dcmpt", {"ablation": ["none", "no-prompt", "no-distillation"]}, **TINY)],
    paper="DCMPT paper, table 2", protocols=[{"split": {"kind": "ratio"}}],
)  # fmt: skip
SENSITIVITY = spec(
    "knobs", ("sensitivity",),
    [
        gridded("ease", {"regularisation": [1000.0, 100.0, 10.0]}, **EASE),
        gridded("itemknn", {"neighbours": [20, 100], "shrinkage": [0.0, 10.0]}, tune=False),
    ],
)  # fmt: skip
TRANSFER = spec(
    "help", ("market-transfer", "table"), [choice("ease", **EASE), choice("ease-weighted", **EASE)],
    source_sets=("all", "without-one", "only-one"), sources=("de", "jp", "uk"),
)  # fmt: skip
WAITING = spec("waiting", ("table", "ablation"), [choice("popularity-all"), choice("itemknn-weighted")])
ALL = (TABLE, ABLATION, SENSITIVITY, TRANSFER, WAITING)


def fill(home: Path) -> Store:
    """Every study finished, but one that waits and a run of `parts` that failed."""
    torch.set_num_threads(1)
    store = seed.empty(home)
    add_corpus(store, seed.ANALYST, synthetic(seed=0, scale=0.04), "made from a seed, for tests")
    for study in ALL:
        launched = launch_study(store, seed.ANALYST, study).created
        if study is WAITING:
            continue
        for at, run_id in enumerate(launched):
            if study is ABLATION and at == len(launched) - 1:
                failing = claim(store, run_id, "worker-1")
                assert failing is not None
                fail(store, failing, "The loss is not a number.", "Use a smaller learning rate.", detail="step 3")
            else:
                seed.execute(store, run_id)
    return store
