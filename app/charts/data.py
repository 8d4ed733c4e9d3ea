"""What markets are like: shared items, the long tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from app.charts.style import SERIES, finish


def heatmap(matrix: pd.DataFrame, title: str) -> go.Figure:
    """Shares between markets, written into the cells. Rows and columns are markets, values in 0..1."""
    figure = go.Figure(
        go.Heatmap(
            z=matrix.to_numpy(),
            x=list(matrix.columns),
            y=list(matrix.index),
            zmin=0,
            zmax=1,
            colorscale=[[0, "#e8eef6"], [0.5, "#6f9fd0"], [1, "#12457e"]],
            texttemplate="%{z:.0%}",
            colorbar={"tickformat": ".0%", "thickness": 10, "title": {"text": title}},
            hovertemplate="%{y} in %{x}: %{z:.1%}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    return finish(figure, 130 + 38 * len(matrix))


def tail(series: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """The long tail, one line per market through (interactions, share of items with at least so many)."""
    figure = go.Figure()
    for at, (name, points) in enumerate(series.items()):
        x, y = zip(*points, strict=True)
        style = {"color": SERIES[at % len(SERIES)], "width": 2}
        figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line=style)
    figure.update_xaxes(type="log", title_text="interactions, at least", dtick=1)
    figure.update_yaxes(title_text="share of items", tickformat=".0%", rangemode="tozero")
    return finish(figure, 400)
