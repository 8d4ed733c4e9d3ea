"""A search proposes settings, runs them like any others, and is judged on validation only."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from sqlalchemy import select, update

from cmr_core.errors import SpecError
from cmr_core.spec import StudySpec
from tests.worker.conftest import ANALYST
from worker import search as module
from worker.search import search
from worker.store import runs
from worker.store.runs import list_runs
from worker.store.session import Store
from worker.store.studies import list_studies
from worker.store.tables import MetricRow
from worker.tasks import perform

STUDY = StudySpec.model_validate(
    {
        "name": "search-ease-uk",
        "corpus": "tiny",
        "targets": ["uk"],
        "methods": [{"method": "ease", "settings": {"tune": False}}],
        "protocols": [{"split": {"kind": "leave-one-out"}}],
    }
)


def test_without_optuna_it_says_what_to_install(store: Store, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(SpecError, match="not installed") as caught:
        search(store, ANALYST, STUDY, ["regularisation"], trials=1, at_once=1, execute=lambda *_: None)
    assert "optional" in caught.value.hint
    assert list_studies(store) == []


@pytest.fixture
def optuna() -> Any:
    return pytest.importorskip("optuna", reason="needs the extra `optional`")


def run_all(store: Store, new: list[str]) -> None:
    for run_id in new:
        claim = runs.claim(store, run_id, "w")
        assert claim is not None
        perform(store, claim)


def look(store: Store, *vary: str, trials: int = 6, **changes: Any) -> module.Best:
    study = STUDY.model_copy(update=changes)
    return search(store, ANALYST, study, vary, trials=trials, at_once=4, execute=lambda new, _: run_all(store, new))


def test_best_is_the_best_in_validation_whatever_the_test_says(optuna: Any, store: Store, digest: str) -> None:
    def judged(new: list[str], _: list[str]) -> None:
        run_all(store, new)
        with store.begin() as session:  # the larger the penalty the better in validation, the worse in the test
            for run in list_runs(store):
                penalty = float(run.spec["settings"]["regularisation"])
                for part, value in (("valid", penalty), ("test", -penalty)):
                    where = {"run_id": run.id, "part": part, "slice": "all", "name": "ndcg@10"}
                    session.execute(update(MetricRow).filter_by(**where).values(value=value))

    best = search(store, ANALYST, STUDY, ["regularisation=1:50"], trials=12, at_once=4, execute=judged)
    tried = [run.spec["settings"]["regularisation"] for run in list_runs(store)]
    assert best.settings == {"tune": False, "regularisation": max(tried)}
    assert (best.value, best.judged) == (max(tried), 12)
    assert all(1 <= value <= 50 for value in tried)
    assert len(list_studies(store)) == 3


def test_search_that_is_repeated_finds_its_runs(optuna: Any, store: Store, digest: str) -> None:
    first = look(store, "regularisation", trials=4)
    count = len(list_runs(store))
    assert look(store, "regularisation", trials=4) == first
    assert len(list_runs(store)) == count == 4


def test_choices_and_switches_are_varied_too(optuna: Any, store: Store, digest: str) -> None:
    best = look(store, "tune", trials=3)
    assert isinstance(best.settings["tune"], bool)
    assert {run.spec["settings"]["tune"] for run in list_runs(store)} <= {True, False}


def test_runs_that_fail_are_told_and_none_is_no_best(optuna: Any, store: Store, digest: str) -> None:
    with pytest.raises(SpecError, match="No trial"):
        search(store, ANALYST, STUDY, ["regularisation"], trials=2, at_once=2, execute=lambda *_: None)
    with store.read() as session:
        assert session.scalars(select(MetricRow)).first() is None


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        ("colour", "no setting 'colour'"),
        ("regularisation=5", "no range that can be searched"),
        ("regularisation=9:3", "no range that can be searched"),
        ("regularisation=a:b", "no range that can be searched"),
        ("regularisation=0:5", "no range that can be searched"),
        ("tune=0:1", "cannot be varied in a range"),
    ],
)
def test_settings_that_cannot_be_varied_are_refused(
    optuna: Any, store: Store, digest: str, vary: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        look(store, vary)
    assert caught.value.hint
    assert list_studies(store) == []


def test_bounds_of_every_setting_can_be_searched(optuna: Any) -> None:
    methods = importlib.import_module("cmr_core.models.registry").load()
    for info in methods.values():
        for name, schema in info.config.model_json_schema().get("properties", {}).items():
            if schema.get("type") in ("integer", "number", "boolean"):
                found, _ = module._dimension(optuna, info, name)
                assert found == name
