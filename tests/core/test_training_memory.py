"""The peak is the run's own, not that of whatever the process did before."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cmr_core.training import memory
from cmr_core.training.memory import PeakMemory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts a process's peak anew")


def peak(mib: int) -> int:
    counter = PeakMemory("cpu")
    taken = np.ones(mib * 2**17)  # 8 bytes each
    assert taken[-1] == 1
    del taken
    return int(counter.mib()["peak_memory_mib"])


@linux
def test_peak_counts_what_was_given_back_and_begins_anew() -> None:
    before = peak(1)
    large = peak(300)
    assert 290 < large - before < 330
    assert abs(peak(1) - before) < 30


def test_nothing_is_guessed_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    assert PeakMemory("cpu").mib() == {}
