"""The launch page's methods: which, in how many configurations, and which settings with several values."""

from __future__ import annotations

import streamlit as st

from app import fields, forms, frame, grids, words
from cmr_core.errors import CmrError
from cmr_core.models.registry import MethodInfo, load
from cmr_core.spec import Member, MethodChoice, StudySpec

FIRST_CHOICE = ("popularity", "ease-weighted", "lightgcn-all", "dcmpt")
FIRST_MEMBERS = ("popularity", "ease-weighted", "lightgcn-all")
MOST = 6


def methods(given: StudySpec | None, tag: str, faults: list[CmrError]) -> tuple[MethodChoice, ...]:
    """The chosen configurations; what is wrong with one is put into `faults`, and the form goes on."""
    st.subheader("2 Methods", anchor=False)
    known = load()
    initial: dict[str, list[MethodChoice]] = {}
    for choice in () if given is None else given.methods:
        initial.setdefault(choice.method, []).append(choice)
    picked = st.multiselect(
        "Methods",
        sorted(known, key=lambda name: (known[name].family, known[name].label)),
        [name for name in initial or FIRST_CHOICE if name in known],
        key=f"methods-{tag}",
        format_func=lambda name: f"{known[name].label} · {known[name].family}",
        wrap=True,
    )
    chosen = []
    for name in picked:
        with st.expander(known[name].label):
            chosen += _method(known[name], initial.get(name, []), f"{tag}-{name}", faults)
    return tuple(chosen)


def _method(info: MethodInfo, initial: list[MethodChoice], key: str, faults: list[CmrError]) -> list[MethodChoice]:
    st.page_link(
        "views/methods.py", label=frame.literal(info.summary), icon=":material/menu_book:",
        query_params={"method": info.name}, help="What it does, and where it stands here",
    )  # fmt: skip
    if not forms.fields(info.config) and not info.combines:
        st.caption("This method has no settings.")
        return [MethodChoice(method=info.name)]
    number = st.number_input(
        "Configurations", 1, max(MOST, len(initial)), max(1, len(initial)), key=f"{key}-number", width=160,
        help="Several configurations of one method stand side by side in the tables.",
    )  # fmt: skip
    places = st.tabs([f"Configuration {n + 1}" for n in range(number)]) if number > 1 else [st.container()]
    found = []
    for n, place in enumerate(places):
        start = initial[n] if n < len(initial) else MethodChoice(method=info.name)
        with place:
            try:
                found.append(_configuration(info, start, f"{key}-{n}"))
            except CmrError as error:
                st.warning(frame.literal(error.explain()))
                faults.append(error)
    return found


def _configuration(info: MethodInfo, start: MethodChoice, key: str) -> MethodChoice:
    names = [field.name for field in forms.fields(info.config)]
    left, right = st.columns(2)
    label = left.text_input(
        "Name in tables", start.label or "", key=f"{key}-label", max_chars=80, placeholder="Made from the settings"
    )
    trying = right.multiselect(
        "Settings to try with several values", names, [name for name in start.grid if name in names],
        key=f"{key}-grid", format_func=fields.label, placeholder="None", max_selections=10,
        help="Every combination of their values becomes a configuration of its own.",
    )  # fmt: skip
    grid = {name: fields.several(info, name, start.grid.get(name, ()), f"{key}-{name}-values") for name in trying}
    settings = fields.settings(info, dict(start.settings), key, trying)
    members = _members(start, key) if info.combines else ()
    choice = MethodChoice(method=info.name, label=label.strip() or None, settings=settings, grid=grid, members=members)
    if settings:
        st.caption("Changed: " + ", ".join(f"{name} = {value}" for name, value in settings.items()))
    if grid:
        st.caption(f"{words.plural(grids.count(choice), 'configuration')} in all.")
    return choice


def _members(start: MethodChoice, key: str) -> tuple[Member, ...]:
    known = load()
    offered: dict[str, Member] = {}
    for at, member in enumerate(start.members, start=1):
        if member.method in known:  # a method may take part several times: its settings, or its place, say which it is
            name = known[member.method].named(member.settings)
            offered[f"{name}, member {at}" if name in offered else name] = member
    picked = list(offered) or [known[name].label for name in FIRST_MEMBERS]
    for name, info in known.items():
        if not info.combines:
            offered.setdefault(info.label, Member(method=name))
    chosen = st.multiselect(
        "What it combines", list(offered), picked, key=f"{key}-members", wrap=True, max_selections=20,
        help="With their own settings where a study file names some, else with their defaults.",
    )  # fmt: skip
    return tuple(offered[name] for name in chosen)
