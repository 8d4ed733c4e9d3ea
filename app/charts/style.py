"""What all figures share: colours, frame, intervals. Nothing sets a background or a text colour: both themes fit."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

SERIES = ("#1f77b4", "#e4853c", "#3f9c6b", "#b6565c", "#8a6fb8", "#8c6d5a", "#cf7fb4", "#7f868e")
MARK = "#e0a100"
GREY = "#7f868e"
TALL = 650  # pixels
LONGEST = 40  # characters of a name in a legend
MANY = 14  # methods that colours can tell apart


def config(name: str) -> dict[str, Any]:
    """Plotly's tool bar: the camera saves a PNG in the browser at twice the size on screen."""
    return {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
    }


def palette(labels: Mapping[str, str], colors: Mapping[str, str]) -> dict[str, str]:
    """Colour of each label, given each label's method and each method's colour.

    The first configuration of a method, by name, has the method's own colour, further ones are lighter or darker.
    """
    seen: dict[str, int] = {}
    result = {}
    for label in sorted(labels):
        step = seen.get(labels[label], 0)
        seen[labels[label]] = step + 1
        result[label] = _shade(colors.get(labels[label], GREY), step)
    return {label: result[label] for label in labels}


def series_colors(names: Sequence[str]) -> dict[str, str]:
    """Colours of things that are no methods (markets, groups), in their order."""
    return {name: SERIES[at % len(SERIES)] for at, name in enumerate(names)}


def faint(color: str) -> str:
    """A colour through which what lies below it is seen."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.3)"


def short(label: str) -> str:
    """A label for a legend or an axis: of a long one the beginning and the end, where configurations differ."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST // 2]} … {label[3 - LONGEST // 2 :]}"


def finish(figure: go.Figure, height: int) -> go.Figure:
    """The figure in the frame that all share; a legend of many entries stands on the right, where it scrolls.

    Long names are cut in the legend and whole under the pointer.
    """
    for trace in figure.data:
        if trace.name and len(trace.name) > LONGEST:
            if trace.hovertemplate:
                trace.hovertemplate = trace.hovertemplate.replace("%{fullData.name}", trace.name)
            trace.name = short(trace.name)
    below = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
    if height > TALL:  # a legend stands in parts of the height: below a tall figure it would be far away
        below |= {"yanchor": "bottom", "y": 1 + 20 / height}
    right = {"orientation": "v", "yanchor": "top", "y": 1, "x": 1.01, "font": {"size": 11}, "entrywidth": 0}
    many = sum(trace.showlegend is not False and bool(trace.name) for trace in figure.data) > MANY
    return figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 40, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend=right if many else below,
    )


def spread(rows: pd.DataFrame) -> dict[str, Any] | None:
    if "low" not in rows:
        return None
    ends = {"array": rows["high"] - rows["mean"], "arrayminus": rows["mean"] - rows["low"]}
    return {"type": "data", "thickness": 1.2, "width": 2, "color": "#7f868e", **ends}


def _shade(color: str, step: int) -> str:
    if step == 0:
        return color
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    moved = light + (0.14 if step % 2 else -0.14) * ((step + 1) // 2)
    parts = colorsys.hls_to_rgb(hue, min(max(moved, 0.18), 0.85), saturation)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)
