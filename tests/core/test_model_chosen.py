"""Best on validation: which member it is, what it says of the others, and that it is stored as what it chose."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cmr_core.data.market import Corpus
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import Cancelled, SpecError
from cmr_core.experiment import member_jobs, run
from cmr_core.interfaces import Fitted, Recommender, Run
from cmr_core.models.base import Factors, ParameterCount, rebuild, shape_of
from cmr_core.models.registry import get
from cmr_core.spec import JobSpec, parse
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SOURCES, TARGET, checkerboard

TASK = checkerboard().task(TARGET, SOURCES)
THREE = [
    {"method": "popularity"},
    {"method": "ease", "settings": {"regularisation": 1.0, "tune": False}},
    {"method": "ease", "settings": {"regularisation": 50.0, "tune": False}},
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic(seed=3, scale=0.03)


def job(corpus: Corpus, **changes: Any) -> JobSpec:
    body = {"corpus": corpus.digest, "target": "jp", "sources": ["de"], "method": "best-of", "members": THREE}
    return parse(JobSpec, body | changes)


def test_it_is_the_member_that_is_best_in_validation(corpus: Corpus) -> None:
    outcome = run(job(corpus), corpus, QuietMonitor())
    alone = [run(one, corpus, QuietMonitor()) for one in member_jobs(job(corpus))]
    values = [one.valid.means()["ndcg@10"] for one in alone]
    assert len(set(values)) == 3
    best = alone[int(np.argmax(values))]
    assert outcome.valid.means() == best.valid.means()
    assert outcome.test.means() == best.test.means()
    for name, array in best.recommender.arrays().items():
        np.testing.assert_array_equal(outcome.recommender.arrays()[name], array)
    names = ["Popularity", "EASE (regularisation=1.0, tune=False)", "EASE (regularisation=50.0, tune=False)"]
    details = outcome.recommender.details
    assert details["chosen"] == names[int(np.argmax(values))]
    assert [details[f"validation of {name}"] for name in names] == pytest.approx(values)
    assert set(best.recommender.details) <= set(details)
    again = rebuild(
        shape_of(outcome.recommender), outcome.recommender.arrays(), outcome.recommender.parameters, dict(details)
    )
    np.testing.assert_array_equal(again.score(np.arange(4)), outcome.recommender.score(np.arange(4)))


def members(*values: float) -> tuple[tuple[Fitted, ...], Callable[..., float]]:
    """Members that score everything as their number, and a judge that gives the number's value."""

    def member(at: int) -> Fitted:
        fitted = Factors(ParameterCount(), np.full((30, 1), float(at), np.float32), np.ones((30, 1), np.float32))
        return Fitted("same", fitted, lambda task, monitor: fitted)

    class Rule:
        digest = "rule"

        def __call__(self, market: str, score: Any, *, users: int | None = None) -> float:
            assert market == TARGET
            assert users is None
            return values[int(score(np.arange(1))[0, 0])]

    return tuple(map(member, range(len(values)))), Rule()


@pytest.mark.parametrize(
    ("values", "best"),
    [((0.1, 0.3, 0.2), 1), ((0.2, 0.2), 0), ((math.nan, math.nan), 0), ((math.nan, 0.1, math.nan), 1)],
)
def test_the_first_of_equals_and_the_first_where_nothing_is_known(values: tuple[float, ...], best: int) -> None:
    found, judge = members(*values)
    chosen = get("best-of").create({}).fit(TASK, Run(0, "cpu", judge, QuietMonitor(), found))  # type: ignore[arg-type]
    assert chosen.score(np.arange(1))[0, 0] == best
    assert chosen.details["chosen"] == f"{best + 1} same"


def test_it_can_be_stopped_and_needs_something_to_choose_from(corpus: Corpus) -> None:
    found, judge = members(0.1, 0.2, 0.3)
    monitor = QuietMonitor(cancel_after=2)
    with pytest.raises(Cancelled):
        get("best-of").create({}).fit(TASK, Run(0, "cpu", judge, monitor, found))  # type: ignore[arg-type]
    assert [report.done for report in monitor.progress] == [0, 1]
    with pytest.raises(SpecError, match="nothing to choose from"):
        get("best-of").create({}).fit(TASK, Run(0, "cpu", judge, QuietMonitor()))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="names none"):
        run(job(corpus, members=[]), corpus, QuietMonitor())


def test_a_costly_member_is_asked_for_lists_only(corpus: Corpus) -> None:
    small = {"dimensions": 8, "layers": 1, "heads": 2, "epochs": 1, "finetune_epochs": 1}
    both = [{"method": "popularity"}, {"method": "acmr", "settings": small}]
    sampled = {"candidates": "sampled-market", "negatives": 20}
    outcome = run(job(corpus, members=both, evaluation=sampled), corpus, QuietMonitor())
    recommender: Recommender = outcome.recommender
    assert outcome.valid.means()["ndcg@10"] == pytest.approx(recommender.details["validation"])
