"""Form fields drawn with Streamlit: one widget per setting of a method."""

from __future__ import annotations

import streamlit as st

from app.forms import Field, differences, fields
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import Scalar


def settings(info: MethodInfo, initial: dict[str, Scalar], key: str) -> dict[str, Scalar]:
    """Widgets for a method's settings, two columns; only what departs from the defaults comes back."""
    shown = fields(info.config)
    if not shown:
        st.caption("This method has no settings.")
    columns = st.columns(2)
    values = {}
    for at, field in enumerate(shown):
        with columns[at % 2]:
            values[field.name] = _widget(field, initial.get(field.name, field.default), f"{key}-{field.name}")
    return differences(info.config, values)


def _widget(field: Field, value: Scalar | None, key: str) -> Scalar | None:
    label = field.name.replace("_", " ").capitalize()
    said = f"{field.help} ({field.range})" if field.range else field.help
    if field.kind == "switch":
        return st.toggle(label, bool(value), key=key, help=said)
    if field.kind == "choice":
        at = field.choices.index(value) if value in field.choices else 0
        return st.selectbox(label, field.choices, at, key=key, help=said)
    if field.kind == "text":
        return st.text_input(label, "" if value is None else str(value), key=key, help=said, max_chars=200) or None
    if field.kind == "whole":
        low, high = (None if bound is None else int(bound) for bound in (field.low, field.high))
        return st.number_input(label, low, high, None if value is None else int(value), 1, key=key, help=said)
    number = None if value is None else float(value)
    return st.number_input(label, field.low, field.high, number, _step(field), "%g", key=key, help=said)


def _step(field: Field) -> float:
    # a tenth of the default moves a learning rate and a penalty alike
    return abs(float(field.default)) / 10 if field.default else 0.1
