"""A study goes to another store as it is, and nothing else gets in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import func, select, update

from cmr_core.data.market import Corpus
from cmr_core.errors import (
    CmrError,
    ConflictError,
    FileFormatError,
    IntegrityError,
    NotFoundError,
    NotPermittedError,
    SpecError,
)
from cmr_core.spec import JobSpec, StudySpec
from tests.worker.conftest import ANALYST, tiny_corpus
from worker.settings import Settings
from worker.store import runs
from worker.store.artifacts import TABLES, list_artifacts, load_model, load_table, to_parquet
from worker.store.audit import Actor
from worker.store.corpora import add_corpus
from worker.store.session import Store, open_store
from worker.store.studies import get_study, launch_study, list_studies, study_spec
from worker.store.study_export import export_study
from worker.store.study_import import import_study
from worker.store.table_checks import CHECKS
from worker.store.tables import (
    ArtifactRow,
    AuditRow,
    LogRow,
    MetricRow,
    PointRow,
    RunRow,
    StageRow,
    StudyRow,
    StudyRunRow,
)
from worker.tasks import perform

BOB = Actor("bob", "analyst")
SPEC = StudySpec.model_validate(
    {
        "name": "carried",
        "corpus": "tiny",
        "targets": ["uk", "jp"],
        "methods": [
            {"method": "popularity"},
            {"method": "ease-weighted", "settings": {"tune": False}},
            {"method": "lightgcn", "settings": {"teacher_epochs": 3, "dimensions": 4, "teacher_eval_every": 1}},
        ],
        "protocols": [{"split": {"kind": "leave-one-out"}}],
    }
)
Members = dict[str, bytes]


def finish(store: Store, ids: list[str]) -> None:
    for run_id in ids:
        claim = runs.claim(store, run_id, "w")
        assert claim is not None
        perform(store, claim)
        assert runs.get_run(store, run_id).state == "succeeded", runs.get_run(store, run_id).error


def empty(folder: Path, migrated: Path, corpus: Corpus | None) -> Store:
    folder.mkdir()
    shutil.copy(migrated, folder / "cmr.db")
    opened = open_store(Settings(home=folder))
    if corpus is not None:
        add_corpus(opened, BOB, corpus, "the same files, on another machine")
    return opened


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[tuple[Store, str]]:
    """A store with a finished study of six runs; it is only read."""
    opened = empty(tmp_path_factory.mktemp("stores") / "here", migrated, tiny_corpus())
    launched = launch_study(opened, ANALYST, SPEC)
    finish(opened, launched.created)
    yield opened, launched.study_id
    opened.close()


@pytest.fixture(scope="module")
def exported(here: tuple[Store, str]) -> bytes:
    store, study_id = here
    out = io.BytesIO()
    export_study(store, ANALYST, study_id, out, models=True)
    return out.getvalue()


@pytest.fixture
def there(tmp_path: Path, migrated: Path) -> Iterator[Store]:
    """An empty store with the same corpus under another name."""
    opened = empty(tmp_path / "there", migrated, tiny_corpus("renamed"))
    yield opened
    opened.close()


def contents(store: Store) -> dict[str, Any]:
    """Everything stored of all runs, by fingerprint, without ids and without what belongs to one machine."""
    own = {"id", "run_id", "worker", "lease_until", "sent_at", "attempts_allowed", "done", "total"}

    def plain(row: Any) -> dict[str, Any]:
        return {c.name: getattr(row, c.name) for c in row.__table__.columns if c.name not in own}

    found = {}
    with store.read() as session:
        for run in session.scalars(select(RunRow)):
            rows = {
                table.__tablename__: sorted(
                    map(str, map(plain, session.scalars(select(table).filter_by(run_id=run.id))))
                )
                for table in (MetricRow, StageRow, ArtifactRow, PointRow)
            }
            assert rows["metric"]
            assert rows["artifact"]
            found[run.fingerprint] = (plain(run), rows)
    return found


def members(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(found: Members, *, sums: bool = True, method: int = zipfile.ZIP_STORED) -> bytes:
    """A file of these members, with a manifest that fits them unless told otherwise."""
    if sums:
        listed = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in found.items()
            if name != "manifest.json"
        }
        found = found | {
            "manifest.json": json.dumps({**json.loads(found["manifest.json"]), "members": listed}).encode()
        }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return out.getvalue()


def refused(store: Store, data: bytes, error: type[CmrError] | tuple[type[CmrError], ...], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        import_study(store, BOB, data)
    assert caught.value.hint
    with store.read() as session:
        tables = (RunRow, StudyRow, StudyRunRow, MetricRow, ArtifactRow, PointRow, LogRow)
        assert [session.scalar(select(func.count()).select_from(table)) for table in tables] == [0] * len(tables)


# --- what goes over ------------------------------------------------------------------------------------------------


def test_everything_of_the_runs_arrives_with_its_dates(here: tuple[Store, str], there: Store, exported: bytes) -> None:
    done = import_study(there, BOB, exported)
    assert (len(done.added), done.there, done.unfinished) == (6, [], [])
    assert contents(there) == contents(here[0])
    for fingerprint, run in {run.fingerprint: run for run in runs.list_runs(here[0])}.items():
        other = next(r for r in runs.list_runs(there) if r.fingerprint == fingerprint)
        for kind in TABLES:
            pd.testing.assert_frame_equal(load_table(there, other.id, kind), load_table(here[0], run.id, kind))
        users = np.arange(8)
        assert np.array_equal(load_model(there, other.id).score(users), load_model(here[0], run.id).score(users))
    study, original = get_study(there, here[1]), get_study(*here)
    assert (study.created_at, study.created_by, study.name) == (original.created_at, "ann", "carried")
    assert study_spec(study) == SPEC.model_copy(update={"corpus": "renamed"})
    assert {run.id for run in runs.list_runs(there, study_id=here[1])} == set(done.added)


def test_the_keys_of_shared_stages_go_along_and_files_of_before_there_were_any_come_in(
    there: Store, exported: bytes
) -> None:
    import_study(there, BOB, changed(exported, lambda run: [stage.pop("key") for stage in run["stages"]]))
    with there.read() as session:
        found = session.execute(select(RunRow.method, StageRow.name, StageRow.key).join(RunRow)).all()
    keys = {(method, name): key for method, name, key in found}
    assert len(keys["lightgcn", "teacher"] or "") == 16
    assert {key for (method, _), key in keys.items() if method != "lightgcn"} == {None}


def test_it_is_told_that_runs_were_imported(there: Store, exported: bytes) -> None:
    done = import_study(there, BOB, exported)
    with there.read() as session:
        row = session.scalars(select(AuditRow).where(AuditRow.action == "import study")).one()
    assert (row.actor, row.subject, row.detail) == ("bob", done.study_id, {"name": "carried", "runs": 6})
    for run_id in done.added:
        assert [line.text for line in runs.log_lines(there, run_id)] == [
            "Imported by bob; ann had launched it elsewhere."
        ]


def test_models_go_along_only_where_asked_for(here: tuple[Store, str], there: Store, tmp_path: Path) -> None:
    out = tmp_path / "carried.zip"
    told = export_study(*here[:1], ANALYST, here[1], out)
    assert (told.runs, told.left_out) == (6, 0)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["carried.zip"]
    done = import_study(there, BOB, out)
    assert {artifact.kind for run_id in done.added for artifact in list_artifacts(there, run_id)} == set(TABLES)
    with pytest.raises(NotFoundError) as caught:
        load_model(there, done.added[0])
    assert "imported without it" in caught.value.hint


def test_only_the_asked_places_of_the_lists_go_along(here: tuple[Store, str], there: Store, exported: bytes) -> None:
    out = io.BytesIO()
    export_study(here[0], ANALYST, here[1], out, places=2)
    done = import_study(there, BOB, out.getvalue())
    for fingerprint, run in {run.fingerprint: run for run in runs.list_runs(here[0])}.items():
        other = next(r for r in runs.list_runs(there) if r.fingerprint == fingerprint)
        whole, cut = (load_table(*one, "topk") for one in ((here[0], run.id), (there, other.id)))
        assert whole["rank"].max() > 2
        pd.testing.assert_frame_equal(cut, whole[whole["rank"] <= 2].reset_index(drop=True))
        for kind in set(TABLES) - {"topk"}:
            pd.testing.assert_frame_equal(load_table(there, other.id, kind), load_table(here[0], run.id, kind))
    assert len(done.added) == 6
    again = import_study(there, BOB, exported)
    assert len(again.there) == 6  # the whole lists come with a run that is new, not into one that is there


def test_export_leaves_out_what_has_not_succeeded_and_overwrites_nothing(
    store: Store, digest: str, tmp_path: Path
) -> None:
    launched = launch_study(store, ANALYST, SPEC)
    out = tmp_path / "study.zip"
    with pytest.raises(NotFoundError, match="No run"):
        export_study(store, ANALYST, launched.study_id, out)
    assert not out.exists()
    finish(store, launched.created[:2])
    told = export_study(store, ANALYST, launched.study_id, out)
    assert (told.runs, told.left_out) == (2, 4)
    before = out.read_bytes()
    assert before
    with pytest.raises(ConflictError, match="exists"):
        export_study(store, ANALYST, launched.study_id, out)
    assert out.read_bytes() == before


def test_export_of_damaged_bytes_leaves_no_file(store: Store, digest: str, tmp_path: Path) -> None:
    launched = launch_study(store, ANALYST, SPEC.model_copy(update={"methods": SPEC.methods[:1]}))
    finish(store, launched.created)
    sha256 = list_artifacts(store, launched.created[0])[0].sha256
    (store.blobs.folder / sha256[:2] / sha256).write_bytes(b"damaged")
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(IntegrityError):
        export_study(store, ANALYST, launched.study_id, folder / "study.zip")
    assert list(folder.iterdir()) == []


# --- what is there stays -------------------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_elsewhere(store: Store, digest: str, there: Store, tmp_path: Path) -> None:
    launched = launch_study(store, ANALYST, SPEC)
    finish(store, launched.created[:4])
    export_study(store, ANALYST, launched.study_id, tmp_path / "part.zip")
    done = import_study(there, BOB, tmp_path / "part.zip")
    again = launch_study(there, BOB, study_spec(get_study(there, done.study_id)))
    assert (set(again.reused), len(again.created)) == (set(done.added), 2)


def test_runs_that_are_there_are_left_as_they_are(here: tuple[Store, str], there: Store, exported: bytes) -> None:
    own = launch_study(there, BOB, SPEC.model_copy(update={"corpus": "renamed", "name": "own"}))
    finish(there, own.created[:2])
    for run_id in own.created[2:]:
        assert runs.claim(there, run_id, "w")
    before = contents_of(there, own.created)
    done = import_study(there, BOB, exported)
    assert (set(done.there), set(done.unfinished), done.added) == (set(own.created[:2]), set(own.created[2:]), [])
    assert contents_of(there, own.created) == before
    assert {run.id for run in runs.list_runs(there, study_id=done.study_id)} == set(own.created)


def test_runs_that_wait_take_the_imported_results(here: tuple[Store, str], there: Store, exported: bytes) -> None:
    own = launch_study(there, BOB, SPEC.model_copy(update={"corpus": "renamed", "name": "own"}))
    done = import_study(there, BOB, exported)
    assert (set(done.added), done.there, done.unfinished) == (set(own.created), [], [])
    whole = contents(here[0])
    for fingerprint, (run, rows) in contents(there).items():
        mine = {"created_at", "created_by"}  # the run was launched here
        assert {k: v for k, v in run.items() if k not in mine} == {
            k: v for k, v in whole[fingerprint][0].items() if k not in mine
        }
        assert rows == whole[fingerprint][1]
    for run_id in own.created:
        assert runs.claim(there, run_id, "w") is None
        assert load_model(there, run_id).score(np.arange(8)).shape[0] == 8
    assert {run.state for run in runs.list_runs(there, study_id=own.study_id)} == {"succeeded"}


def contents_of(store: Store, ids: list[str]) -> list[str]:
    with store.read() as session:
        tables = (RunRow, MetricRow, StageRow, ArtifactRow, PointRow, LogRow)
        found = [row for table in tables for row in session.execute(select(table.__table__)).all()]
    assert len(found) > len(ids)
    return sorted(map(str, found))


def test_importing_twice_changes_nothing(there: Store, exported: bytes) -> None:
    first = import_study(there, BOB, exported)
    before = contents_of(there, first.added)
    second = import_study(there, BOB, exported)
    assert (second.added, set(second.there)) == ([], set(first.added))
    assert contents_of(there, first.added) == before
    assert len(list_studies(there)) == 1


def test_a_failed_run_is_no_obstacle(there: Store, exported: bytes) -> None:
    own = launch_study(there, BOB, SPEC.model_copy(update={"corpus": "renamed", "name": "own"}))
    with there.begin() as session:
        session.execute(update(RunRow).values(state="failed"))
    done = import_study(there, BOB, exported)
    assert len(done.added) == 6
    assert not set(done.added) & set(own.created)


def test_an_interrupted_import_is_repeated(
    here: tuple[Store, str], there: Store, exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = there.blobs.put, 0

    def full(data: bytes) -> str:
        nonlocal count
        count += 1
        if count > 12:
            raise OSError("power failure")
        return put(data)

    monkeypatch.setattr(there.blobs, "put", full)
    with pytest.raises(OSError, match="power"):
        import_study(there, BOB, exported)
    monkeypatch.undo()
    some = contents(there)
    whole = contents(here[0])
    assert 0 < len(some) < 6
    assert all(whole[fingerprint] == run for fingerprint, run in some.items())
    import_study(there, BOB, exported)
    assert contents(there) == whole


def test_another_study_of_the_same_id_is_kept(there: Store, exported: bytes) -> None:
    found = members(exported)
    study = json.loads(found["study.json"])
    study["spec"]["note"] = "changed"
    import_study(there, BOB, exported)
    with pytest.raises(ConflictError, match="another study"):
        import_study(there, BOB, packed(found | {"study.json": json.dumps(study).encode()}))
    assert "note" not in get_study(there, study["id"]).spec or not get_study(there, study["id"]).spec["note"]


# --- who and where -------------------------------------------------------------------------------------------------


def test_viewers_neither_take_out_nor_bring_in(here: tuple[Store, str], there: Store, exported: bytes) -> None:
    viewer = Actor("vic", "viewer")
    with pytest.raises(NotPermittedError):
        import_study(there, viewer, exported)
    with pytest.raises(NotPermittedError):
        export_study(here[0], viewer, here[1], io.BytesIO())


def test_a_store_without_the_corpus_says_which_one_to_add(tmp_path: Path, migrated: Path, exported: bytes) -> None:
    bare = empty(tmp_path / "bare", migrated, tiny_corpus("tiny", shift=1))  # same name, other data
    refused(bare, exported, NotFoundError, r"corpus 'tiny' \(digest [0-9a-f]{12}, markets de, jp, uk\)")
    bare.close()


def test_runs_on_imported_lists_need_the_lists(there: Store, exported: bytes) -> None:
    def given(run: dict[str, Any]) -> None:
        run["spec"]["evaluation"] |= {"candidates": "given", "given": "0" * 64}

    refused(there, changed(exported, given), SpecError, "candidate lists .* not in the store")


# --- what does not get in ------------------------------------------------------------------------------------------


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with one of its runs changed, its name and all sums corrected."""
    found = members(data)
    name = next(name for name in sorted(found) if name.startswith("runs/") and b'"ease-weighted"' in found[name])
    run = json.loads(found.pop(name))
    change(run)
    with contextlib.suppress(ValueError):  # a spec that makes no sense has no fingerprint
        name = f"runs/{JobSpec.model_validate(run['spec']).fingerprint()}.json"
    return packed(found | {name: json.dumps(run).encode()})


