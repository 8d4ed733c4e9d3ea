"""Corpus, protocol and metric, chosen alike on several pages: numbers of two protocols never meet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import frame, queries, words
from cmr_core.errors import SpecError
from worker.store.naming import protocol_names
from worker.store.session import Store

ACCURACY = ("ndcg", "recall", "hit", "mrr", "map", "precision")
USUAL = "ndcg@10"


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


def accuracy(names: Sequence[str]) -> list[str]:
    """Those of the metrics that say how well items are ranked."""
    return [name for name in names if name.partition("@")[0] in ACCURACY]


def usual(names: Sequence[str], paper: Collection[str] = ()) -> str:
    """The metric to judge by where nobody chose: NDCG@10, if it is there; one that the `paper` has, if it has any.

    Raises SpecError for no metrics.
    """
    if not names:
        raise SpecError("The finished runs of this protocol have no metrics.", hint="Launch them again.")
    known = [name for name in names if name in paper] or names
    return USUAL if USUAL in known else known[0]


def metric(names: Sequence[str], left: DeltaGenerator, right: DeltaGenerator, paper: Collection[str] = ()) -> str:
    """The chosen metric: its kind in `left`, its cutoff in `right`; first `usual`. Raises SpecError for no metrics."""
    _, _, cutoff = usual(names, paper).partition("@")
    with left:
        kind = frame.choose("Metric", list(dict.fromkeys(name.partition("@")[0] for name in names)), "metric",
                            text=words.metric)  # fmt: skip
    cutoffs = [name.partition("@")[2] for name in names if name.startswith(f"{kind}@")]
    with right:
        return f"{kind}@{frame.choose('Cutoff', cutoffs, 'k', default=cutoff)}"


def _texts(known: pd.DataFrame) -> dict[str, str]:
    names = protocol_names(dict(zip(known["protocol"], known["text"], strict=True)))
    runs = zip(known["protocol"], known["runs"], strict=True)
    return {digest[:12]: f"{names[digest]} — {words.plural(n, 'run')}" for digest, n in runs}
