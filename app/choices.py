"""Corpus and protocol, chosen alike on Compare and Inspect: numbers of two protocols never meet."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import frame, queries, words
from worker.store.naming import protocol_names
from worker.store.session import Store


def corpus(store: Store) -> str | None:
    """The digest of the chosen corpus, or None where there is none (and the page says what to do)."""
    known = queries.corpora(store)
    if known.empty:
        frame.empty(
            "**There is no data yet.** Add some with `./cmr data add PATH`, or `./cmr data fetch` a public one."
        )
        return None
    names = dict(zip(known["digest"].str[:12], known["name"], strict=True))
    short = frame.choose("Corpus", list(names), "corpus", text=lambda key: str(names[key]))
    return str(known["digest"][known["digest"].str[:12] == short].iloc[0])


def protocol(store: Store, digest: str) -> tuple[str, str] | None:
    """The chosen protocol's digest and its words, or None where nothing has finished (and the page says so)."""
    known = queries.protocols(store, digest)
    if known.empty:
        frame.empty("**No run on this corpus has finished yet.**", "views/launch.py", "Launch a study")
        return None
    texts = _texts(known)
    short = frame.choose("Protocol", list(texts), "protocol", text=lambda key: texts[key])
    row = known[known["protocol"].str[:12] == short].iloc[0]
    return str(row["protocol"]), str(row["text"])


def both(store: Store, beside: Sequence[DeltaGenerator] | None = None) -> tuple[str, str, str] | None:
    """Corpus digest, protocol digest and the protocol in words, chosen side by side (in `beside`, if given)."""
    left, right = beside or st.columns([2, 5])
    with left:
        digest = corpus(store)
    if digest is None:
        return None
    with right:
        chosen = protocol(store, digest)
    return None if chosen is None else (digest, *chosen)


def _texts(known: pd.DataFrame) -> dict[str, str]:
    names = protocol_names(dict(zip(known["protocol"], known["text"], strict=True)))
    runs = zip(known["protocol"], known["runs"], strict=True)
    return {digest[:12]: f"{names[digest]} — {words.plural(n, 'run')}" for digest, n in runs}
