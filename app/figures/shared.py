"""What all figures of a study share: colours, what is missing, empty states."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, frame
from app.study import view as views
from app.study.view import View


def partial(wanted: pd.DataFrame) -> None:
    """Say which runs are not in the figure yet."""
    said = views.missing(wanted)
    if said:
        st.caption(f":material/hourglass_top: {said}")


def nothing(
    view: View, wanted: pd.DataFrame, what: str = "None of the runs that this figure needs has finished."
) -> None:
    """What to do where a figure has nothing to show."""
    counts = views.states(wanted)
    if counts.get("failed") or counts.get("cancelled"):
        step = "Retry or look into those that ended badly on the page Runs."
    elif counts:
        step = "It appears here by itself once they have."
    else:
        step = "Copy the study and add what is missing."
    with st.container(border=True):
        st.markdown(f"**{what}** {views.missing(wanted)} {step}")
        st.page_link(
            "views/runs.py", label="Its runs", icon=":material/arrow_forward:", query_params={"study": view.study_id}
        )


def palette(runs: pd.DataFrame) -> dict[str, str]:
    """Colour of each label."""
    labels = dict(zip(runs["label"], runs["method"], strict=True))
    return charts.palette(labels, cached.colors())


def caption(view: View, runs: pd.DataFrame, more: str = "") -> None:
    """Metric, protocol, N, seeds and date under a figure."""
    st.caption(f"{frame.literal(view.note(runs))}{more}")