def with_table(data: bytes, kind: str, change: Callable[[pd.DataFrame], pd.DataFrame | bytes]) -> bytes:
    """The file with one table of one run changed and all sums corrected."""
    found = members(data)

    def replace(run: dict[str, Any]) -> None:
        artifact = next(a for a in run["artifacts"] if a["kind"] == kind)
        table = change(pd.read_parquet(io.BytesIO(found[f"blobs/{artifact['sha256']}"])))
        body = table if isinstance(table, bytes) else to_parquet(table)
        artifact["sha256"] = hashlib.sha256(body).hexdigest()
        found[f"blobs/{artifact['sha256']}"] = body

    changed_run = members(changed(data, replace))
    return packed(found | {name: body for name, body in changed_run.items() if not name.startswith("blobs/")})


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_off_is_refused(there: Store, exported: bytes, share: float) -> None:
    refused(there, exported[: int(len(exported) * share)], FileFormatError, "cut off")


def test_every_flipped_byte_of_a_member_is_found(there: Store, exported: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        places = [info.header_offset + 40 + len(info.filename) for info in archive.infolist()]
    for place in places:
        damaged = bytearray(exported)
        damaged[place] ^= 1
        refused(there, bytes(damaged), (IntegrityError, FileFormatError), "damaged|cut off|not what the manifest")


def test_members_that_differ_from_the_manifest_are_refused(there: Store, exported: bytes) -> None:
    found = members(exported)
    study = found["study.json"].replace(b"carried", b"another")
    refused(there, packed(found | {"study.json": study}, sums=False), IntegrityError, "not what the manifest says")
    gone = {name: data for name, data in found.items() if not name.startswith("runs/")}
    refused(there, packed(gone, sums=False), FileFormatError, "not those that its manifest lists")
    blob = next(name for name in found if name.startswith("blobs/"))
    refused(there, packed({n: d for n, d in found.items() if n != blob}), FileFormatError, "is missing")
    refused(there, packed(found | {blob: b"other bytes"}), FileFormatError, "is missing")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "runs/../../evil.json", "blobs/", "model.pkl", "blobs/" + "A" * 64, "C:\\x"]
)
def test_no_member_can_name_a_path(there: Store, exported: bytes, name: str, tmp_path: Path) -> None:
    refused(there, packed(members(exported) | {name: b"x"}), FileFormatError, "no exported study has")
    assert not (tmp_path / "evil").exists()


