"""DataFrame -> figure. No Streamlit here. Nothing sets a background or a text colour, so both themes fit."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

SERIES = ("#1f77b4", "#e4853c", "#3f9c6b", "#b6565c", "#8a6fb8", "#8c6d5a", "#cf7fb4", "#7f868e")
LOSSES = ("loss", "bpr", "wrd", "amrdd", "l2")
MARK = "#e0a100"


def config(name: str) -> dict[str, Any]:
    """Plotly's tool bar: the camera saves a PNG in the browser at twice the size on screen."""
    return {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
    }


def palette(labels: Mapping[str, str], colors: Mapping[str, str]) -> dict[str, str]:
    """Colour of each label, given each label's method and each method's colour.

    The first configuration of a method has the method's own colour, further ones are lighter or darker.
    """
    seen: dict[str, int] = {}
    result = {}
    for label, method in labels.items():
        step = seen.get(method, 0)
        seen[method] = step + 1
        result[label] = _shade(colors.get(method, "#7f868e"), step)
    return result


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
    return _finish(figure, 340)


def _panel(name: str) -> str:
    if "loss" in name or name in LOSSES:
        return "Loss"
    if name.startswith("weight:"):
        return "Source weights"
    return "Validation" if name.startswith("valid") else "Diagnostics"


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
            error_y=_spread(rows),
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
    return _finish(figure, 430)


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


def tradeoff(frame: pd.DataFrame, colors: Mapping[str, str], x_title: str, y_title: str) -> go.Figure:
    """Quality against cost on a logarithmic axis, with the efficient frontier. frame: label, x, y, low, high, text."""
    figure = go.Figure()
    best = frontier(frame)
    figure.add_scatter(
        x=best["x"], y=best["y"], mode="lines", name="best for its cost", line={"dash": "dot", "color": "#7f868e"}
    )
    for row in frame.to_dict("records"):
        label, y = str(row["label"]), float(row["y"])
        figure.add_scatter(
            x=[row["x"]],
            y=[y],
            name=label,
            mode="markers",
            marker={"size": 14, "color": colors.get(label, "#7f868e"), "symbol": row["symbol"]},
            error_y={
                "type": "data",
                "array": [float(row["high"]) - y],
                "arrayminus": [y - float(row["low"])],
                "thickness": 1.2,
            },
            hovertemplate=f"{y_title} %{{y:.4f}}<br>{x_title}: {row['text']}<extra>%{{fullData.name}}</extra>",
        )
    wide = len(frame) > 0 and frame["x"].max() > 20 * frame["x"].min()
    figure.update_xaxes(type="log", title_text=x_title, dtick=1 if wide else "D2", tickformat="~s")
    figure.update_yaxes(title_text=y_title)
    return _finish(figure, 470)


def frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both cost `x` (lower is better) and quality `y`, by cost."""
    ordered = frame.sort_values(["x", "y"], ascending=[True, False])
    return ordered[ordered["y"] > ordered["y"].cummax().shift(fill_value=-np.inf)]


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
    figure.add_hline(y=0, line={"dash": "dot", "color": "#7f868e"})
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
    return _finish(figure, 470)


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
    return _finish(figure, 380)


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
    figure.update_yaxes(autorange="reversed")
    return _finish(figure, 110 + 34 * len(frame))


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
    return _finish(figure, 130 + 38 * len(matrix))


def tail(series: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """The long tail, one line per market through (interactions, share of items with at least so many)."""
    figure = go.Figure()
    for at, (name, points) in enumerate(series.items()):
        x, y = zip(*points, strict=True)
        style = {"color": SERIES[at % len(SERIES)], "width": 2}
        figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line=style)
    figure.update_xaxes(type="log", title_text="interactions, at least", dtick=1)
    figure.update_yaxes(title_text="share of items", tickformat=".0%", rangemode="tozero")
    return _finish(figure, 400)


def contributions(names: Sequence[str], values: Sequence[float]) -> go.Figure:
    """What each part adds to a score, largest first."""
    colors = ["#3b78b5" if value >= 0 else "#c9565c" for value in values]
    figure = go.Figure(go.Bar(x=list(values), y=list(names), orientation="h", marker_color=colors))
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text="part of the score")
    return _finish(figure, 140 + 26 * len(names))


def _spread(rows: pd.DataFrame) -> dict[str, Any] | None:
    if "low" not in rows:
        return None
    ends = {"array": rows["high"] - rows["mean"], "arrayminus": rows["mean"] - rows["low"]}
    return {"type": "data", "thickness": 1.2, "width": 2, "color": "#7f868e", **ends}


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


def _shade(color: str, step: int) -> str:
    if step == 0:
        return color
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    moved = light + (0.14 if step % 2 else -0.14) * ((step + 1) // 2)
    parts = colorsys.hls_to_rgb(hue, min(max(moved, 0.18), 0.85), saturation)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _finish(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 40, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
    )
    return figure
