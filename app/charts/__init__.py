"""DataFrame -> figure. No Streamlit here."""

from __future__ import annotations

from app.charts.cost import frontier, tradeoff
from app.charts.data import heatmap, tail
from app.charts.many import dots
from app.charts.matrix import crossed, effects
from app.charts.picture import attention, scatter, shares, weights
from app.charts.quality import add_published, bars, groups, outcomes, richness
from app.charts.single import contributions, curves
from app.charts.study import ablation, halves, sensitivity
from app.charts.style import GREY, MANY, config, palette, series_colors

__all__ = [
    "GREY",
    "MANY",
    "ablation",
    "add_published",
    "attention",
    "bars",
    "config",
    "contributions",
    "crossed",
    "curves",
    "dots",
    "effects",
    "frontier",
    "groups",
    "halves",
    "heatmap",
    "outcomes",
    "palette",
    "richness",
    "scatter",
    "sensitivity",
    "series_colors",
    "shares",
    "tail",
    "tradeoff",
    "weights",
]
