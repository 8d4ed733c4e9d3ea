"""Quality against what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts.style import GREY, finish

OURS = "circle"  # the symbol of our own runs


def tradeoff(frame: pd.DataFrame, colors: Mapping[str, str], x_title: str, y_title: str) -> go.Figure:
    """Quality against cost on a logarithmic axis, with the efficient frontier of what was measured here.

    frame: label, x, y, low, high, text, symbol: OURS, or another one for papers' numbers, whose protocols differ.
    """
    figure = go.Figure()
    best = frontier(frame[frame["symbol"] == OURS])
    figure.add_scatter(
        x=best["x"], y=best["y"], mode="lines", name="best for its cost", line={"dash": "dot", "color": GREY}
    )
    for row in frame.to_dict("records"):
        label, y = str(row["label"]), float(row["y"])
        figure.add_scatter(
            x=[row["x"]],
            y=[y],
            name=label,
            mode="markers",
            marker={"size": 14, "color": colors.get(label, GREY), "symbol": row["symbol"]},
            error_y=None if np.isnan(row["low"]) else _interval(y, float(row["low"]), float(row["high"])),
            hovertemplate=f"{y_title} %{{y:.4f}}<br>{x_title}: {row['text']}<extra>%{{fullData.name}}</extra>",
        )
    wide = len(frame) > 0 and frame["x"].max() > 20 * frame["x"].min()
    figure.update_xaxes(type="log", title_text=x_title, dtick=1 if wide else "D2", tickformat="~s")
    figure.update_yaxes(title_text=y_title)
    return finish(figure, 470)


def _interval(y: float, low: float, high: float) -> dict[str, Any]:
    return {"type": "data", "array": [high - y], "arrayminus": [y - low], "thickness": 1.2}


def frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both cost `x` (lower is better) and quality `y`, by cost."""
    ordered = frame.sort_values(["x", "y"], ascending=[True, False])
    return ordered[ordered["y"] > ordered["y"].cummax().shift(fill_value=-np.inf)]
