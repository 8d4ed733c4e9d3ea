"""How much each setting matters (DCMPT paper, figure 5)."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, frame
from app.figures import shared
from app.study import sensitivity
from app.study.sensitivity import Panel
from app.study.view import View
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
        shared.nothing(view, wanted)
        return
    axis = view.title if how == "level" else f"{view.title}, change"
    figure = charts.sensitivity(lines, charts.series_colors(view.targets), axis)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-sensitivity"), key="sensitivity-chart")
    shared.partial(wanted)
    finished = pd.concat([panel.runs for panel in panels]).drop_duplicates("run_id")
    what = "95 % bootstrap interval over users" if how == "level" else "difference to the default on the same users"
    shared.caption(view, finished, f". A line per market, with its {what}. Dotted: the method's default.")


def _line(view: View, panel: Panel, how: str) -> Line:
    (name,) = panel.names
    default = sensitivity.said(panel.default)
    found = cached.compare(panel.runs, view.metric, default).cells
    rows = sensitivity.points(found, panel).assign(value=lambda frame: frame[name].map(sensitivity.printed))
    if how == "change":
        base = rows["label"] == default
        changed = rows.assign(mean=rows["difference"], low=rows["diff_low"], high=rows["diff_high"])
        changed.loc[base, ["mean", "low", "high"]] = 0.0
        rows = changed.dropna(subset=["mean"])
    title = f"{panel.title}: {name.replace('_', ' ')}"
    standard = None if name not in panel.default else sensitivity.printed(panel.default[name])
    return title, sensitivity.ordered(panel.values[name]), standard, rows


def _crossed(view: View, panel: Panel, key: str) -> None:
    first, second, *rest = panel.names
    st.markdown(f"**{frame.literal(panel.title)}: {first.replace('_', ' ')} and {second.replace('_', ' ')}**")
    fixed = {name: panel.default.get(name, panel.values[name][0]) for name in rest}
    keep = [all(point[name] == value for name, value in fixed.items()) for point in panel.runs["point"]]
    runs = panel.runs[keep]
    if runs.empty:
        shared.nothing(view, panel.wanted)
        return
    cells = sensitivity.points(cached.compare(runs, view.metric, sensitivity.said(panel.default)).cells, panel)
    texts = cells.assign(x=cells[first].map(sensitivity.printed), y=cells[second].map(sensitivity.printed))
    rows, columns = sensitivity.ordered(panel.values[second]), sensitivity.ordered(panel.values[first])
    matrices = {
        str(target): part.pivot(index="y", columns="x", values="mean").reindex(index=rows, columns=columns)
        for target, part in texts.groupby("target")
    }
    figure = charts.crossed(matrices, first.replace("_", " "), second.replace("_", " "))
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-{key}"), key=key)
    shared.partial(panel.wanted)
    said = ", ".join(f"{name.replace('_', ' ')} = {sensitivity.printed(value)}" for name, value in fixed.items())
    standard = ", ".join(
        f"{name.replace('_', ' ')} = {sensitivity.printed(value)}" for name, value in panel.default.items()
    )
    shared.caption(view, runs, f". {f'At {said}. ' if said else ''}The method's default: {standard}.")