def test_nothing_can_grow_on_reading(there: Store, exported: bytes) -> None:
    found = members(exported)
    bomb = packed(found | {f"blobs/{'0' * 64}": bytes(50_000_000)}, method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1_000_000
    refused(there, bomb, FileFormatError, "claims to hold more")
    refused(there, packed(found, method=zipfile.ZIP_BZIP2), FileFormatError, "claims to hold more|compressed")


def test_a_name_stands_once(there: Store, exported: bytes) -> None:
    out = io.BytesIO(exported)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(out, "a") as archive:
        archive.writestr("study.json", b"{}")
    refused(there, out.getvalue(), FileFormatError, "same name")


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no exported study"),
        (b'{"format": "other"}', "no exported study"),
        (b'{"format": "cmr-study", "schema_version": 2}', "version 2, and this program reads version 1"),
        (b'{"format": "cmr-study", "schema_version": 1}', "members"),
        (b'{"format": "cmr-study", "schema_version": 1, "members": {}, "more": 1}', "more"),
    ],
)
def test_unknown_manifests_are_refused(there: Store, exported: bytes, manifest: bytes, says: str) -> None:
    refused(there, packed(members(exported) | {"manifest.json": manifest}, sums=False), FileFormatError, says)


@pytest.mark.parametrize("data", [b"", b"PK", b"hello" * 100, b"PK\x05\x06" + b"\0" * 18])
def test_other_files_are_refused(there: Store, data: bytes, tmp_path: Path) -> None:
    refused(there, data, FileFormatError, "no exported study")
    path = tmp_path / "given.zip"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"given\.zip"):
        import_study(there, BOB, path)


