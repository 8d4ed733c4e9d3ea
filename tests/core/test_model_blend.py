"""Blends: the weights that validation prefers, members found or fitted, and reasons that add up."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from cmr_core.data.market import Corpus
from cmr_core.data.split import make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import Cancelled, SpecError
from cmr_core.experiment import member_jobs, run
from cmr_core.explain.why import explain
from cmr_core.interfaces import Fitted, FloatArray, IntArray, Pairs, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors, rebuild, shape_of
from cmr_core.models.blended import Blend, standardised
from cmr_core.models.registry import get
from cmr_core.spec import JobSpec, parse
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, checkerboard

BOTH = [{"method": "ease", "settings": {"regularisation": 10.0}}, {"method": "popularity"}]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic(seed=3, scale=0.03)


def job(corpus: Corpus, **changes: Any) -> JobSpec:
    body = {"corpus": corpus.digest, "target": "jp", "sources": ["de", "fr"], "method": "blend", "members": BOTH}
    return parse(JobSpec, {**body, **changes})


def test_a_blend_of_a_job_is_at_least_as_good_in_validation_as_its_members(corpus: Corpus) -> None:
    outcome = run(job(corpus), corpus, QuietMonitor())
    alone = [run(member, corpus, QuietMonitor()) for member in member_jobs(job(corpus))]
    blend = outcome.recommender
    assert isinstance(blend, Blend)
    assert blend.weight.sum() == pytest.approx(1)
    assert outcome.valid.means()["ndcg@10"] >= max(one.valid.means()["ndcg@10"] for one in alone) - 1e-9
    users = np.arange(5)
    expected = sum(
        w * standardised(one.recommender.score(users)) for w, one in zip(blend.weight, alone, strict=True) if w
    )
    np.testing.assert_allclose(blend.score(users), expected, rtol=1e-5, atol=1e-6)


def test_members_that_were_fitted_before_are_not_fitted_again(corpus: Corpus) -> None:
    asked: list[JobSpec] = []
    first = {m.fingerprint(): run(m, corpus, QuietMonitor()).recommender for m in member_jobs(job(corpus))}

    def find(spec: JobSpec) -> Recommender:
        asked.append(spec)
        return first[spec.fingerprint()]

    monitor = QuietMonitor()
    found = run(job(corpus), corpus, monitor, find=find)
    assert [spec.method for spec in asked] == ["ease", "popularity"]
    assert all(spec.sources == () and spec.members == () for spec in asked), "as a study launches them"
    assert not any(report.stage.startswith("member") for report in monitor.progress)
    again = run(job(corpus), corpus, monitor)
    assert any(report.stage.startswith("member 1: ") for report in monitor.progress)
    assert found.test.means() == again.test.means()


def test_a_stored_blend_scores_alike_and_its_reasons_add_up(corpus: Corpus) -> None:
    fitted = run(job(corpus), corpus, QuietMonitor()).recommender
    again = rebuild(shape_of(fitted), fitted.arrays(), fitted.parameters, fitted.details)
    users = np.arange(8)
    np.testing.assert_array_equal(again.score(users), fitted.score(users))
    train = make_split(corpus, job(corpus).split).markets["jp"].train
    for user, item in ((0, 0), (3, 5)):
        why = explain(again, train, user, item)
        assert why.exact
        assert why.total == pytest.approx(fitted.score(np.array([user]))[0, item], abs=1e-4)


def test_the_search_finds_the_half_that_is_right() -> None:
    """One member knows the first ten users' answers, the other the rest's: only both together know all."""
    size = 30
    right = np.eye(size, dtype=np.float32)

    def member(label: str, knows: IntArray) -> Fitted:
        scores = np.where(np.isin(np.arange(size), knows)[:, None], right, 0)
        fitted = Factors(ParameterCount(closed_form=1), scores.astype(np.float32), np.eye(size, dtype=np.float32))
        return Fitted(label, fitted, lambda task, monitor: fitted)

    class Rule:
        digest = "rule"

        def __call__(self, market: str, score: Any, *, users: int | None = None) -> float:
            found: FloatArray = score(np.arange(size))
            return float((found.argmax(axis=1) == np.arange(size)).mean())

    members = (member("one", np.arange(10)), member("rest", np.arange(10, size)))
    task = checkerboard().task(TARGET, SOURCES)
    info = get("blend")
    fitted = info.create({}).fit(task, Run(0, "cpu", Rule(), QuietMonitor(), members))
    assert isinstance(fitted, Blend)
    assert fitted.details["validation"] == 1
    assert (fitted.weight > 0).all()
    with pytest.raises(Cancelled):
        info.create({}).fit(task, Run(0, "cpu", Rule(), QuietMonitor(cancel_after=1), members))


def test_without_validation_rows_members_count_alike() -> None:
    class Silent:
        digest = "silent"

        def __call__(self, market: str, score: Any, *, users: int | None = None) -> float:
            return float("nan")

    one = Factors(ParameterCount(), np.ones((30, 1), np.float32), np.ones((30, 1), np.float32))
    members = tuple(Fitted(name, one, lambda task, monitor: one) for name in "ab")
    task: Task = checkerboard().task(TARGET, SOURCES)
    fitted = get("blend").create({}).fit(task, Run(0, "cpu", Silent(), QuietMonitor(), members))
    np.testing.assert_array_equal(fitted.arrays()["weight"], [0.5, 0.5])
    assert set(fitted.details) >= {"weight 1 a", "weight 2 b"} or set(fitted.details) >= {"weight a", "weight b"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": []}, "names none"),
        ({"method": "ease", "settings": {}}, "does not combine"),
        ({"members": [{"method": "blend"}]}, "combination itself"),
        ({"members": [{"method": "nothing"}]}, "no method 'nothing'"),
        ({"members": [{"method": "ease", "settings": {"x": 1}}]}, "x: there is no such key"),
    ],
)
def test_what_makes_no_sense_is_refused(corpus: Corpus, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        run(job(corpus, **changes), corpus, QuietMonitor())


def test_jobs_without_members_keep_the_fingerprint_that_they_had(corpus: Corpus) -> None:
    spec = job(corpus, method="ease-weighted", members=[])
    body = spec.model_dump(mode="json", exclude={"budget", "members", "revision"}) | {"device": "cpu"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    assert spec.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    assert job(corpus).fingerprint() != job(corpus, members=BOTH[:1]).fingerprint()


def test_a_part_that_scores_all_items_alike_adds_nothing() -> None:
    np.testing.assert_array_equal(standardised(np.full((2, 4), 7.0)), np.zeros((2, 4)))
    flat = Factors(ParameterCount(), np.zeros((2, 1), np.float32), np.ones((4, 1), np.float32))
    steep = Factors(ParameterCount(), np.ones((2, 1), np.float32), np.arange(4, dtype=np.float32)[:, None])
    blend = Blend(ParameterCount(), np.array([0.5, 0.5]), (flat, steep), ("factors", "factors"))
    np.testing.assert_allclose(blend.score(np.arange(2)), 0.5 * standardised(steep.score(np.arange(2))))
    why = explain(blend, Pairs(np.array([0]), np.array([1]), np.array([0])), 0, 2)
    assert why.total == pytest.approx(float(blend.score(np.array([0]))[0, 2]))
