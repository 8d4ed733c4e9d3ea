"""Room for figures whose data a worker computes beside the run: nothing computes them yet."""

from __future__ import annotations

import streamlit as st

from app.study.view import View
from worker.store.session import Store


def draw(view: View, store: Store) -> None:
    """Say that there is nothing to draw."""
    with st.container(border=True):
        st.markdown(
            "**The runs of this study keep no data for this figure.** A worker of a version that computes it adds it "
            "to runs that are launched again."
        )
