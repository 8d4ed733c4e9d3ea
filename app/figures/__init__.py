"""The figures of a study's page, drawn with Streamlit: a renderer for each kind that a study file can name."""

from __future__ import annotations

from collections.abc import Callable

from app.figures import ablation, attention, efficiency, embedding, groups, sensitivity, table, transfer
from app.study.view import View
from cmr_core.spec import FigureKind
from worker.store.session import Store

TITLES: dict[FigureKind, str] = {
    "table": "Methods and markets",
    "ablation": "What each part contributes",
    "sensitivity": "How much the settings matter",
    "efficiency": "What it costs",
    "sparse-and-rich": "Sparse and rich markets",
    "item-groups": "Rare and popular items",
    "embedding": "How markets lie to each other",
    "attention": "What attends to what",
    "market-transfer": "Which sources help which target",
}
RENDERERS: dict[FigureKind, Callable[[View, Store], None]] = {
    "table": table.draw,
    "ablation": ablation.draw,
    "sensitivity": sensitivity.draw,
    "efficiency": efficiency.draw,
    "sparse-and-rich": groups.sparse_and_rich,
    "item-groups": groups.items,
    "embedding": embedding.draw,
    "attention": attention.draw,
    "market-transfer": transfer.draw,
}
