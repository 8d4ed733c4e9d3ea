"""Which runs of a study got all the sources that it names."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cmr_core.spec import StudySpec


def with_all_sources(spec: StudySpec, runs: pd.DataFrame, markets: Sequence[str]) -> pd.DataFrame:
    """The runs that got all sources that the study names, or need none; all runs of a study without such ones."""
    if "all" not in spec.source_sets:
        return runs
    pairs = zip(runs["sources"], runs["target"], strict=True)
    return runs[[not sources or set(sources) == full_set(spec, markets, target) for sources, target in pairs]]


def full_set(spec: StudySpec, markets: Sequence[str], target: str) -> set[str]:
    """All sources that the study names for a target."""
    return set(markets if spec.sources is None else spec.sources) - {target}
