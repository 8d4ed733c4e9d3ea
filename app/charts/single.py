"""One run: its training curves, and why it recommends an item."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts.style import MARK, SERIES, finish

LOSSES = ("loss", "bpr", "wrd", "amrdd", "l2")


def curves(points: pd.DataFrame) -> go.Figure:
    """Training curves in panels by what they measure; the best validation value of each stage is starred."""
    kinds = points["name"].map(_panel)
    panels = [title for title in ("Loss", "Validation", "Source weights", "Diagnostics") if title in set(kinds)]
    figure = make_subplots(cols=len(panels), subplot_titles=panels, horizontal_spacing=0.06)
    for column, title in enumerate(panels, start=1):
        for at, ((stage, name), line) in enumerate(points[kinds == title].groupby(["stage", "name"], sort=False)):
            label = f"{stage}: {str(name).removeprefix('weight:')}"
            style = {"color": SERIES[at % len(SERIES)], "width": 2}
            figure.add_scatter(x=line["step"], y=line["value"], name=label, line=style, mode="lines", col=column, row=1)
            if title == "Validation":
                figure.add_trace(_best(line, label), col=column, row=1)
    figure.update_xaxes(title_text="epoch")
    return finish(figure, 340)


def contributions(names: Sequence[str], values: Sequence[float]) -> go.Figure:
    """What each part adds to a score, largest first."""
    colors = ["#3b78b5" if value >= 0 else "#c9565c" for value in values]
    figure = go.Figure(go.Bar(x=list(values), y=list(names), orientation="h", marker_color=colors))
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text="part of the score")
    return finish(figure, 140 + 26 * len(names))


def _panel(name: str) -> str:
    if "loss" in name or name in LOSSES:
        return "Loss"
    if name.startswith("weight:"):
        return "Source weights"
    return "Validation" if name.startswith("valid") else "Diagnostics"


def _best(line: pd.DataFrame, label: str) -> go.Scatter:
    at = line["value"].argmax()
    return go.Scatter(
        x=[line["step"].iloc[at]],
        y=[line["value"].iloc[at]],
        mode="markers",
        showlegend=False,
        name=f"best {label}",
        marker={"symbol": "star", "size": 13, "color": MARK},
        hovertemplate="best: %{y:.4f} at epoch %{x}<extra></extra>",
    )