def test_a_run_under_another_fingerprint_is_refused(there: Store, exported: bytes) -> None:
    found = members(exported)
    name = next(name for name in found if name.startswith("runs/"))
    found[f"runs/{'0' * 64}.json"] = found.pop(name)
    refused(there, packed(found), FileFormatError, "another run than its name")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: run["spec"].update(corpus="0" * 64), "another corpus"),
        (lambda run: run["spec"].update(target="fr"), "another corpus"),
        (lambda run: run["spec"].update(sources=["jp", "fr"]), "another corpus"),
        (lambda run: run.update(state="succeeded"), "no such key"),
        (lambda run: run.update(seconds=-1), "seconds"),
        (lambda run: run.update(seconds="NaN"), "seconds"),
        (lambda run: run.update(label="x" * 161), "label"),
        (lambda run: run.update(label="a\0b"), "label"),
        (lambda run: run.update(finished_at="2024-01-01T00:00:00"), "finished_at"),
        (lambda run: run.update(created_by=None), "created_by"),
        (lambda run: run["metrics"].append(run["metrics"][0]), "twice"),
        (lambda run: run["stages"].append(run["stages"][0]), "twice"),
        (lambda run: run["artifacts"].append(run["artifacts"][0]), "twice"),
        (lambda run: run["artifacts"].pop(), "artifacts"),
        (lambda run: run["artifacts"][0].update(kind="secret"), "artifacts"),
        (lambda run: run["artifacts"][0].update(sha256="0" * 64), "missing"),
        (lambda run: run["artifacts"][0].update(sha256="../x"), "sha256"),
        (lambda run: run["parameters"].update(frozen=-1), "frozen"),
        (lambda run: run["metrics"][0].update(value=1e999), "value"),
        (lambda run: run["metrics"][0].update(part="train"), "part"),
    ],
)
def test_runs_that_make_no_sense_are_refused(
    there: Store, exported: bytes, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    def quiet(run: dict[str, Any]) -> None:
        run["artifacts"].sort(key=lambda artifact: artifact["kind"] == "per_user")
        change(run)

    refused(there, changed(exported, quiet), FileFormatError, says)


def test_means_that_are_not_those_of_the_users_are_refused(there: Store, exported: bytes) -> None:
    def better(run: dict[str, Any]) -> None:
        for metric in run["metrics"]:
            if (metric["part"], metric["slice"], metric["name"]) == ("test", "all", "ndcg@10"):
                metric["value"] += 0.01

    refused(there, changed(exported, better), IntegrityError, "another mean of ndcg@10")


def test_every_table_has_a_check() -> None:
    assert set(CHECKS) == set(TABLES)


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(user_id=frame["user_id"].to_numpy()[::-1])


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("per_user", lambda t: b"no parquet", "cannot be read"),
        ("per_user", lambda t: b"", "cannot be read"),
        ("per_user", lambda t: t.drop(columns="n_train"), "per_user"),
        ("per_user", lambda t: t.assign(n_train=t["n_train"] + 1), "other training items"),
        ("per_user", lambda t: t.iloc[:-1], "another mean"),
        ("per_user", lambda t: pd.concat([t, t]), "twice"),
        ("per_user", lambda t: t.assign(user=t["user"] + 1000), "market does not have"),
        ("per_user", lambda t: t.assign(user=-1), "market does not have"),
        ("per_user", swapped, "another id"),
        ("per_user", lambda t: t.assign(user_id="<b>"), "corpus does not have"),
        ("per_user", lambda t: t.assign(**{"ndcg@10": "high"}), "per_user"),
        ("per_user", lambda t: t.assign(**{"ndcg@10": np.nan}), "numbers"),
        ("per_user", lambda t: t.assign(**{"made@10": 1.0}), "another mean of made@10"),
        ("topk", lambda t: t.assign(rank=0), "below 1"),
        ("topk", lambda t: t.assign(item=10_000), "market does not have"),
        ("topk", lambda t: t.assign(item_id=t["item_id"].to_numpy()[::-1]), "another id"),
        ("topk", lambda t: pd.concat([t, t]), "twice"),
        ("topk", lambda t: t.assign(score=np.inf), "numbers"),
        ("held_out", lambda t: t.assign(rank=0.5), "integers"),
        ("held_out", lambda t: t.assign(more=1), "columns"),
        ("curves", lambda t: t.rename(columns={"step": "steps"}), "columns"),
        (
            "curves",
            lambda t: pd.DataFrame({"stage": ["x" * 300], "step": [1], "name": ["loss"], "value": [1.0]}),
            "stage",
        ),
        ("curves", lambda t: pd.DataFrame({"stage": [1], "step": [1], "name": ["loss"], "value": [1.0]}), "stage"),
        ("curves", lambda t: pd.DataFrame({"stage": ["x"], "step": [2**40], "name": ["l"], "value": [1.0]}), "step"),
    ],
)
def test_tables_that_no_run_would_store_are_refused(
    there: Store, exported: bytes, kind: str, change: Callable[[pd.DataFrame], pd.DataFrame | bytes], says: str
) -> None:
    refused(there, with_table(exported, kind, change), IntegrityError, says)


