"""The project's studies: every file is a study that can be launched on the data that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmr_core.data.market import Corpus
from cmr_core.errors import NotFoundError, SpecError
from cmr_core.models.registry import load
from cmr_core.published import load as published
from cmr_core.published import load_costs
from worker.store.studies import expand_labelled
from worker.store.study_files import STUDIES, BuiltinStudy, builtin_studies, find_study_file
from worker.store.tables import CorpusRow

XMARKET = ("ca", "de", "fr", "in", "jp", "mx", "uk")
ROW = CorpusRow(digest="0" * 64, name="xmarket-electronics", description={"dated": dict.fromkeys(XMARKET, True)})
ALL = builtin_studies()
PAPERS = {row.source for row in published()} | {row.source for row in load_costs()}
each = pytest.mark.parametrize("study", ALL, ids=lambda study: study.name)


@each
def test_it_says_what_it_asks_and_beside_which_table_its_numbers_stand(study: BuiltinStudy) -> None:
    assert study.title != study.name
    assert study.path.read_text().startswith("# ")
    assert study.spec.paper in {"", *PAPERS}
    assert set(study.spec.targets) <= set(XMARKET)


@each
def test_it_makes_runs_whose_labels_tell_them_apart(study: BuiltinStudy) -> None:
    jobs = expand_labelled(study.spec, ROW)
    assert len(jobs) >= len(study.spec.methods)
    rows = {(job.label, job.spec.configuration()) for job in jobs}
    assert len({label for label, _ in rows}) * len(study.spec.protocols) == len(rows)


def test_each_published_table_has_its_study() -> None:
    assert {study.spec.paper for study in ALL} == {"", *PAPERS}


def test_xmarket_compares_every_method() -> None:
    assert {choice.method for choice in find_study_file("xmarket").methods} == set(load())


def test_acmr_is_held_to_its_table_with_what_its_authors_published() -> None:
    asked = next(choice for choice in find_study_file("acmr-fidelity").methods if choice.method == "acmr")
    info = load()["acmr"]
    assert info.configure(asked.settings) == info.configure(info.published)


def test_studies_of_figures_launch_no_run_twice() -> None:
    specs = {study.name: study.spec for study in ALL}

    def fingerprints(name: str) -> set[str]:
        return {job.spec.fingerprint() for job in expand_labelled(specs[name], ROW)}

    for figure in ("sparse-and-rich", "item-groups"):
        assert fingerprints(figure) < fingerprints("dcmpt-table1")


def test_market_transfer_leaves_each_source_out_and_takes_each_alone() -> None:
    spec = find_study_file("market-transfer")
    jobs = [job.spec for job in expand_labelled(spec, ROW) if job.spec.method == "ease-weighted"]
    assert sorted(len(job.sources) for job in jobs if job.target == "jp") == [1] * 6 + [5] * 6 + [6]
    assert len(jobs) == 7 * 13


def test_sample_runs_on_the_sample(corpus: Corpus) -> None:
    row = CorpusRow(digest=corpus.digest, name="synthetic", description={"dated": dict.fromkeys(corpus.markets, True)})
    assert find_study_file("sample").corpus == "synthetic"
    assert expand_labelled(find_study_file("sample"), row)


def test_study_is_found_by_name_or_as_a_file(tmp_path: Path) -> None:
    copied = tmp_path / "mine.yaml"
    copied.write_text((STUDIES / "sample.yaml").read_text())
    assert find_study_file(str(copied)) == find_study_file("sample")
    with pytest.raises(NotFoundError, match="no study 'nothing'") as caught:
        find_study_file("nothing")
    assert "dcmpt-table1" in caught.value.hint
    with pytest.raises(SpecError, match="cannot be read"):
        find_study_file(str(tmp_path / "missing.yaml"))


def test_missing_folder_and_misnamed_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="are not in") as caught:
        builtin_studies(tmp_path / "none")
    assert "checkout" in caught.value.hint
    (tmp_path / "other.yaml").write_text((STUDIES / "sample.yaml").read_text())
    with pytest.raises(SpecError, match="holds the study 'sample'"):
        builtin_studies(tmp_path)
