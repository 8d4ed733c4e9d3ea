"""What studies ask: parts taken away, settings varied, sparse and rich markets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts.style import GREY, MARK, SERIES, faint, finish, spread


def ablation(frame: pd.DataFrame, published: pd.DataFrame, y_title: str) -> go.Figure:
    """Grouped bars of each variant minus the full method, with intervals; a paper's differences as open diamonds.

    frame: label, target, difference, low, high, n. published: label, target, value.
    """
    figure = go.Figure()
    labels = list(dict.fromkeys([*frame["label"], *published["label"]]))
    for at, label in enumerate(labels):
        rows, color = frame[frame["label"] == label], SERIES[at % len(SERIES)]
        figure.add_bar(
            x=rows["target"],
            y=rows["difference"],
            name=label,
            marker_color=color,
            error_y=spread(rows.rename(columns={"difference": "mean"})),
            offsetgroup=label,
            legendgroup=label,
            customdata=rows[["low", "high", "n"]],
            hovertemplate="%{x}: %{y:+.4f} (%{customdata[0]:+.4f} to %{customdata[1]:+.4f}, N %{customdata[2]})"
            "<extra>%{fullData.name}</extra>",
        )
        theirs = published[published["label"] == label]
        if len(theirs):
            figure.add_trace(_diamonds(label, theirs, color))
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_layout(barmode="group", scattermode="group", bargap=0.22, yaxis_title=y_title, hovermode="closest")
    figure.update_xaxes(categoryorder="category ascending")
    figure.update_yaxes(tickformat="+.3~f")
    return finish(figure, 430)


def _diamonds(label: str, rows: pd.DataFrame, color: str) -> go.Scatter:
    return go.Scatter(
        x=rows["target"],
        y=rows["value"],
        mode="markers",
        name=f"{label} (paper)",
        marker={"symbol": "diamond-open", "size": 9, "color": color, "line": {"width": 2}},
        offsetgroup=label,
        legendgroup=label,
        showlegend=False,
        hovertemplate="%{x}: %{y:+.4f}<extra>%{fullData.name}</extra>",
    )


def sensitivity(
    panels: Sequence[tuple[str, Sequence[str], str | None, pd.DataFrame]], colors: Mapping[str, str], y_title: str
) -> go.Figure:
    """One small multiple per setting: a line per market over the values, with its interval; the default is marked.

    panels: (setting, its values as texts in order, the default among them or None, rows). Rows: value (a text),
    target, mean, low, high, n.
    """
    wide = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    deep = -(-len(panels) // wide)
    figure = make_subplots(
        rows=deep, cols=wide, subplot_titles=[title for title, *_ in panels], horizontal_spacing=0.07,
        vertical_spacing=min(0.16, 0.5 / deep),
    )  # fmt: skip
    seen: set[str] = set()
    for at, (_, values, default, rows) in enumerate(panels):
        place = {"row": at // wide + 1, "col": at % wide + 1}
        for target, line in rows.groupby("target"):
            in_order = line.set_index("value").reindex([v for v in values if v in set(line["value"])]).reset_index()
            figure.add_trace(_line(str(target), in_order, colors[str(target)], shown=target not in seen), **place)
            seen.add(str(target))
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(values), **place)
        if default is not None and default in values:
            figure.add_vline(x=list(values).index(default), line={"dash": "dot", "color": MARK, "width": 2}, **place)
    figure.update_yaxes(title_text=y_title, col=1)
    figure.update_layout(hovermode="closest")
    return finish(figure, 90 + 300 * deep)


def _line(target: str, rows: pd.DataFrame, color: str, *, shown: bool) -> go.Scatter:
    return go.Scatter(
        x=rows["value"],
        y=rows["mean"],
        mode="lines+markers",
        name=target,
        legendgroup=target,
        showlegend=shown,
        line={"color": color, "width": 2},
        marker={"size": 7},
        error_y=(spread(rows) or {}) | {"color": faint(color), "width": 0, "thickness": 3},
        customdata=rows[["n", "low", "high"]],
        hovertemplate="%{x}: %{y:.4f} (%{customdata[1]:.4f} to %{customdata[2]:.4f}, N %{customdata[0]})"
        "<extra>%{fullData.name}</extra>",
    )


def halves(frame: pd.DataFrame, order: Sequence[str], colors: Mapping[str, str], y_title: str) -> go.Figure:
    """Bars per market and method in two panels, `order` says which is left.

    frame: label, target, half, mean, low, high, n, in the order in which methods and markets are to stand.
    """
    shown = [half for half in order if half in set(frame["half"])]
    many = [frame["target"][frame["half"] == half].nunique() for half in shown]
    figure = make_subplots(
        cols=max(len(shown), 1), subplot_titles=shown, shared_yaxes=True, horizontal_spacing=0.03, column_widths=many
    )
    for col, half in enumerate(shown, start=1):
        for label, rows in frame[frame["half"] == half].groupby("label", sort=False):
            bar: dict[str, Any] = {"name": str(label), "legendgroup": str(label), "marker_color": colors[str(label)]}
            figure.add_trace(
                go.Bar(
                    x=rows["target"],
                    y=rows["mean"],
                    error_y=spread(rows),
                    showlegend=col == 1,
                    customdata=rows["n"],
                    hovertemplate="%{x}: %{y:.4f} (N %{customdata})<extra>%{fullData.name}</extra>",
                    **bar,
                ),
                row=1,
                col=col,
            )
    figure.update_layout(barmode="group", bargap=0.22, hovermode="closest")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text=y_title, col=1)
    return finish(figure, 430)
