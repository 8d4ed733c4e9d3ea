"""Quality of methods: by market, by group, by richness, user by user."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from app.charts.style import GREY, SERIES, finish, short, spread


def bars(cells: pd.DataFrame, dots: pd.DataFrame, colors: Mapping[str, str], title: str) -> go.Figure:
    """Grouped bars of means, with intervals where `cells` has them, and one dot per seed.

    cells: label, target, mean, n, and low, high. dots: label, target, seed, value.
    """
    figure = go.Figure()
    for label, rows in cells.groupby("label", sort=False):
        figure.add_bar(
            x=rows["target"],
            y=rows["mean"],
            name=str(label),
            marker_color=colors[str(label)],
            error_y=spread(rows),
            offsetgroup=str(label),
            legendgroup=str(label),
            customdata=rows["n"],
            hovertemplate="%{x}: %{y:.4f} (N %{customdata})<extra>%{fullData.name}</extra>",
        )
    for label, rows in dots.groupby("label", sort=False):
        if rows["seed"].nunique() > 1:
            figure.add_trace(_seed_dots(str(label), rows, colors[str(label)]))
    figure.update_layout(barmode="group", scattermode="group", bargap=0.22, yaxis_title=title, hovermode="closest")
    figure.update_xaxes(categoryorder="category ascending")
    figure.update_yaxes(rangemode="tozero")
    return finish(figure, 430)


def add_published(figure: go.Figure, published: pd.DataFrame) -> go.Figure:
    """Numbers of papers over the bars, as open diamonds. published: label, target, value, protocol."""
    for at, (label, rows) in enumerate(published.groupby("label", sort=False)):
        figure.add_scatter(
            x=rows["target"],
            y=rows["value"],
            mode="markers",
            name=str(label),
            marker={"symbol": "diamond-open", "size": 10, "color": SERIES[at % len(SERIES)], "line": {"width": 2}},
            customdata=rows["protocol"],
            hovertemplate="%{x}: %{y:.4f}<br>%{customdata}<extra>%{fullData.name}</extra>",
        )
    return figure


def richness(frame: pd.DataFrame, colors: Mapping[str, str], x_title: str, y_title: str) -> go.Figure:
    """Gain over the reference in the markets, poorest first. frame: label, target, x, y, low, high, n."""
    figure = go.Figure()
    for label, rows in frame.sort_values("x").groupby("label", sort=False):
        figure.add_scatter(
            x=rows["target"],
            y=rows["y"],
            name=str(label),
            mode="lines+markers",
            line={"color": colors[str(label)], "width": 1.5},
            marker={"size": 8},
            customdata=rows[["target", "low", "high", "n"]],
            hovertemplate="%{customdata[0]}: %{y:+.4f} (%{customdata[1]:+.4f} to %{customdata[2]:+.4f}, "
            "N %{customdata[3]})<extra>%{fullData.name}</extra>",
        )
    figure.add_hline(y=0, line={"dash": "dot", "color": GREY})
    # equally spaced, because some markets are almost equally rich
    markets = frame.drop_duplicates("target").sort_values("x")
    names = [
        f"{target}<br>{x:.3g}" if x < 1 else f"{target}<br>{x:,.0f}" for target, x in markets[["target", "x"]].values
    ]
    order = list(markets["target"])
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=order, tickvals=order, ticktext=names, title_text=x_title
    )
    figure.update_yaxes(title_text=y_title, tickformat="+.3f")
    return finish(figure, 470)


def groups(frame: pd.DataFrame, colors: Mapping[str, str], title: str) -> go.Figure:
    """Bars per group of items or users. frame: label, group, value, n."""
    figure = go.Figure()
    for label, rows in frame.groupby("label", sort=False):
        figure.add_bar(
            x=rows["group"],
            y=rows["value"],
            name=str(label),
            marker_color=colors[str(label)],
            customdata=rows["n"],
            hovertemplate="%{x}: %{y:.4f} (N %{customdata})<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, yaxis_title=title)
    return finish(figure, 380)


def outcomes(frame: pd.DataFrame) -> go.Figure:
    """Shares of users for whom a method wins, ties or loses. frame: label, win, tie, loss (counts)."""
    total = (frame["win"] + frame["tie"] + frame["loss"]).clip(lower=1)
    figure = go.Figure()
    for name, color in (("win", "#3f9c6b"), ("tie", "#b9c0c8"), ("loss", "#c9565c")):
        figure.add_bar(
            y=frame["label"],
            x=frame[name] / total,
            name=name,
            orientation="h",
            marker_color=color,
            customdata=frame[name],
            hovertemplate="%{y}: %{customdata} users (%{x:.0%})<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    labels = list(frame["label"])
    figure.update_yaxes(autorange="reversed", tickvals=labels, ticktext=[short(label) for label in labels])
    return finish(figure, 110 + 34 * len(frame))


def _seed_dots(label: str, rows: pd.DataFrame, color: str) -> go.Scatter:
    return go.Scatter(
        x=rows["target"],
        y=rows["value"],
        mode="markers",
        name=f"{label}, single seeds",
        marker={"size": 5, "color": "white", "line": {"color": color, "width": 1.5}},
        offsetgroup=label,
        legendgroup=label,
        showlegend=False,
        customdata=rows["seed"],
        hovertemplate="%{x}, seed %{customdata}: %{y:.4f}<extra></extra>",
    )
