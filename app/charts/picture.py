"""Pictures of vectors and of attention. Nothing here computes one: a worker or the model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts.matrix import RISING
from app.charts.style import SERIES, finish
from cmr_core.interfaces import FloatArray

SYMBOLS = ("circle", "diamond", "cross")  # of markets beyond the colours
WRITTEN = 12  # rows up to which a matrix has its values in the cells


def scatter(points: pd.DataFrame, colors: Mapping[str, str]) -> go.Figure:
    """Points of two dimensions, coloured by market. points: market, x, y, name. Axes have no scale: they mean nothing.

    `colors`: every market's, in an order that says which of two markets of one colour gets which symbol.
    """
    figure = go.Figure()
    order = list(colors)
    for market, rows in points.groupby("market"):
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers",
            name=str(market),
            marker={
                "color": colors[str(market)],
                "size": 4,
                "opacity": 0.75,
                "symbol": SYMBOLS[order.index(str(market)) // len(SERIES) % len(SYMBOLS)],
            },
            customdata=rows["name"],
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    plain = {"showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**plain)
    figure.update_yaxes(**plain, scaleanchor="x")
    figure = finish(figure, 400)
    figure.update_layout(legend={"y": -0.03, "itemsizing": "constant"}, margin={"t": 8})
    return figure


def attention(weights: FloatArray, names: Sequence[str]) -> go.Figure:
    """Attention (L, L) of a sequence; a row is divided among the columns. `names`: of the places, which may repeat."""
    places = np.arange(len(names))
    figure = go.Figure(
        go.Heatmap(
            z=weights,
            x=places,
            y=places,
            customdata=[[(row, column) for column in names] for row in names],
            colorscale=[list(step) for step in RISING],
            colorbar={"thickness": 10},
            texttemplate="%{z:.2f}" if len(names) <= WRITTEN else None,
            hovertemplate="%{customdata[0]} takes %{z:.3f} from %{customdata[1]}<extra></extra>",
        )
    )
    size, step = (11, 22) if len(names) <= 30 else (9, 12)
    axis = {"tickvals": places, "ticktext": list(names), "tickfont": {"size": size}, "showgrid": False}
    figure.update_xaxes(**axis, tickangle=-90, title_text="is looked at")
    figure.update_yaxes(**axis, autorange="reversed", title_text="looks")
    return finish(figure, 220 + step * len(names))


def shares(matrix: pd.DataFrame) -> go.Figure:
    """Mean shares of the prompts (columns) in the markets (rows), written into the cells."""
    figure = go.Figure(
        go.Heatmap(
            z=matrix.to_numpy(dtype=float),
            x=list(matrix.columns),
            y=list(matrix.index),
            zmin=0,
            zmax=float(matrix.to_numpy(dtype=float).max()),  # plotly takes no notice of one end alone
            colorscale=[list(step) for step in RISING],
            colorbar={"thickness": 10, "tickformat": ".0%"},
            texttemplate="%{z:.1%}" if matrix.shape[1] <= 2 * WRITTEN else None,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="%{y}, %{x}: %{z:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return finish(figure, 130 + 36 * len(matrix))


def weights(points: pd.DataFrame, colors: Mapping[str, str]) -> go.Figure:
    """Weights of source markets over training, a line each; dotted: all alike. points: step, source, value."""
    figure = go.Figure()
    for source, line in points.groupby("source"):
        figure.add_scatter(
            x=line["step"],
            y=line["value"],
            name=str(source),
            mode="lines+markers" if len(line) < 40 else "lines",
            line={"color": colors[str(source)], "width": 2},
            marker={"size": 5},
            hovertemplate="%{y:.4f} in epoch %{x}<extra>%{fullData.name}</extra>",
        )
    figure.add_hline(y=1 / max(points["source"].nunique(), 1), line={"dash": "dot", "width": 1, "color": "#7f868e"})
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="weight")
    figure.update_layout(hovermode="closest")
    return finish(figure, 380)
