"""Imported candidate lists: stored once, checked before a launch, and used by the worker."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
from sqlalchemy import func, select

from cmr_core.data.lists import Lists
from cmr_core.errors import ConflictError, DataError, IntegrityError, NotFoundError, NotPermittedError, SpecError
from cmr_core.spec import JobSpec, StudySpec, parse
from tests.worker.conftest import ANALYST, tiny_corpus
from worker.reaper import collect_garbage
from worker.store import runs
from worker.store.artifacts import load_table
from worker.store.audit import Actor
from worker.store.corpora import add_corpus
from worker.store.lists import add_lists, list_lists, load_lists
from worker.store.session import Store
from worker.store.studies import estimate, launch_study
from worker.store.tables import AuditRow, ListsRow, RunRow, StudyRow
from worker.tasks import perform


def table(*pairs: tuple[str, str]) -> pa.Table:
    user, item = zip(*pairs, strict=True)
    return pa.table({"user": user, "item": item, "line": range(1, len(pairs) + 1)})


# In the tiny corpus user u of jp has had five items from 3u + 1 on: u000 i01..i05, u001 i04..i08.
LISTS = Lists("jp", "run.tsv", table(("u000", "i06"), ("u000", "i07"), ("u001", "i09"), ("u001", "i00")))
JUDGED = Lists("jp", "run.tsv", LISTS.pairs, "qrel.tsv", table(("u000", "i07"), ("u001", "i01")))


def job(corpus: str, lists: Lists, target: str = "jp") -> JobSpec:
    body = {"corpus": corpus, "target": target, "method": "popularity", "split": {"kind": "ratio"}}
    return parse(JobSpec, body | {"evaluation": {"candidates": "given", "given": lists.digest}})


def study(lists: Lists, corpus: str = "tiny", *targets: str) -> StudySpec:
    protocol = {"split": {"kind": "ratio"}, "evaluation": {"candidates": "given", "given": lists.digest}}
    body = {"name": "s", "corpus": corpus, "targets": targets or ("jp",), "methods": [{"method": "popularity"}]}
    return parse(StudySpec, body | {"protocols": [protocol]})


def test_lists_are_stored_once_and_come_back_the_same(store: Store, digest: str) -> None:
    assert add_lists(store, ANALYST, JUDGED, corpus="tiny", name="cup") == JUDGED.digest
    assert add_lists(store, ANALYST, JUDGED, corpus=digest, name="again") == JUDGED.digest
    (row,) = list_lists(store)
    assert (row.name, row.market, row.listed, row.relevant, row.created_by) == ("cup", "jp", 4, 2, "ann")
    found = load_lists(store, job(digest, JUDGED))
    assert found is not None
    assert found.digest == JUDGED.digest
    assert load_lists(store, JobSpec(corpus=digest, target="jp", method="popularity")) is None
    with store.read() as session:
        assert session.scalars(select(AuditRow.subject).where(AuditRow.action == "add lists")).all() == [JUDGED.digest]


def test_a_name_belongs_to_one_content_within_a_corpus(store: Store, digest: str) -> None:
    add_lists(store, ANALYST, LISTS, corpus=digest, name="cup")
    with pytest.raises(ConflictError, match="'cup'"):
        add_lists(store, ANALYST, JUDGED, corpus=digest, name="cup")
    other = add_corpus(store, ANALYST, tiny_corpus("undated", dated=False), "made by a test")
    add_lists(store, ANALYST, LISTS, corpus="undated", name="cup")
    assert [row.corpus for row in list_lists(store, other)] == [other]
    assert len(list_lists(store)) == 2


def test_what_does_not_fit_is_not_stored(store: Store, digest: str) -> None:
    leak = Lists("jp", "run.tsv", LISTS.pairs, "qrel.tsv", table(("u000", "i01")))
    with pytest.raises(DataError, match="1 of the 1 relevant pairs"):
        add_lists(store, ANALYST, leak, corpus=digest, name="leak")
    with pytest.raises(SpecError, match="cannot name"):
        add_lists(store, ANALYST, LISTS, corpus=digest, name="Not a name!")
    with pytest.raises(NotFoundError):
        add_lists(store, ANALYST, LISTS, corpus="nothing", name="cup")
    with pytest.raises(NotPermittedError):
        add_lists(store, Actor("vic", "viewer"), LISTS, corpus=digest, name="cup")
    assert list_lists(store) == []


@pytest.mark.parametrize(
    ("named", "targets", "says"),
    [
        ("tiny", ("jp", "uk"), "'uk' is a target"),
        ("undated", ("jp",), "another corpus"),
        ("tiny", (), "not in the store"),
    ],
)
def test_a_launch_without_its_lists_is_refused_before_anything_is_stored(
    store: Store, digest: str, named: str, targets: tuple[str, ...], says: str
) -> None:
    add_corpus(store, ANALYST, tiny_corpus("undated", dated=False), "made by a test")
    add_lists(store, ANALYST, LISTS, corpus="tiny", name="cup")
    spec = study(LISTS if targets else JUDGED, named, *targets)
    for ask in (lambda: launch_study(store, ANALYST, spec), lambda: estimate(store, spec)):
        with pytest.raises(SpecError, match=says) as caught:
            ask()
        assert caught.value.hint
    with pytest.raises(SpecError, match="not in the store"):
        runs.launch(store, ANALYST, job(digest, JUDGED))
    with store.read() as session:
        assert [session.scalar(select(func.count()).select_from(t)) for t in (StudyRow, RunRow)] == [0, 0]


def run_here(store: Store, spec: JobSpec) -> str:
    run_id = runs.launch(store, ANALYST, spec)
    claim = runs.claim(store, run_id, "w")
    assert claim is not None
    perform(store, claim)
    return run_id


def test_the_worker_asks_what_the_qrel_file_asks(store: Store, digest: str) -> None:
    add_lists(store, ANALYST, JUDGED, corpus=digest, name="cup")
    run_id = run_here(store, job(digest, JUDGED))
    run = runs.get_run(store, run_id)
    assert (run.state, run.error) == ("succeeded", None)
    held = load_table(store, run_id, "held_out").sort_values("user")
    assert held[["user", "item_id"]].values.tolist() == [[0, "i07"], [1, "i01"]]
    assert held["rank"].max() <= 3
    assert load_table(store, run_id, "per_user")["user_id"].tolist() == ["u000", "u001"]
    assert JUDGED.digest[:8] in run.protocol_text


def test_damaged_lists_end_the_run_in_plain_words(store: Store, digest: str) -> None:
    add_lists(store, ANALYST, LISTS, corpus=digest, name="cup")
    (row,) = list_lists(store)
    add_lists(store, ANALYST, JUDGED, corpus=digest, name="other")
    with store.begin() as session:  # whole bytes, but of other lists
        other = session.get_one(ListsRow, (digest, JUDGED.digest)).sha256
        session.get_one(ListsRow, (digest, LISTS.digest)).sha256 = other
    with pytest.raises(IntegrityError, match="'cup'"):
        load_lists(store, job(digest, LISTS))
    run = runs.get_run(store, run_here(store, job(digest, LISTS)))
    assert run.state == "failed"
    assert "not what was stored" in str(run.error)
    assert row.sha256 != other


def test_the_reaper_keeps_the_bytes_of_lists(store: Store, digest: str) -> None:
    add_lists(store, ANALYST, LISTS, corpus=digest, name="cup")
    store.blobs.put(b"nobody names this")
    for path in store.blobs.folder.glob("*/*"):
        os.utime(path, (0, 0))
    assert collect_garbage(store) == 1
    assert load_lists(store, job(digest, LISTS)) is not None
