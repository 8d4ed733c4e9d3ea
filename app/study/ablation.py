"""What is lost when a part of a method is taken away, in our runs and as a paper reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from app.study import paper
from app.study.view import View
from cmr_core.published import Published
from cmr_core.spec import MethodChoice
from worker.store import naming

COLUMNS = ["label", "target", "difference", "low", "high", "significant", "p_holm", "n"]


@dataclass(frozen=True)
class Group:
    """A full method and its variants; runs are labelled `full` or with a variant's name."""

    full: str
    variants: tuple[str, ...]
    runs: pd.DataFrame  # finished
    wanted: pd.DataFrame  # all


def groups(view: View) -> list[Group]:
    """Each choice with a grid is a group, and its first point the full method.

    In a study without grids all choices are one group, and the first one is the full method.
    """
    gridded = [choice for choice in view.spec.methods if choice.grid]
    if gridded:
        return [_of_grid(view, choice) for choice in gridded]
    labels = list(dict.fromkeys(view.wanted()["label"]))
    return [Group(labels[0], tuple(labels[1:]), view.labelled(), view.wanted())] if labels else []


def differences(cells: pd.DataFrame, group: Group) -> pd.DataFrame:
    """Variant minus full method in each market, columns COLUMNS; `cells`: of a comparison against `group.full`."""
    mine = cells[cells["label"].isin(group.variants) & cells["reference"].notna()]
    order = pd.Categorical(mine["label"], categories=list(group.variants), ordered=True)
    frame = mine.assign(low=mine["diff_low"], high=mine["diff_high"], label=order)
    ordered = frame.sort_values(["label", "target"], ignore_index=True).astype({"label": object})
    return ordered[COLUMNS]


def published(
    group: Group, source: str, metric: str, targets: Sequence[str], known: Sequence[Published]
) -> pd.DataFrame:
    """The paper's differences for the same variants: label, target, value; empty where it reports none."""
    table = paper.numbers(source, metric, targets, known)
    full = paper.counterpart([group.full], list(table.index))
    found = {label: paper.counterpart([label], list(table.index)) for label in group.variants}
    rows_found = {label: row for label, row in found.items() if row is not None and row != full}
    if full is None or not rows_found:
        return pd.DataFrame(columns=["label", "target", "value"])
    gaps = (table - table.loc[full]).loc[list(rows_found.values())].set_axis(list(rows_found))
    return gaps.rename_axis("label").reset_index().melt("label", var_name="target", value_name="value")


def _of_grid(view: View, choice: MethodChoice) -> Group:
    method = view.known[choice.method].label if choice.method in view.known else choice.method
    full = choice.label or method
    points = [paper.variant(point.point) for point in naming.configurations(choice, view.known)]
    finished, wanted = (_named(view.of(choice, runs), points[0], full) for runs in (view.labelled(), view.wanted()))
    return Group(full, tuple(points[1:]), finished, wanted)


def _named(runs: pd.DataFrame, first: str, full: str) -> pd.DataFrame:
    names = [paper.variant(point) for point in runs["point"]]
    return runs.assign(label=pd.Series([full if n == first else n for n in names], index=runs.index, dtype=object))
