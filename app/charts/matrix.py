"""Matrices with their values in the cells: effects of sources on targets, two settings crossed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts.style import finish

DIVERGING = ((0.0, "#a63d3d"), (0.25, "#dc9a8f"), (0.5, "#f1f2f4"), (0.75, "#8db4d9"), (1.0, "#1f5fa8"))
RISING = ((0.0, "#e8eef6"), (0.5, "#6f9fd0"), (1.0, "#12457e"))


def effects(values: pd.DataFrame, texts: pd.DataFrame, y_title: str, x_title: str) -> go.Figure:
    """Differences, colours centred at 0: blue gains, red loses. Rows sources, columns targets, texts in the cells.

    An empty cell is one that does not exist, or whose runs have not finished.
    """
    largest = float(np.nanmax(np.abs(values.to_numpy(dtype=float)))) if values.notna().any(axis=None) else 0.0
    limit = largest or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values.to_numpy(dtype=float),
            x=list(values.columns),
            y=list(values.index),
            text=texts.to_numpy(),
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=-limit,
            zmax=limit,
            colorscale=[list(step) for step in DIVERGING],
            showscale=False,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="%{y} for %{x}: %{z:+.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=x_title, side="top", type="category", showgrid=False)
    figure.update_yaxes(title_text=y_title, autorange="reversed", type="category", showgrid=False)
    figure = finish(figure, 130 + 40 * len(values))
    return figure.update_layout(margin={"t": 60})


def crossed(matrices: Mapping[str, pd.DataFrame], x_title: str, y_title: str) -> go.Figure:
    """Two settings crossed, a heat map per market with its own colours, because levels differ between markets.

    matrices: market -> values (rows and columns: the settings' values as texts).
    """
    wide = min(len(matrices), 3)
    deep = -(-len(matrices) // max(wide, 1))
    figure = make_subplots(
        rows=max(deep, 1), cols=max(wide, 1), subplot_titles=list(matrices), horizontal_spacing=0.08,
        vertical_spacing=min(0.2, 0.5 / max(deep, 1)),
    )  # fmt: skip
    for at, matrix in enumerate(matrices.values()):
        place = {"row": at // wide + 1, "col": at % wide + 1}
        figure.add_trace(
            go.Heatmap(
                z=matrix.to_numpy(dtype=float),
                x=list(matrix.columns),
                y=list(matrix.index),
                texttemplate="%{z:.4f}",
                colorscale=[list(step) for step in RISING],
                showscale=False,
                xgap=2,
                ygap=2,
                hoverongaps=False,
                hovertemplate=f"{y_title} %{{y}}, {x_title} %{{x}}: %{{z:.4f}}<extra></extra>",
            ),
            **place,
        )
        figure.update_xaxes(title_text=x_title, type="category", showgrid=False, **place)
        figure.update_yaxes(type="category", showgrid=False, **place)
    figure.update_yaxes(title_text=y_title, col=1)
    return finish(figure, 100 + 290 * max(deep, 1))
