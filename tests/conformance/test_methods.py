"""Promises that every registered method keeps. A new method is held to them by being registered."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from cmr_core.errors import Cancelled, SpecError
from cmr_core.explain.why import explain
from cmr_core.interfaces import Recommender
from cmr_core.models.base import Factors, rebuild, shape_of
from cmr_core.models.blended import Boosted
from cmr_core.models.neural import NeuralScorer
from cmr_core.models.registry import MethodInfo, load
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import SIZE, SOURCES, TARGET, Fits, Rising, checkerboard, fit, shifted, small

METHODS = list(load().values())
EVERYBODY = np.arange(SIZE)
PERSONAL = [info for info in METHODS if info.family != "reference"]
ALONE = [info for info in METHODS if not info.uses_sources]
every_method = pytest.mark.parametrize("info", METHODS, ids=lambda info: info.name)


def assert_same(one: Recommender, other: Recommender) -> None:
    left, right = one.arrays(), other.arrays()
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("info", PERSONAL, ids=lambda info: info.name)
def test_finds_the_only_right_answer(info: MethodInfo, fits: Fits) -> None:
    """For user i that is item i. Methods of family `reference` treat all users alike and cannot know."""
    scores = fit(info, fits.split, epochs=40).score(EVERYBODY).copy()
    market = fits.split.markets[TARGET]
    for part in (market.train, market.valid):
        scores[part.user, part.item] = -np.inf
    assert (scores.argmax(axis=1) == EVERYBODY).mean() > 0.95


@every_method
def test_same_seed_same_arrays(info: MethodInfo, fits: Fits) -> None:
    assert_same(fit(info, fits.split), fits.get(info)[0])


@every_method
def test_the_seed_matters_exactly_where_the_method_says_so(info: MethodInfo, fits: Fits) -> None:
    one, other = fits.get(info)[0].arrays(), fits.get(info, seed=1)[0].arrays()
    same = all(np.array_equal(value, other[name]) for name, value in one.items())
    assert same == info.deterministic


@every_method
def test_saved_and_loaded_scores_equal(info: MethodInfo, fits: Fits) -> None:
    fitted = fits.get(info)[0]
    stored = to_bytes({name: np.ascontiguousarray(value) for name, value in fitted.arrays().items()})
    again = rebuild(shape_of(fitted), from_bytes(stored), fitted.parameters, fitted.details)
    np.testing.assert_array_equal(again.score(EVERYBODY), fitted.score(EVERYBODY))


@every_method
def test_scores_are_finite_and_shaped(info: MethodInfo, fits: Fits) -> None:
    fitted = fits.get(info)[0]
    scores = fitted.score(EVERYBODY)
    assert scores.shape == (SIZE, SIZE)
    assert np.isfinite(scores).all()
    assert fitted.score(np.array([], dtype=np.int64)).shape == (0, SIZE)
    chosen = np.array([7, 3, 7])
    np.testing.assert_allclose(fitted.score(chosen), scores[chosen], rtol=1e-5, atol=1e-6)


@every_method
def test_stops_within_one_report_of_a_cancel(info: MethodInfo, fits: Fits) -> None:
    reports = len(fits.get(info)[1].progress)
    for after in sorted({0, min(1, reports - 1), min(3, reports - 1), reports // 2}):
        monitor = QuietMonitor(cancel_after=after)
        with pytest.raises(Cancelled):
            fit(info, fits.split, monitor=monitor)
        assert len(monitor.progress) <= after + 1


@every_method
def test_a_stopped_run_goes_on_to_the_same_arrays(info: MethodInfo, fits: Fits) -> None:
    """On the monitor that it was stopped on. Methods that keep nothing begin anew, and end alike too."""
    whole, watched = fits.get(info)
    monitor = QuietMonitor(cancel_after=len(watched.progress) // 2)
    with pytest.raises(Cancelled):
        fit(info, fits.split, monitor=monitor)
    kept = bool(monitor.checkpoints or monitor.store)
    stopped_at, monitor.cancel_after = len(monitor.progress), None
    assert_same(fit(info, fits.split, monitor=monitor), whole)
    if kept:
        assert len(monitor.progress) - stopped_at < len(watched.progress), "what was kept is not done again"


@every_method
def test_progress_goes_forward(info: MethodInfo, fits: Fits) -> None:
    reports = fits.get(info)[1].progress
    assert reports, "a method says at least once how far it is"
    for stage in {report.stage for report in reports}:
        done = [report.done for report in reports if report.stage == stage]
        assert done == sorted(set(done)), stage
        assert {report.total for report in reports if report.stage == stage} == {reports_total(reports, stage)}
        assert max(done) <= reports_total(reports, stage)
    assert all(np.isfinite(value) for report in reports for value in report.metrics.values())


def reports_total(reports: list[Any], stage: str) -> int:
    return next(report.total for report in reports if report.stage == stage)


@every_method
def test_an_unknown_setting_is_refused_by_name(info: MethodInfo) -> None:
    with pytest.raises(SpecError, match="no_such_setting"):
        info.create({"no_such_setting": 1})


@every_method
def test_what_was_published_can_be_asked_for_and_is_not_the_default(info: MethodInfo) -> None:
    configured = info.configure(info.published).model_dump(mode="json")
    defaults = info.config().model_dump(mode="json")
    assert {name for name in configured if configured[name] != defaults[name]} == set(info.published)


@every_method
def test_the_test_part_never_matters(info: MethodInfo, fits: Fits) -> None:
    assert_same(fit(info, shifted(fits.split, "test")), fits.get(info)[0])


@every_method
def test_held_out_rows_reach_training_only_through_the_judge(info: MethodInfo) -> None:
    """Those of the sources neither. The judge prefers what was trained longest: untrained arrays would show nothing."""
    split = checkerboard()
    one = fit(info, split, judge=Rising())
    assert_same(fit(info, shifted(split, "valid", "test"), judge=Rising()), one)
    assert all(float(value) > 0 for name, value in one.details.items() if name.endswith("best epoch"))


@every_method
def test_parameters_add_up_and_do_not_depend_on_the_seed(info: MethodInfo, fits: Fits) -> None:
    parameters = fits.get(info)[0].parameters
    parts = (parameters.trainable, parameters.frozen, parameters.closed_form)
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert parameters.total == sum(parts)
    assert parameters == fits.get(info, seed=1)[0].parameters
    if info.family != "reference":
        assert parameters.total > 0
    if info.deterministic:
        assert parameters.trainable == 0


@every_method
def test_reasons_add_up_to_the_score(info: MethodInfo, fits: Fits) -> None:
    fitted = fits.get(info)[0]
    train = fits.split.markets[TARGET].train
    scores = fitted.score(EVERYBODY)
    for user, item in ((0, 0), (3, 4), (SIZE - 1, 1)):
        why = explain(fitted, train, user, item)
        assert why.total == pytest.approx(scores[user, item], rel=1e-4, abs=1e-5)
        assert why.total == pytest.approx(sum(part.value for part in why.parts))
        # a user's vector that a network makes of a history cannot be divided among the history's items
        mixed = isinstance(fitted, NeuralScorer | Boosted) or (isinstance(fitted, Factors) and fitted.user_base is None)
        assert why.exact or mixed


@pytest.mark.parametrize("info", ALONE, ids=lambda info: info.name)
def test_sources_change_nothing_where_the_method_says_so(info: MethodInfo, fits: Fits) -> None:
    assert_same(fit(info, fits.split, sources=()), fits.get(info)[0])


@every_method
def test_is_described_for_analysts(info: MethodInfo) -> None:
    assert 20 <= len(info.summary) <= 160
    assert info.summary.endswith(".")
    assert re.fullmatch(r"#[0-9a-f]{6}", info.color)
    info.config()
    for name, schema in info.config.model_json_schema().get("properties", {}).items():
        assert schema.get("description"), name
        assert "default" in schema, name


def test_labels_and_colours_are_different() -> None:
    for values in ([info.label for info in METHODS], [info.color for info in METHODS]):
        assert len(set(values)) == len(values)


def test_small_settings_are_found_and_valid() -> None:
    for info in METHODS:
        info.configure(small(info))


def test_the_checkerboard_has_one_right_answer() -> None:
    split = checkerboard()
    market = split.markets[TARGET]
    for user in range(SIZE):
        had = {*market.train.item[market.train.user == user], *market.valid.item[market.valid.user == user]}
        assert {item for item in range(SIZE) if item % 2 == user % 2} - had == {user}
    assert set(SOURCES) < set(split.markets)
    for market in split.markets.values():
        parts = (market.train, market.valid, market.test)
        pairs = np.concatenate([np.stack([part.user, part.item]) for part in parts], axis=1)
        assert all(len(part) for part in parts)
        assert len(np.unique(pairs, axis=1).T) == len(pairs.T), "no pair is in two parts"