def test_a_small_table_of_very_many_rows_is_refused(there: Store, exported: bytes) -> None:
    def many(table: pd.DataFrame) -> bytes:
        body = to_parquet(pd.DataFrame({"stage": "x", "step": np.zeros(21_000_000, dtype=np.int8)}))
        assert len(body) < 1_000_000
        return body

    refused(there, with_table(exported, "curves", many), IntegrityError, "too large")


def test_a_small_table_of_very_many_cells_is_refused(there: Store, exported: bytes) -> None:
    def wide(table: pd.DataFrame) -> bytes:
        column = np.zeros(1_000_000, dtype=np.int8)
        body = to_parquet(pd.DataFrame({f"m{k}@10": column for k in range(101)}))
        assert len(body) < 1_000_000
        return body

    refused(there, with_table(exported, "per_user", wide), IntegrityError, "too large: 1000000 rows, 101 columns")


def test_a_model_that_does_not_fit_is_refused(there: Store, exported: bytes) -> None:
    found = members(exported)

    def no_model(run: dict[str, Any]) -> None:
        other = next(a for a in run["artifacts"] if a["kind"] == "per_user")
        next(a for a in run["artifacts"] if a["kind"] == "model")["sha256"] = other["sha256"]

    refused(there, changed(exported, no_model), IntegrityError, "cannot be read")
    refused(there, changed(exported, lambda run: run.update(shape="factors")), IntegrityError, "incomplete")
    assert found
