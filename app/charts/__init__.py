"""DataFrame -> figure. No Streamlit here."""

from __future__ import annotations

from app.charts.cost import frontier, tradeoff
from app.charts.data import heatmap, tail
from app.charts.matrix import crossed, effects
from app.charts.quality import add_published, bars, groups, outcomes, richness
from app.charts.single import contributions, curves
from app.charts.study import ablation, halves, sensitivity
from app.charts.style import SERIES, config, palette

__all__ = [
    "SERIES",
    "ablation",
    "add_published",
    "bars",
    "config",
    "contributions",
    "crossed",
    "curves",
    "effects",
    "frontier",
    "groups",
    "halves",
    "heatmap",
    "outcomes",
    "palette",
    "richness",
    "sensitivity",
    "tail",
    "tradeoff",
]
