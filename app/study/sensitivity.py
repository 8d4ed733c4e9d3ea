"""How much a setting matters: the metric over the values of each setting that a study tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from app.study.view import View
from cmr_core.spec import MethodChoice, Scalar


@dataclass(frozen=True)
class Panel:
    """One choice's grid. `runs` are labelled with `said(point)`.

    `default`: what the method has where nobody says otherwise, without what is not known. `base`: the point of the grid
    that others are compared with: the default, and the first value of a setting whose default is not among the values.
    """

    title: str
    names: tuple[str, ...]
    values: dict[str, tuple[Scalar, ...]]
    default: dict[str, Scalar]
    base: dict[str, Scalar]
    runs: pd.DataFrame  # finished
    wanted: pd.DataFrame  # all

    @property
    def moved(self) -> list[str]:
        """Settings whose default is not among their values, or is not known."""
        return [name for name in self.names if self.default.get(name) != self.base[name]]


def panels(view: View) -> list[Panel]:
    """A panel per choice with a grid, in the study's order."""
    return [_panel(view, choice) for choice in view.spec.methods if choice.grid]


def said(point: dict[str, Scalar]) -> str:
    """A point as a label, which `points` reads back through the runs."""
    return ", ".join(f"{name} = {value}" for name, value in point.items())


def words_of(point: Mapping[str, Scalar]) -> str:
    """A point in words: `shrinkage = 10, walk length = 5`."""
    return ", ".join(f"{name.replace('_', ' ')} = {printed(value)}" for name, value in point.items())


def points(cells: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Cells with the value of each setting as columns named like it, besides those of the comparison."""
    known = {said(point): point for point in panel.runs["point"]}
    values = pd.DataFrame([known[label] for label in cells["label"]], index=cells.index, columns=list(panel.names))
    return pd.concat([cells, values], axis=1)


def ordered(values: Sequence[Scalar]) -> list[str]:
    """Values as an axis prints them: numbers ascending, others in the study's order."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [printed(value) for value in (sorted(values, key=float) if numbers else values)]


def printed(value: Scalar) -> str:
    """A value as an axis prints it: `100`, not `100.0`."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _panel(view: View, choice: MethodChoice) -> Panel:
    info = view.known.get(choice.method)
    defaults = {} if info is None else info.configure(choice.settings).model_dump(mode="json")
    default = {name: defaults[name] for name in choice.grid if defaults.get(name) is not None}
    base = {name: _same(default.get(name), values) for name, values in choice.grid.items()}
    finished, wanted = (_named(view.of(choice, runs)) for runs in (view.labelled(), view.wanted()))
    title = choice.label or (choice.method if info is None else info.label)
    return Panel(title, tuple(choice.grid), dict(choice.grid), default, base, finished, wanted)


def _same(value: Scalar | None, values: Sequence[Scalar]) -> Scalar:
    """The one of `values` that equals `value` (100 is 100.0, and True is not 1), else the first."""
    fits = (one for one in values if one == value and isinstance(one, bool) == isinstance(value, bool))
    return next(fits, values[0])


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.assign(label=pd.Series([said(point) for point in runs["point"]], index=runs.index, dtype=object))
