"""Pictures of vectors: asked for once, computed from stored models, and faults told in words."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import update

from cmr_core.data.market import Corpus
from cmr_core.errors import ConflictError, NotFoundError, NotPermittedError, SpecError
from cmr_core.experiment import run
from cmr_core.spec import JobSpec
from cmr_core.training.monitor import QuietMonitor
from tests.worker.conftest import ANALYST, tiny_corpus
from worker.store import runs
from worker.store.artifacts import save_outcome
from worker.store.audit import Actor
from worker.store.pictures import PictureSpec, ask_picture, draw_picture, find_picture, load_points
from worker.store.session import Store
from worker.store.tables import PictureRow


def finished(store: Store, digest: str, target: str, method: str = "lightgcn") -> str:
    """A run of the tiny corpus that has ended well."""
    corpus: Corpus = tiny_corpus()
    small = {"dimensions": 4, "teacher_epochs": 1} if method == "lightgcn" else {}
    spec = JobSpec(corpus=digest, target=target, method=method, settings=small)
    run_id = runs.launch(store, ANALYST, spec)
    claim = runs.claim(store, run_id, "w")
    assert claim is not None
    save_outcome(store, claim, run(spec, corpus, QuietMonitor()), corpus)
    return run_id


@pytest.fixture
def three(store: Store, digest: str) -> tuple[str, ...]:
    return tuple(finished(store, digest, target) for target in ("de", "jp", "uk"))


def test_a_picture_is_computed_once_and_says_how_far_markets_stand_apart(store: Store, three: tuple[str, ...]) -> None:
    spec = PictureSpec(runs=three, kind="user")
    key, send = ask_picture(store, ANALYST, spec)
    assert send
    assert ask_picture(store, ANALYST, spec) == (key, False), "it is on its way"
    draw_picture(store, key)
    row = find_picture(store, key)
    assert row is not None
    assert row.state == "done", row.message
    assert row.result is not None
    assert set(row.result["after"]["silhouette"]) == {"de", "jp", "uk"}
    points = load_points(store, row)
    assert list(points.columns) == ["stage", "market", "row", "x", "y"]
    assert set(points["stage"]) == {"after"}
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()
    assert ask_picture(store, ANALYST, spec) == (key, False), "it is there"
    draw_picture(store, key)
    again = find_picture(store, key)
    assert again is not None
    assert again.ended_at == row.ended_at, "a message that comes twice does nothing"


def test_a_method_without_vectors_fails_in_words_and_may_be_asked_again(store: Store, digest: str) -> None:
    spec = PictureSpec(runs=(finished(store, digest, "jp", "ease"),))
    key, _ = ask_picture(store, ANALYST, spec)
    draw_picture(store, key)
    row = find_picture(store, key)
    assert row is not None
    assert row.state == "failed"
    assert row.message is not None
    assert "no vectors of items" in row.message
    with pytest.raises(NotFoundError, match="not finished"):
        load_points(store, row)
    assert ask_picture(store, ANALYST, spec) == (key, True)


def test_a_picture_that_nobody_finished_may_be_asked_for_again(store: Store, three: tuple[str, ...]) -> None:
    spec = PictureSpec(runs=three)
    key, _ = ask_picture(store, ANALYST, spec)
    row = find_picture(store, key)
    assert row is not None
    with store.begin() as session:
        session.execute(update(PictureRow).values(state="drawing", asked_at=row.asked_at.replace(year=2001)))
    assert ask_picture(store, ANALYST, spec) == (key, True)


def test_what_makes_no_sense_is_refused(store: Store, three: tuple[str, ...], digest: str) -> None:
    with pytest.raises(NotFoundError, match="no run"):
        ask_picture(store, ANALYST, PictureSpec(runs=("nowhere",)))
    with pytest.raises(NotPermittedError):
        ask_picture(store, Actor("eve", "viewer"), PictureSpec(runs=three))
    other = finished(store, digest, "jp", "popularity")
    with pytest.raises(SpecError, match="one target"):
        ask_picture(store, ANALYST, PictureSpec(runs=(*three, other)))
    waiting = runs.launch(store, ANALYST, JobSpec(corpus=digest, target="jp", method="itemknn"))
    with pytest.raises(ConflictError, match="not finished"):
        ask_picture(store, ANALYST, PictureSpec(runs=(waiting,)))
    draw_picture(store, "0" * 64)  # a key that nobody asked for
