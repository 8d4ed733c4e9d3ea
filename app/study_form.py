"""What makes a launch a study: which sources its runs get in turn, and what its page asks and shows."""

from __future__ import annotations

from typing import Any, get_args

import streamlit as st

from app.figures import TITLES
from cmr_core.published import load
from cmr_core.spec import FigureKind, SourceSet, StudySpec

PAGE = ("title", "figures", "paper", "note")
SETS: dict[SourceSet, str] = {
    "all": "All named sources together",
    "without-one": "All but one, each left out in turn",
    "only-one": "One alone, each in turn",
}


def source_sets(given: StudySpec | None, tag: str) -> tuple[str, ...]:
    """Which sources a run gets; all of them where nothing is chosen."""
    chosen = st.multiselect(
        "Which sources a run gets", list(get_args(SourceSet)), list(("all",) if given is None else given.source_sets),
        key=f"sets-{tag}", format_func=lambda name: SETS[name],
        help="Several choices make several runs. To learn which source helps, take all three.",
    )  # fmt: skip
    return tuple(chosen) or ("all",)


def page(given: StudySpec | None, tag: str) -> dict[str, Any]:
    """Title, figures, the paper beside and a note."""
    fields = StudySpec.model_fields
    start = {name: fields[name].default if given is None else getattr(given, name) for name in PAGE}
    with st.expander("What its page asks and shows"):
        title = st.text_input(
            "Question", start["title"], key=f"title-{tag}", max_chars=120, placeholder="Which method is best in jp?"
        )
        figures = st.multiselect(
            "Figures, in this order", list(get_args(FigureKind)), list(start["figures"]), key=f"figures-{tag}",
            format_func=lambda kind: TITLES[kind], wrap=True,
        )  # fmt: skip
        sources = list(dict.fromkeys(number.source for number in load()))
        known = ["", *sources, *({start["paper"]} - {"", *sources})]
        paper = st.selectbox(
            "Published table beside it", known, known.index(start["paper"]), key=f"paper-{tag}",
            format_func=lambda name: name or "None",
        )  # fmt: skip
        note = st.text_area("Note", start["note"], key=f"note-{tag}", max_chars=2000, height=80)
    return {"title": title.strip(), "figures": tuple(figures), "paper": paper, "note": note.strip()}
