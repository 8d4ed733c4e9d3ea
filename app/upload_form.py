"""The page Markets' form for files of one's own."""

from __future__ import annotations

import streamlit as st

from app import actions, auth, frame, uploads, words
from cmr_core.data.layouts import Columns, Layout
from cmr_core.errors import CmrError
from cmr_core.spec import parse
from worker.store.corpora import add_corpus
from worker.store.session import Store

KINDS = {
    "guess": "Guess from the first line",
    "xmarket": "XMarket 5-core: userId itemId rate date",
    "wsdm": "WSDM Cup 2022: userId itemId rating",
    "table": "CSV or Parquet, columns named below",
}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}


def draw(store: Store) -> None:
    """Files, layout, name and a button; a corpus is taken whole or not at all."""
    actions.show_notes()
    with st.expander("Add a corpus from files of your own", icon=":material/upload_file:"):
        if not auth.allowed("add corpus"):
            st.caption("Your role may look, and not add data.")
            return
        files = st.file_uploader(
            f"One file per market, named like de_5core.txt, or files with a market column; {uploads.MOST_MEGABYTES} MB "
            "each at most, plain or gzip",
            ["txt", "tsv", "csv", "parquet", "gz"], accept_multiple_files=True, key="files",
            max_upload_size=uploads.MOST_MEGABYTES,
        )  # fmt: skip
        left, right = st.columns(2)
        name = left.text_input("Name of the corpus", key="corpus-name", max_chars=64, placeholder="my-markets")
        kind = right.selectbox("Layout", list(KINDS), format_func=KINDS.__getitem__, key="layout")
        try:
            layout = None if kind == "guess" else _layout(kind)
            if st.button("Add the corpus", disabled=not files or not name, key="add-corpus"):
                _add(store, [(file.name, file.getvalue()) for file in files], name.strip(), layout)
        except CmrError as error:
            frame.tell(error)
            st.caption("Nothing was stored: a corpus is taken whole or not at all.")


def _layout(kind: str) -> Layout:
    if kind != "table":
        return parse(Layout, {"kind": kind})
    roles = {"user": "user", "item": "item", "rating": "rating", "date": "date", "market": ""}
    chosen: dict[str, str | None] = {}
    for place, (role, first) in zip(st.columns(len(roles) + 1), roles.items(), strict=False):
        optional = role in ("rating", "date", "market")
        text = place.text_input(
            f"Column of the {role}", first, key=f"column-{role}", max_chars=200, placeholder="None",
            help="Leave it empty if there is none." if optional else None,
        )  # fmt: skip
        chosen[role] = text if text or not optional else None
    sign = st.selectbox("Delimiter of CSV files", list(DELIMITERS), format_func=DELIMITERS.__getitem__, key="delimiter")
    return parse(Layout, {"kind": kind, "columns": parse(Columns, chosen), "delimiter": sign})


def _add(store: Store, files: list[uploads.Upload], name: str, layout: Layout | None) -> None:
    with st.spinner("Reading, checking and storing …", show_time=True):
        corpus = uploads.read(files, name=name, layout=layout)
        told = ", ".join(theirs[:80] for theirs, _ in files[:8]) + (" …" if len(files) > 8 else "")
        digest = add_corpus(store, auth.actor(), corpus, f"uploaded in the browser: {told}")
    actions.note(
        f"Stored {name}: {words.plural(len(corpus.markets), 'market')}, {words.count(len(corpus.items))} items."
    )
    st.query_params["corpus"] = digest[:12]
    st.rerun()
