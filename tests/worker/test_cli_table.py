"""The exported table, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from sqlalchemy import update

from cmr_core.models.registry import get
from cmr_core.spec import JobSpec, SplitSpec, StudySpec
from tests.worker.conftest import ANALYST
from worker.commands.table import COLUMNS, run_metrics, study_table, to_latex
from worker.store.audit import LOCAL
from worker.store.clock import now
from worker.store.runs import find_or_create, list_runs
from worker.store.session import Store
from worker.store.studies import launch_study
from worker.store.tables import MetricRow, RunRow, StudyRow, StudyRunRow


class Study:
    """A study whose results are made up."""

    def __init__(self, store: Store, digest: str) -> None:
        self.store, self.digest = store, digest
        with store.begin() as session:
            session.add(StudyRow(id="s", name="made-up", spec={}, created_at=now(), created_by="ann"))

    def run(
        self, label: str, target: str, seed: int, value: float, *, state: str = "succeeded", split: str = "ratio",
        sources: tuple[str, ...] = (),
    ) -> str:  # fmt: skip
        method = label.lower().replace(" ", "-").replace("%", "").replace("_", "-")
        kind = SplitSpec.model_validate({"kind": split})
        job = JobSpec(corpus=self.digest, target=target, sources=sources, method=method, seed=seed, split=kind)
        with self.store.begin() as session:
            row, _ = find_or_create(session, self.store, LOCAL, job, label)
            row.state = state
            session.add(StudyRunRow(study_id="s", run_id=row.id))
            for part, group, name, number in (
                ("test", "all", "ndcg@10", value),
                ("valid", "all", "ndcg@10", 9.0),
                ("test", "item:cold", "ndcg@10", 8.0),
                ("test", "all", "recall@10", 7.0),
            ):
                session.add(MetricRow(run_id=row.id, part=part, slice=group, name=name, value=number, n=6))
            return row.id


@pytest.fixture
def study(store: Store, digest: str) -> Study:
    return Study(store, digest)


def test_row_is_a_configuration_and_seeds_are_inside_it(study: Study) -> None:
    study.run("EASE", "de", 0, 0.2)
    study.run("EASE", "de", 1, 0.4)
    study.run("EASE", "de", 2, 0.9, state="failed")
    study.run("EASE", "jp", 0, 0.1)
    table = study_table(study.store, "s", "ndcg@10").cells
    assert list(table.columns) == COLUMNS
    first, second = table.to_dict("records")
    assert (first["method"], first["market"], first["seeds"], first["users"]) == ("EASE", "de", 2, 6)
    assert first["mean"] == pytest.approx(0.3)
    assert first["std"] == pytest.approx(math.sqrt(0.02))  # two values 0.2 apart: (0.1^2 + 0.1^2) / (2 - 1)
    assert (second["market"], second["seeds"]) == ("jp", 1)
    assert math.isnan(second["std"])


def test_runs_from_other_sources_are_no_further_seeds(study: Study) -> None:
    study.run("KNN", "de", 0, 0.2, sources=("jp", "uk"))
    study.run("KNN", "de", 0, 0.4, sources=("jp",))
    study.run("KNN", "de", 0, 0.6, sources=("uk",))
    table = study_table(study.store, "s", "ndcg@10").cells.set_index("method")
    assert dict(table["mean"]) == {"KNN": 0.2, "KNN, from jp": 0.4, "KNN, from uk": 0.6}
    assert set(table["seeds"]) == {1}


def finished(store: Store, spec: StudySpec) -> str:
    """A launched study whose runs have ended; the value of a run is its seed, and a tenth of its place."""
    study_id = launch_study(store, ANALYST, spec).study_id
    for at, run in enumerate(list_runs(store, study_id=study_id)):
        with store.begin() as session:
            session.execute(update(RunRow).where(RunRow.id == run.id).values(state="succeeded", finished_at=now()))
            if session.get(MetricRow, (run.id, "test", "all", "ndcg@10")) is None:
                value = run.seed + at / 10
                session.add(MetricRow(run_id=run.id, part="test", slice="all", name="ndcg@10", value=value, n=6))
    return study_id


def launched(name: str, methods: Sequence[object], **changes: object) -> StudySpec:
    fields = {"name": name, "corpus": "tiny", "targets": ["de"], "methods": methods, "seeds": [0, 1]}
    return StudySpec.model_validate(fields | changes)


def test_configurations_of_one_name_are_rows_of_their_own(store: Store, digest: str) -> None:
    methods = [
        {"method": "blend", "members": [{"method": "popularity"}, {"method": "ease"}]},
        {"method": "blend", "members": [{"method": "popularity"}, {"method": "itemknn"}]},
        {"method": "lightgcn", "label": "Mine", "settings": {"layers": 1}},
        {"method": "lightgcn", "label": "Mine", "settings": {"layers": 2}},
    ]
    table = study_table(store, finished(store, launched("names", methods)), "ndcg@10").cells
    names = list(table["method"])
    assert names[2:] == ["Mine (layers=1)", "Mine (layers=2)"]
    assert [name.partition(" #")[0] for name in names[:2]] == ["Blend", "Blend"]
    assert len(set(names)) == 4
    assert list(table["seeds"]) == [1 if get("blend").deterministic else 2] * 2 + [2, 2]


def test_rows_have_the_studys_own_names(store: Store, digest: str) -> None:
    finished(store, launched("first", [{"method": "lightgcn", "label": "Somebody's"}], seeds=[0]))
    second = finished(store, launched("second", [{"method": "lightgcn"}]))
    (row,) = study_table(store, second, "ndcg@10").cells.to_dict("records")
    assert (row["method"], row["seeds"]) == ("LightGCN, target only", 2)


def test_protocols_that_read_alike_are_tables_of_their_own(store: Store, digest: str) -> None:
    protocols = [{"split": {"kind": "ratio"}, "evaluation": {"select": name}} for name in ("ndcg@10", "recall@10")]
    study_id = finished(store, launched("alike", [{"method": "popularity"}], protocols=protocols))
    table = study_table(store, study_id, "ndcg@10").cells
    assert list(table["seeds"]) == [1, 1]
    digests = sorted(run.protocol[:12] for run in list_runs(store, study_id=study_id))
    assert list(table["protocol"]) == [f"ratio 80/10/10 · catalogue ({digest})" for digest in digests]


def test_other_studies_and_unknown_metrics_give_nothing(study: Study) -> None:
    study.run("EASE", "de", 0, 0.2)
    assert study_table(study.store, "another", "ndcg@10").cells.empty
    assert study_table(study.store, "s", "ndcg@7").cells.empty


def test_latex_marks_the_best_of_each_market_and_never_mixes_protocols(study: Study) -> None:
    for label, market, value in (("EASE", "de", 0.5), ("Mine_50%", "de", 0.25), ("EASE", "jp", 0.125)):
        study.run(label, market, 0, value)
    study.run("EASE", "de", 0, 0.75, split="events")
    text = to_latex(study_table(study.store, "s", "ndcg@10").cells, "ndcg@10")
    assert text.count(r"\begin{tabular}") == 2
    events, ratio = text.split(r"\end{tabular}")[:2]
    assert "events 80/10/10" in events
    assert r"EASE & \textbf{0.7500} \\" in events
    assert r"EASE & \textbf{0.5000} & \textbf{0.1250} \\" in ratio
    assert r"Mine\_50\% & 0.2500 & -- \\" in ratio


def test_latex_shows_the_deviation_of_several_seeds(study: Study) -> None:
    study.run("EASE", "de", 0, 0.2)
    study.run("EASE", "de", 1, 0.4)
    text = to_latex(study_table(study.store, "s", "ndcg@10").cells, "ndcg@10")
    assert r"\textbf{0.3000 $\pm$ 0.1414}" in text
    assert "up to 2 seeds, 6 users" in text


def test_metrics_of_a_run_are_those_of_all_test_users(study: Study) -> None:
    assert run_metrics(study.store, study.run("EASE", "de", 0, 0.2)) == {"ndcg@10": 0.2, "recall@10": 7.0}
