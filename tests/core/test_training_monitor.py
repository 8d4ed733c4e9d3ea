"""Monitors: sharing, cancelling, and what the recorder keeps across an interruption."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cmr_core.interfaces import Arrays, Progress
from cmr_core.training.monitor import ProgressBarMonitor, QuietMonitor, Recorder, shared_key


def test_keys_differ_with_every_part_and_begin_with_the_stage() -> None:
    key = shared_key("backbone", "a", 1)
    assert key.startswith("backbone-")
    assert key == shared_key("backbone", "a", "1")
    assert len({key, shared_key("backbone", "a1"), shared_key("backbone", 1, "a"), shared_key("teacher", "a", 1)}) == 4


def test_shared_arrays_are_built_once() -> None:
    monitor, built = QuietMonitor(), []

    def build() -> Arrays:
        built.append(1)
        return {"x": np.ones(1)}

    assert monitor.shared("k", build) is monitor.shared("k", build)
    assert len(built) == 1


def test_a_checkpoint_is_a_copy() -> None:
    monitor, array = QuietMonitor(), np.zeros(2)
    monitor.checkpoint("s", {"x": array})
    array[:] = 7
    kept = monitor.restore("s")
    assert kept is not None
    np.testing.assert_array_equal(kept["x"], [0, 0])
    assert monitor.restore("other") is None


def test_the_recorder_keeps_every_point_and_passes_reports_on() -> None:
    inner = QuietMonitor()
    recorder = Recorder(inner)
    recorder.report(Progress("a", 1, 2, {"loss": 0.5, "valid": 0.1}))
    recorder.report(Progress("a", 2, 2, {"loss": 0.25}))
    assert recorder.curves == [("a", 1, "loss", 0.5), ("a", 1, "valid", 0.1), ("a", 2, "loss", 0.25)]
    assert [progress.done for progress in inner.progress] == [1, 2]


def test_the_recorder_times_stages_and_tells_built_from_cached() -> None:
    inner = QuietMonitor()
    inner.store["teacher-x"] = {}
    recorder = Recorder(inner)

    def build() -> Arrays:
        time.sleep(0.02)
        recorder.report(Progress("backbone", 1, 1))
        return {}

    recorder.shared("backbone-x", build)
    recorder.shared("teacher-x", build)
    time.sleep(0.02)
    recorder.report(Progress("prompts", 1, 1))
    stages = recorder.stages
    assert [(stage.name, stage.cached) for stage in stages] == [
        ("backbone", False),
        ("teacher", True),
        ("prompts", False),
    ]
    assert stages[0].seconds >= 0.02
    assert stages[1].seconds < 0.02 <= stages[2].seconds


def test_the_recorder_keeps_what_tells_shared_stages_of_one_name_apart() -> None:
    recorder = Recorder(QuietMonitor())
    first, second = shared_key("backbone", "a"), shared_key("backbone", "b")
    recorder.shared(first, dict)
    recorder.shared(second, dict)  # a later look of the same stage
    recorder.report(Progress("prompts", 1, 1))
    kept = {stage.name: stage.key for stage in recorder.stages}
    assert kept == {"backbone": first.removeprefix("backbone-")[:16], "prompts": None}


def test_curves_survive_an_interruption_with_the_checkpoint() -> None:
    inner = QuietMonitor()
    first = Recorder(inner)
    first.report(Progress("a", 1, 3, {"loss": 0.5}))
    first.checkpoint("a", {"x": np.arange(3)})
    second = Recorder(inner)
    kept = second.restore("a")
    assert kept is not None
    assert list(kept) == ["x"]
    second.report(Progress("a", 2, 3, {"loss": 0.4}))
    assert second.curves == [("a", 1, "loss", 0.5), ("a", 2, "loss", 0.4)]
    assert second.restore("b") is None


def test_a_cancel_is_seen_through_the_recorder() -> None:
    recorder = Recorder(QuietMonitor(cancel_after=1))
    assert not recorder.cancelled()
    recorder.report(Progress("a", 1, 3))
    assert recorder.cancelled()


def test_the_bar_shows_each_stage_with_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBarMonitor() as monitor:
        monitor.report(Progress("backbone", 0, 4))
        monitor.report(Progress("backbone", 4, 4, {"loss": 0.125}))
        monitor.report(Progress("prompts", 1, 2, {"valid": 0.5}))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("backbone", "4/4", "prompts", "1/2"))
