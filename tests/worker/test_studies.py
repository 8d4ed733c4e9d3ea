"""Studies: what a launch makes of a spec, what it refuses, and what it costs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select, update

from cmr_core.errors import CmrError, NotFoundError, NotPermittedError, SpecError
from cmr_core.experiment import member_jobs
from cmr_core.models import registry
from cmr_core.spec import JobSpec, StudySpec
from tests.worker.conftest import ANALYST, tiny_corpus
from worker.store import runs, studies
from worker.store.audit import Actor
from worker.store.corpora import add_corpus, get_corpus
from worker.store.session import Store
from worker.store.studies import estimate, expand, expand_labelled, get_study, launch_study, list_studies, study_spec
from worker.store.tables import RunRow, StudyRow, StudyRunRow


def study(**changes: Any) -> StudySpec:
    """Popularity on all three markets of the tiny corpus."""
    return StudySpec.model_validate({"name": "s", "corpus": "tiny", "methods": [{"method": "popularity"}]} | changes)


def counts(store: Store) -> tuple[int, ...]:
    with store.read() as session:
        return tuple(session.scalar(select(func.count()).select_from(t)) or 0 for t in (StudyRow, StudyRunRow, RunRow))


def test_a_study_is_the_product_of_its_parts(store: Store, digest: str) -> None:
    spec = study(
        targets=["uk", "jp"],
        methods=[{"method": "lightgcn", "grid": {"layers": [1, 2], "dimensions": [8, 16]}}, {"method": "ease"}],
        protocols=[{"split": {"kind": "ratio"}}, {"split": {"kind": "leave-one-out"}}],
        seeds=[3, 1],
    )
    jobs = expand(spec, get_corpus(store, "tiny"))
    of = [job for job in jobs if job.method == "lightgcn"]
    assert len(of) == 4 * 2 * 2 * 2
    assert len({job.fingerprint() for job in of}) == len(of)
    assert {(job.settings["layers"], job.settings["dimensions"]) for job in of} == {(1, 8), (1, 16), (2, 8), (2, 16)}
    # solved, not trained: the first seed is enough
    assert sorted((job.target, job.seed) for job in jobs if job.method == "ease") == [("jp", 3)] * 2 + [("uk", 3)] * 2


def test_where_each_seed_has_its_own_split_no_seed_is_enough(store: Store, digest: str) -> None:
    split = {"kind": "leave-one-out", "each_seed": True}
    blend = {"method": "blend", "members": [{"method": "popularity"}, {"method": "ease"}]}
    spec = study(methods=[{"method": "popularity"}, blend], targets=["jp"], protocols=[{"split": split}], seeds=[3, 1])
    jobs = expand(spec, get_corpus(store, "tiny"))
    assert [(job.method, job.seed) for job in jobs] == [(m, s) for m in ("popularity", "blend") for s in (3, 1)]
    assert len({job.fingerprint() for job in jobs}) == 4
    assert {(m.method, m.seed) for m in member_jobs(jobs[-1])} == {("popularity", 1), ("ease", 1)}
    assert estimate(store, spec).runs == 4


def test_a_study_launched_again_runs_methods_of_a_new_revision_anew(
    store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blend = {"method": "blend", "members": [{"method": "popularity"}, {"method": "itemknn"}]}
    spec = study(methods=[{"method": "ease"}, {"method": "popularity"}, blend], targets=["jp"])
    assert len(launch_study(store, ANALYST, spec).created) == 3
    monkeypatch.setitem(registry._methods, "ease", replace(registry.get("ease"), revision=2))
    monkeypatch.setitem(registry._methods, "itemknn", replace(registry.get("itemknn"), revision=2))
    again = launch_study(store, ANALYST, spec)
    jobs = {job.method: job for job in expand(spec, get_corpus(store, "tiny"))}
    assert len(again.created) == 2  # the blend too: a member is another one
    assert len(again.reused) == 1
    assert jobs["ease"].revision == 2
    assert [member.revision for member in jobs["blend"].members] == [1, 2]


def test_all_markets_are_targets_unless_named_and_all_others_are_sources(store: Store, digest: str) -> None:
    jobs = expand(study(methods=[{"method": "ease-weighted"}]), get_corpus(store, digest))
    assert [(job.target, job.sources) for job in jobs] == [
        ("de", ("jp", "uk")),
        ("jp", ("de", "uk")),
        ("uk", ("de", "jp")),
    ]
    jobs = expand(
        study(methods=[{"method": "ease-weighted"}], sources=["uk"], targets=["jp"]), get_corpus(store, digest)
    )
    assert [(job.target, job.sources) for job in jobs] == [("jp", ("uk",))]


def test_methods_without_sources_are_the_same_whatever_sources_are_named(store: Store, digest: str) -> None:
    row = get_corpus(store, digest)
    one, other = (expand(study(targets=["uk"], sources=[source]), row) for source in ("jp", "de"))
    assert one[0].fingerprint() == other[0].fingerprint()


def source_sets(store: Store, *kinds: str, **changes: Any) -> list[tuple[str, tuple[str, ...]]]:
    spec = study(methods=[{"method": "itemknn-weighted"}], source_sets=list(kinds), **changes)
    return [(job.target, job.sources) for job in expand(spec, get_corpus(store, "tiny"))]


def test_sources_are_left_out_or_taken_in_turn(store: Store, digest: str) -> None:
    add_corpus(store, ANALYST, tiny_corpus("wide", shift=1, more=("br",)), "made by a test")
    wide = {"corpus": "wide", "targets": ["uk"]}
    spec = study(methods=[{"method": "ease-weighted"}], source_sets=["without-one"], **wide)
    jobs = expand(spec, get_corpus(store, "wide"))
    assert {job.sources for job in jobs} == {("de", "jp"), ("br", "jp"), ("br", "de")}
    spec = study(methods=[{"method": "ease-weighted"}], source_sets=["all", "without-one", "only-one"], **wide)
    jobs = expand(spec, get_corpus(store, "wide"))
    assert [len(job.sources) for job in jobs] == [3, 2, 2, 2, 1, 1, 1]
    assert len({job.fingerprint() for job in jobs}) == len(jobs) == 7


def test_each_choice_of_sources_is_made_once(store: Store, digest: str) -> None:
    # of two sources, leaving one out is taking the other
    assert source_sets(store, "without-one", "only-one", targets=["uk"]) == [("uk", ("jp",)), ("uk", ("de",))]
    assert source_sets(store, "all", "only-one", targets=["uk"], sources=["jp"]) == [("uk", ("jp",))]
    assert source_sets(store, "all", "without-one", targets=["uk"], sources=["jp"]) == [("uk", ("jp",))]


def test_methods_without_sources_run_once_whatever_sets_are_asked_for(store: Store, digest: str) -> None:
    spec = study(targets=["uk"], methods=[{"method": "ease"}], source_sets=["without-one", "only-one"])
    assert [job.sources for job in expand(spec, get_corpus(store, "tiny"))] == [()]


def test_leaving_out_the_only_source_is_refused(store: Store, digest: str) -> None:
    with pytest.raises(SpecError, match="one source market 'jp'"):
        source_sets(store, "without-one", targets=["uk"], sources=["jp"])


def test_defaults_are_written_out_so_that_saying_them_changes_nothing(store: Store, digest: str) -> None:
    row = get_corpus(store, digest)
    silent = expand(study(targets=["uk"], methods=[{"method": "lightgcn"}]), row)[0]
    spoken = expand(study(targets=["uk"], methods=[{"method": "lightgcn", "settings": {"layers": 3}}]), row)[0]
    assert silent.settings["layers"] == 3
    assert silent.fingerprint() == spoken.fingerprint()


def test_labels_name_only_what_differs_from_the_defaults(store: Store, digest: str) -> None:
    def labels(**choice: Any) -> list[str]:
        spec = study(targets=["uk"], methods=[{"method": "lightgcn", **choice}])
        return [job.label for job in expand_labelled(spec, get_corpus(store, digest))]

    plain = labels()[0]
    assert "(" not in plain
    assert labels(settings={"layers": 3}) == [plain]
    assert labels(settings={"layers": 2}) == [f"{plain} (layers=2)"]
    assert labels(label="Mine") == ["Mine"]
    assert labels(label="Mine", grid={"layers": [1, 3]}) == ["Mine (layers=1)", "Mine (layers=3)"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corpus": "nothing"}, "no corpus 'nothing'"),
        ({"corpus": "../../etc/passwd"}, "no corpus"),
        ({"targets": ["fr"]}, "no market fr"),
        ({"sources": ["fr"]}, "no market fr"),
        ({"targets": ["uk", "uk"]}, "named twice"),
        ({"methods": [{"method": "magic"}]}, "no method 'magic'"),
        ({"methods": [{"method": "lightgcn", "settings": {"colour": 1}}]}, "colour"),
        ({"methods": [{"method": "lightgcn", "settings": {"layers": -1}}]}, "layers"),
        ({"methods": [{"method": "lightgcn", "grid": {"layers": [1, 99]}}]}, "layers"),
        ({"methods": [{"method": "lightgcn", "settings": {"layers": 1}, "grid": {"layers": [1]}}]}, "in the grid"),
        ({"methods": [{"method": "ease-weighted"}], "targets": ["uk"], "sources": ["uk"]}, "source markets"),
        (
            {"methods": [{"method": "lightgcn", "grid": {"dimensions": list(range(2, 602))}}], "seeds": range(5)},
            "limit",
        ),
    ],
)
def test_what_could_not_run_is_refused_before_anything_is_stored(
    store: Store, digest: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises((SpecError, NotFoundError), match=says) as caught:
        launch_study(store, ANALYST, study(**changes))
    assert isinstance(caught.value, CmrError)
    assert caught.value.hint or "Not a valid" in str(caught.value)
    assert counts(store) == (0, 0, 0)


@pytest.mark.parametrize(
    ("split", "refused"),
    [
        ({"kind": "events"}, True),
        ({"kind": "temporal"}, True),
        ({"kind": "leave-one-out", "order": "latest"}, True),
        ({"kind": "leave-one-out"}, False),
        ({"kind": "ratio"}, False),
    ],
)
def test_splits_by_date_need_dates(store: Store, split: dict[str, str], refused: bool) -> None:
    add_corpus(store, ANALYST, tiny_corpus("undated", dated=False), "made by a test")
    spec = study(corpus="undated", protocols=[{"split": split}])
    if not refused:
        assert launch_study(store, ANALYST, spec).created
        return
    with pytest.raises(SpecError, match="needs dates"):
        launch_study(store, ANALYST, spec)


def test_the_limit_is_known_before_any_point_of_a_grid_is_made(
    store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {f"setting{n}": list(range(199)) for n in range(10)}
    with pytest.raises(ValidationError, match=f"5000 configurations at most, not {199**10}"):
        study(methods=[{"method": "lightgcn", "grid": lists}])
    many = {"epochs": list(range(1, 1001)), "layers": [1, 2]}
    with pytest.raises(SpecError, match=f"makes {2 * 1000 * 3} runs; the limit is"):
        estimate(store, study(methods=[{"method": "lightgcn", "grid": many}]))
    methods = [{"method": "lightgcn", "grid": {"layers": [1, 2]}}, {"method": "ease-weighted"}]
    spec, row = study(methods=methods, seeds=[0, 1], source_sets=["all", "only-one"]), get_corpus(store, digest)
    jobs = len(expand(spec, row))
    assert jobs == 2 * 3 * 2 + 3 * 3  # solved, not trained: one seed; with all sources and each alone
    monkeypatch.setattr(studies, "MOST_RUNS", jobs)
    assert len(expand(spec, row)) == jobs
    monkeypatch.setattr(studies, "MOST_RUNS", jobs - 1)
    with pytest.raises(SpecError, match=f"makes {jobs} runs"):
        expand(spec, row)


def test_the_same_study_goes_on_under_its_id(store: Store, digest: str) -> None:
    first = launch_study(store, ANALYST, study())
    with store.begin() as session:
        session.execute(update(RunRow).where(RunRow.id == first.created[0]).values(state="failed"))
    again = launch_study(store, ANALYST, study())
    assert (again.study_id, len(again.created), set(again.reused)) == (first.study_id, 1, set(first.created[1:]))
    assert {run.id for run in runs.list_runs(store, study_id=first.study_id)} == {*again.created, *again.reused}
    assert runs.get_run(store, first.created[0]).state == "failed"
    assert launch_study(store, ANALYST, study(note="another question")).study_id != first.study_id
    assert len(list_studies(store)) == 2


def test_what_was_computed_is_shared_and_what_failed_is_made_anew(store: Store, digest: str) -> None:
    first = launch_study(store, ANALYST, study())
    assert (len(first.created), first.reused) == (3, [])
    bad, *good = first.created
    with store.begin() as session:
        session.execute(update(RunRow).where(RunRow.id == bad).values(state="failed"))
        session.execute(update(RunRow).where(RunRow.id == good[0]).values(state="succeeded"))
    second = launch_study(store, ANALYST, study(name="again"))
    assert (len(second.created), set(second.reused)) == (1, set(good))
    assert {run.id for run in runs.list_runs(store, study_id=second.study_id)} == {*second.created, *good}
    assert counts(store) == (2, 6, 4)


def test_fifty_launches_at_once_make_each_run_once(store: Store, digest: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        launched = list(pool.map(lambda n: launch_study(store, ANALYST, study(name=f"s{n}")), range(50)))
    created = [run_id for one in launched for run_id in one.created]
    assert len(created) == len(set(created)) == 3
    assert all({*one.created, *one.reused} == set(created) for one in launched)
    assert counts(store) == (50, 150, 3)


def test_a_study_can_be_read_back_as_it_was_launched(store: Store, digest: str) -> None:
    spec = study(note="why", seeds=[1, 2])
    launched = launch_study(store, ANALYST, spec)
    assert study_spec(get_study(store, launched.study_id)) == spec
    assert [row.id for row in list_studies(store)] == [launched.study_id]
    with pytest.raises(NotFoundError):
        get_study(store, "no\0such")


def test_an_estimate_learns_from_the_past(store: Store, digest: str) -> None:
    spec = study(methods=[{"method": "lightgcn"}], seeds=[0, 1])
    before = estimate(store, spec)
    assert (before.runs, before.reused, before.known, before.seconds) == (6, 0, 0, 360.0)
    launch_study(store, ANALYST, study(methods=[{"method": "lightgcn"}], targets=["uk", "jp"]))
    with store.begin() as session:
        for target, seconds in (("uk", 10.0), ("jp", 4.0)):
            where = RunRow.target == target
            session.execute(update(RunRow).where(where).values(state="succeeded", seconds=seconds))
    after = estimate(store, spec)
    # uk and jp have one new seed each; de takes the mean of all markets, twice
    assert (after.runs, after.reused, after.known) == (6, 2, 4)
    assert after.seconds == pytest.approx(10 + 4 + 2 * 7)


def test_viewers_launch_nothing(store: Store, digest: str) -> None:
    with pytest.raises(NotPermittedError):
        launch_study(store, Actor("vic", "viewer"), study())
    assert counts(store) == (0, 0, 0)


def test_a_gpu_makes_another_run_of_the_same_row() -> None:
    there, here = (
        JobSpec.model_validate({"corpus": "c" * 64, "target": "de", "method": "ease", "budget": {"device": device}})
        for device in ("gpu", "cpu")
    )
    assert there.fingerprint() != here.fingerprint()
    assert there.configuration() == here.configuration()
