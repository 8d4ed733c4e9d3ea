"""The table of launched studies and its buttons, on Overview and on Studies."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st


def held(studies: pd.DataFrame, key: str) -> pd.DataFrame:
    """The studies for the table `key`: while one is ticked those among which it was, in their order.

    A tick is the number of a row, and a study that is launched meanwhile would push it to another one.
    """
    state = st.session_state.get(key)
    ids = st.session_state.get(f"{key}-ids", []) if state and state["selection"]["rows"] else []
    shown = studies.set_index("id").loc[ids].reset_index() if ids else studies
    st.session_state[f"{key}-ids"] = list(shown["id"])
    return shown


def pick(table: pd.DataFrame, studies: pd.DataFrame, key: str, **more: Any) -> str | None:
    """The table, a row for each of `studies` (see `held`); returns the id of the ticked one."""
    chosen = st.dataframe(table, hide_index=True, key=key, on_select="rerun", selection_mode="single-row", **more)
    rows = [row for row in chosen["selection"]["rows"] if row < len(studies)]
    return None if not rows else str(studies["id"].iloc[rows[0]])


def buttons(study: str | None) -> None:
    """What can be done with the ticked study; to be drawn side by side."""
    params, none = {"study": str(study)}, study is None
    if st.button("Open", type="primary", disabled=none, help="Tick a study", key="open"):
        st.switch_page("views/study.py", query_params=params)
    if st.button("Its runs", disabled=none, help="Tick a study", key="its-runs"):
        st.switch_page("views/runs.py", query_params=params)
    if st.button("Copy as a new study", disabled=none, help="Tick a study", key="copy"):
        st.switch_page("views/launch.py", query_params=params)
