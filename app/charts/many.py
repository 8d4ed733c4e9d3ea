"""Charts for more methods than a legend can hold: a line of the chart per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts.style import faint, finish, short

LINE = 22  # pixels per method


def dots(frame: pd.DataFrame, colors: Mapping[str, str], x_title: str, panels: Sequence[str] = ("",)) -> go.Figure:
    """A line per method (the first on top), a dot per series with its interval where there is one, panels side by side.

    frame: label, series, value, n, and optionally low, high and panel. `colors`: by series, in the legend's order.
    """
    order = list(dict.fromkeys(frame["label"]))
    named = frame if "panel" in frame else frame.assign(panel=panels[0])
    shown = [panel for panel in panels if panel in set(named["panel"])] or list(panels[:1])
    figure = make_subplots(
        cols=len(shown), subplot_titles=[p for p in shown if p] or None, shared_yaxes=True, horizontal_spacing=0.02
    )
    seen: set[str] = set()
    for col, panel in enumerate(shown, start=1):
        for series in colors:
            rows = named[(named["panel"] == panel) & (named["series"] == series)]
            if len(rows):
                figure.add_trace(_series(rows, series, colors[series], shown=series not in seen), row=1, col=col)
                seen.add(series)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=order[::-1], showgrid=True, automargin=True,
        range=[-0.7, len(order) - 0.3], tickfont={"size": 12}, tickvals=order,
        ticktext=[short(label) for label in order],
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, rangemode="tozero", showgrid=True, matches="x")
    figure.update_layout(hovermode="closest")
    figure = finish(figure, 130 + LINE * len(order))
    # below, a legend stands in parts of the height, which grows with the methods: this one stands above
    above = {"yanchor": "bottom", "y": 1 + 24 / (LINE * len(order)), "x": 0}
    return figure.update_layout(legend=above, margin={"t": 80})


def _series(rows: pd.DataFrame, name: str, color: str, *, shown: bool) -> go.Scatter:
    spread = None
    if "low" in rows:
        ends = {"array": rows["high"] - rows["value"], "arrayminus": rows["value"] - rows["low"]}
        spread = {"type": "data", "thickness": 1.5, "width": 0, "color": faint(color), **ends}
    return go.Scatter(
        x=rows["value"],
        y=rows["label"],
        error_x=spread,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=shown,
        marker={"color": color, "size": 8},
        customdata=rows["n"],
        hovertemplate="%{y}: %{x:.4f} (N %{customdata})<extra>%{fullData.name}</extra>",
    )
