"""What every page shares: the store, a safety net for errors, links, and selections that live in the address."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st
from sqlalchemy.exc import DBAPIError

from cmr_core.errors import CmrError
from worker.store.session import Store, open_store

log = logging.getLogger("cmr.app")
T = TypeVar("T")


@st.cache_resource(show_spinner=False)
def get_store() -> Store:
    """The one store of this process."""
    return open_store()


def show(body: Callable[[Store], None]) -> None:
    """Run a page. Whatever goes wrong is told in words with a next step; a traceback goes to the log only."""
    try:
        body(get_store())
    except CmrError as error:
        tell(error)
    except DBAPIError:
        log.exception("the database does not answer")
        st.error("The database does not answer, or has no tables yet.")
        st.markdown("**Next step:** start everything with `./cmr up`, then reload this page.")
    except Exception:
        number = uuid.uuid4().hex[:8]
        log.exception("error %s", number)
        st.error(f"This page met an error that it did not expect (number {number}).")
        st.markdown("**Next step:** reload the page. If it stays, the dashboard's log has the details.")


def tell(error: CmrError) -> None:
    """Cause and next step of an expected error."""
    st.error(literal(str(error)))
    if error.hint:
        st.markdown(f"**Next step:** {literal(error.hint)}")


def literal(text: str, keep: str = "") -> str:
    """Text from outside, so that Markdown shows it as it is, except for the signs in `keep`."""
    for sign in sorted(set("\\`*_{}[]<>#|$~:") - set(keep), key="\\".__ne__):
        text = text.replace(sign, f"\\{sign}")
    return text


def header(title: str, caption: str = "") -> None:
    """The page's title and one line about what it is for."""
    st.title(title, anchor=False)
    if caption:
        st.caption(caption)


def remark(text: str) -> None:
    """A small line about what a page shows or leaves out; nothing where `text` is empty."""
    if text:
        st.caption(f":material/info: {literal(text)}")


def run_link(run_id: str, text: str, icon: str) -> None:
    """A line that opens a run."""
    st.page_link("views/run.py", label=literal(text), icon=icon, query_params={"id": run_id})


def empty(message: str, page: str | None = None, label: str = "") -> None:
    """What to do on a page that has nothing to show."""
    with st.container(border=True):
        st.markdown(message)
        if page:
            st.page_link(page, label=label, icon=":material/arrow_forward:")


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    default: T | None = None,
    text: Callable[[T], str] = str,
    control: Callable[..., Any] = st.selectbox,
    **more: Any,
) -> T:
    """A selection of one that the address remembers as `?key=`; a value that is not there is said and ignored."""
    first = options[0] if default is None or default not in options else default
    names = {str(option): option for option in options}
    raw = st.query_params.get(key)
    if raw != st.session_state.get(f"_{key}") or st.session_state.get(key) not in options:
        if raw is not None and raw not in names:
            unknown(label, raw, list(names))
        st.session_state[key] = names.get(raw or "", first)
    value: T = control(label, options, key=key, format_func=text, **more)
    value = first if value is None else value
    _remember(key, None if value == first else str(value))
    return value


def choose_many(
    label: str, options: Sequence[str], key: str, *, text: Callable[[str], str] = str, **more: Any
) -> list[str]:
    """A selection of any number, in the address as `?key=a&key=b`; none chosen stands for all."""
    raw = st.query_params.get_all(key)
    state = st.session_state.get(key)
    if raw != st.session_state.get(f"_{key}", []) or state is None or not set(state) <= set(options):
        for missing in [value for value in raw if value not in options]:
            unknown(label, missing, options)
        st.session_state[key] = [value for value in raw if value in options]
    value = list(st.multiselect(label, options, key=key, format_func=text, **more))
    _remember(key, value or None)
    return value


def unknown(label: str, raw: str, options: Sequence[str]) -> None:
    """Say that the address asks for something that is not there."""
    there = ", ".join(options[:8]) + (" …" if len(options) > 8 else "")
    st.warning(
        f"The address asks for {label.lower()} {literal(repr(raw[:60]))}, which is not there. "
        f"Showing another one. There are: {literal(there)}."
    )


def _remember(key: str, value: str | list[str] | None) -> None:
    if value is None:
        if key in st.query_params:
            del st.query_params[key]
        st.session_state.pop(f"_{key}", None)
    elif st.session_state.get(f"_{key}") != value:
        st.query_params[key] = value
        st.session_state[f"_{key}"] = value
