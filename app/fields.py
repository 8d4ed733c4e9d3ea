"""Form fields drawn with Streamlit: one widget per setting of a method, or one for several values of it."""

from __future__ import annotations

from collections.abc import Container, Sequence

import streamlit as st

from app import grids
from app.forms import Field, differences, fields
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import Scalar


def label(name: str) -> str:
    """A setting's name as a form prints it."""
    return name.replace("_", " ").capitalize()


def settings(info: MethodInfo, initial: dict[str, Scalar], key: str, without: Container[str] = ()) -> dict[str, Scalar]:
    """Widgets for a method's settings but those in `without`, two columns; only what departs from the defaults."""
    shown = [field for field in fields(info.config) if field.name not in without]
    columns = st.columns(2)
    values = {}
    for at, field in enumerate(shown):
        with columns[at % 2]:
            values[field.name] = _widget(field, initial.get(field.name, field.default), f"{key}-{field.name}")
    return differences(info.config, values)


def several(info: MethodInfo, name: str, initial: Sequence[Scalar], key: str) -> tuple[Scalar, ...]:
    """A widget for the values of a setting that are all tried. Raises SpecError for what the method does not take."""
    field = next(field for field in fields(info.config) if field.name == name)
    said = f"{label(name)}: values to try"
    if field.kind in ("switch", "choice"):
        options = list(field.choices) or [False, True]
        chosen = st.multiselect(said, options, list(initial) or options, key=key, help=field.help)
        return grids.check(info, name, chosen)
    start = ", ".join(map(str, initial)) or ("" if field.default is None else str(field.default))
    text = st.text_input(said, start, key=key, help=f"{field.help} Such as 0.1, 1, 10.", max_chars=300)
    return grids.check(info, name, grids.values(field, text))


def _widget(field: Field, value: Scalar | None, key: str) -> Scalar | None:
    said = f"{field.help} ({field.range})" if field.range else field.help
    name = label(field.name)
    if field.kind == "switch":
        return st.toggle(name, bool(value), key=key, help=said)
    if field.kind == "choice":
        at = field.choices.index(value) if value in field.choices else 0
        return st.selectbox(name, field.choices, at, key=key, help=said)
    if field.kind == "text":
        return st.text_input(name, "" if value is None else str(value), key=key, help=said, max_chars=200) or None
    if field.kind == "whole":
        low, high = (None if bound is None else int(bound) for bound in (field.low, field.high))
        return st.number_input(name, low, high, None if value is None else int(value), 1, key=key, help=said)
    number = None if value is None else float(value)
    return st.number_input(name, field.low, field.high, number, _step(field), "%g", key=key, help=said)


def _step(field: Field) -> float:
    # a tenth of the default moves a learning rate and a penalty alike
    return abs(float(field.default)) / 10 if field.default else 0.1
