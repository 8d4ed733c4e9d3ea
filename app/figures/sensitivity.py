"""How much each setting matters (DCMPT paper, figure 5)."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, frame
from app.figures import shared
from app.study import sensitivity
from app.study.sensitivity import Panel
from app.study.view import View
from cmr_core.spec import Scalar
from worker.store.session import Store

SHOWN = {"level": "Level", "change": "Change against the default"}
Line = tuple[str, list[str], str | None, pd.DataFrame]


def draw(view: View, store: Store) -> None:
    """Small multiples of the settings that vary alone; heat maps of those that vary together."""
    panels = sensitivity.panels(view)
    if not panels:
        shared.nothing(view, view.wanted().iloc[:0], "No method of this study has several values of a setting.")
        return
    alone = [panel for panel in panels if len(panel.names) == 1]
    if alone:
        _lines(view, alone)
    for at, panel in enumerate(panel for panel in panels if len(panel.names) > 1):
        _crossed(view, panel, f"crossed-{at}")


def _lines(view: View, panels: list[Panel]) -> None:
    how = frame.choose(
        "What the lines show", list(SHOWN), "sensitivity", text=SHOWN.__getitem__, control=st.segmented_control,
        required=True, label_visibility="collapsed",
    )  # fmt: skip
    wanted = pd.concat([panel.wanted for panel in panels]).drop_duplicates("run_id")
    lines = [_line(view, panel, how) for panel in panels if len(panel.runs)]
    if not any(len(rows) for *_, rows in lines):
        if lines:
            base = "; ".join(_words(panel.base) for panel in panels)
            shared.nothing(view, wanted, f"The runs that the others are compared with have not finished: {base}.")
        else:
            shared.nothing(view, wanted)
        return
    axis = view.title if how == "level" else f"{view.title}, change"
    figure = charts.sensitivity(lines, charts.series_colors(view.markets), axis)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-sensitivity"), key="sensitivity-chart")
    shared.partial(wanted)
    finished = pd.concat([panel.runs for panel in panels]).drop_duplicates("run_id")
    what = "95 % bootstrap interval over users" if how == "level" else "difference to the default on the same users"
    notes = "".join(_moved(panel, how) for panel in panels)
    shared.caption(view, finished, f". A line per market, with its {what}. Dotted: the method's default.{notes}")


def _moved(panel: Panel, how: str) -> str:
    """What to say where the default is not among the values."""
    if not panel.moved:
        return ""
    known = {name: panel.default[name] for name in panel.moved if name in panel.default}
    said = f"the default {_words(known)} is not among the values" if known else "the default is not known"
    said += f", and the change is against {_words(panel.base)}" if how == "change" else ""
    return f" {frame.literal(panel.title)}: {said}."


def _words(point: dict[str, Scalar]) -> str:
    return frame.literal(sensitivity.words_of(point))


def _line(view: View, panel: Panel, how: str) -> Line:
    (name,) = panel.names
    against = sensitivity.said(panel.base)
    found = cached.compare(panel.runs, view.metric, against).cells
    rows = sensitivity.points(found, panel).assign(value=lambda frame: frame[name].map(sensitivity.printed))
    if how == "change":
        base = rows["label"] == against
        changed = rows.assign(mean=rows["difference"], low=rows["diff_low"], high=rows["diff_high"])
        changed.loc[base, ["mean", "low", "high"]] = 0.0
        rows = changed.dropna(subset=["mean"])
    title = f"{panel.title}: {name.replace('_', ' ')}"
    standard = None if name not in panel.default else sensitivity.printed(panel.default[name])
    return title, sensitivity.ordered(panel.values[name]), standard, rows


def _crossed(view: View, panel: Panel, key: str) -> None:
    first, second, *rest = panel.names
    st.markdown(f"**{frame.literal(panel.title)}: {first.replace('_', ' ')} and {second.replace('_', ' ')}**")
    fixed = {name: panel.base[name] for name in rest}
    runs, wanted = (
        some.loc[[all(point[name] == value for name, value in fixed.items()) for point in some["point"]]]
        for some in (panel.runs, panel.wanted)
    )
    if runs.empty:
        shared.nothing(view, wanted)
        return
    cells = sensitivity.points(cached.compare(runs, view.metric, sensitivity.said(panel.base)).cells, panel)
    texts = cells.assign(x=cells[first].map(sensitivity.printed), y=cells[second].map(sensitivity.printed))
    rows, columns = sensitivity.ordered(panel.values[second]), sensitivity.ordered(panel.values[first])
    matrices = {
        str(target): part.pivot(index="y", columns="x", values="mean").reindex(index=rows, columns=columns)
        for target, part in texts.groupby("target")
    }
    figure = charts.crossed(matrices, first.replace("_", " "), second.replace("_", " "))
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-{key}"), key=key)
    shared.partial(wanted)
    said = f" At {_words(fixed)}." if fixed else ""
    said += f" The method's default: {_words(panel.default)}." if panel.default else ""
    shared.caption(view, runs, f".{said}{_moved(panel, 'level')}")
