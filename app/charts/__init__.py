"""DataFrame -> figure. No Streamlit here."""

from __future__ import annotations

from app.charts.cost import frontier, tradeoff
from app.charts.data import heatmap, tail
from app.charts.quality import add_published, bars, groups, outcomes, richness
from app.charts.single import contributions, curves
from app.charts.style import config, palette

__all__ = [
    "add_published",
    "bars",
    "config",
    "contributions",
    "curves",
    "frontier",
    "groups",
    "heatmap",
    "outcomes",
    "palette",
    "richness",
    "tail",
    "tradeoff",
]
