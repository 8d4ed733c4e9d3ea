"""Stored bytes and tables: whole or not there, and damage is told, never shown."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select

from cmr_core.errors import CmrError, ConflictError, IntegrityError, NotFoundError, SpecError
from cmr_core.spec import JobSpec, SplitSpec
from tests.worker.conftest import ANALYST, tiny_corpus
from worker.store import blobs, runs
from worker.store.artifacts import TABLES, from_safetensors, load_model, load_table, read_artifact, to_safetensors
from worker.store.blobs import Blobs, DiskFullError
from worker.store.corpora import add_corpus, dated_markets, get_corpus, list_corpora, load_corpus, market_names
from worker.store.session import Store
from worker.store.tables import ArtifactRow, CorpusRow, MetricRow
from worker.tasks import perform


@pytest.fixture
def folder(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def run_id(store: Store, digest: str) -> str:
    """A succeeded run of popularity on uk."""
    spec = JobSpec(corpus=digest, target="uk", method="popularity", split=SplitSpec(kind="leave-one-out"))
    made = runs.launch(store, ANALYST, spec)
    claim = runs.claim(store, made, "w")
    assert claim is not None
    perform(store, claim)
    assert runs.get_run(store, made).state == "succeeded", runs.get_run(store, made).error
    return made


def damage(store: Store, sha256: str, how: str) -> None:
    path = store.blobs.folder / sha256[:2] / sha256
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "swap":
        path.write_bytes(b"something else")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def test_bytes_come_back_under_their_checksum(folder: Blobs) -> None:
    data = os.urandom(5000)
    sha256 = folder.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert folder.get(sha256) == data
    assert folder.put(data) == sha256
    assert len(list(folder.folder.glob("*/*"))) == 1


def test_putting_damaged_bytes_again_mends_them(folder: Blobs) -> None:
    sha256 = folder.put(b"good")
    (folder.folder / sha256[:2] / sha256).write_bytes(b"evil")
    with pytest.raises(IntegrityError):
        folder.get(sha256)
    folder.put(b"good")
    assert folder.get(sha256) == b"good"


@pytest.mark.parametrize(
    "name", ["", "..", "a" * 63, "A" * 64, "../" * 20 + "etc", "a" * 62 + "/b", "a" * 64 + "\n", "\0"]
)
def test_no_path_can_be_named(folder: Blobs, name: str) -> None:
    for action in (folder.get, folder.discard):
        with pytest.raises(NotFoundError):
            action(name)


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_full_disk_is_told_and_leaves_nothing_behind(
    folder: Blobs, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    kept = folder.put(b"kept")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs.os, "fsync" if fails == "write" else "replace", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        folder.put(b"too much")
    monkeypatch.undo()
    assert [path.name for path in folder.folder.glob("*/*")] == [kept]
    assert folder.get(kept) == b"kept"


def test_only_old_bytes_and_abandoned_parts_are_stale(folder: Blobs) -> None:
    old, new = folder.put(b"old"), folder.put(b"new")
    part = folder.folder / old[:2] / "partial-x"
    part.write_bytes(b"half")
    for path in (part, folder.folder / old[:2] / old):
        os.utime(path, (0, 0))
    assert list(folder.stale(60)) == [old]
    assert not part.exists()
    folder.put(b"old")  # somebody is about to name it again
    assert list(folder.stale(60)) == []
    assert folder.get(new) == b"new"


def test_arrays_keep_shape_type_and_order() -> None:
    arrays = {
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(3, dtype=np.int64),
        "none": np.zeros((0, 4), dtype=np.int32),
    }
    back = from_safetensors(to_safetensors(arrays))
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype
        assert np.array_equal(back[name], value)
        assert back[name].shape == value.shape


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04K\x01.", b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}", b"PK\3\4"]
)
def test_what_is_no_safetensors_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        from_safetensors(data)


def test_a_finished_run_has_all_its_tables(store: Store, run_id: str) -> None:
    corpus = tiny_corpus()
    per_user, topk, held = (load_table(store, run_id, kind) for kind in ("per_user", "topk", "held_out"))
    assert list(per_user.columns[:3]) == ["user", "user_id", "n_train"]
    assert per_user["user_id"].tolist() == corpus.markets["uk"].users[per_user["user"]].tolist()
    assert per_user["n_train"].tolist() == [3] * 8  # five pairs, one for validation and one for the test
    assert list(held.columns) == ["user", "user_id", "item", "item_id", "rank"]
    assert len(held) == 8
    assert list(topk.columns) == ["user", "user_id", "rank", "item", "item_id", "score"]
    assert topk["user_id"].tolist() == corpus.markets["uk"].users[topk["user"]].tolist()
    assert (topk["item"] >= 0).all()
    with store.read() as session:
        mean = session.scalar(
            select(MetricRow.value).filter_by(run_id=run_id, part="test", slice="all", name="ndcg@10")
        )
    assert mean == pytest.approx(per_user["ndcg@10"].mean())


def test_the_stored_model_recommends_what_the_table_says(store: Store, run_id: str) -> None:
    topk = load_table(store, run_id, "topk")
    scores = load_model(store, run_id).score(topk["user"].to_numpy())
    assert np.allclose(scores[np.arange(len(topk)), topk["item"]], topk["score"])


@pytest.mark.parametrize("how", ["flip", "truncate", "swap", "delete"])
@pytest.mark.parametrize("kind", [*TABLES, "model"])
def test_damage_is_told(store: Store, run_id: str, kind: Any, how: str) -> None:
    with store.read() as session:
        damage(store, session.get_one(ArtifactRow, (run_id, kind)).sha256, how)
    with pytest.raises((IntegrityError, NotFoundError)) as caught:
        load_model(store, run_id) if kind == "model" else load_table(store, run_id, kind)
    assert isinstance(caught.value, CmrError)
    assert caught.value.hint
    with pytest.raises((IntegrityError, NotFoundError)):
        read_artifact(store, run_id, kind)


def test_what_is_not_there_is_not_found(store: Store, run_id: str, digest: str) -> None:
    with pytest.raises(NotFoundError, match="no table"):
        load_table(store, run_id, "secrets")  # type: ignore[arg-type]
    queued = runs.launch(store, ANALYST, JobSpec(corpus=digest, target="jp", method="popularity"))
    with pytest.raises(NotFoundError, match="has no per_user") as caught:
        load_table(store, queued, "per_user")
    assert "queued" in caught.value.hint


def test_a_corpus_is_stored_once_and_comes_back_the_same(store: Store, digest: str) -> None:
    assert add_corpus(store, ANALYST, tiny_corpus(), "again") == digest
    row = get_corpus(store, "tiny")
    assert (row.digest, row.origin, row.created_by) == (digest, "made by a test", "ann")
    assert market_names(row) == dated_markets(row) == ["de", "jp", "uk"]
    assert load_corpus(store, digest).digest == digest
    assert [one.name for one in list_corpora(store)] == ["tiny"]


def test_a_name_belongs_to_one_content(store: Store, digest: str) -> None:
    with pytest.raises(ConflictError, match="called 'tiny'"):
        add_corpus(store, ANALYST, tiny_corpus(shift=1), "other content")
    with pytest.raises(SpecError):
        add_corpus(store, ANALYST, tiny_corpus("Not a name!", shift=1), "x")
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(CorpusRow)) == 1


def test_a_damaged_corpus_is_told(store: Store, digest: str) -> None:
    damage(store, get_corpus(store, digest).sha256, "flip")
    with pytest.raises(IntegrityError):
        load_corpus(store, digest)


def test_rows_of_a_run_go_with_it(store: Store, run_id: str) -> None:
    from worker.store.tables import RunRow

    with store.begin() as session:
        session.execute(delete(RunRow))
        assert session.scalar(select(func.count()).select_from(ArtifactRow)) == 0
        assert session.scalar(select(func.count()).select_from(MetricRow)) == 0
