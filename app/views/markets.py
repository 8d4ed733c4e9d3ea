"""Markets: how large and how sparse they are, what they share, and which protocol their data allow."""

from __future__ import annotations

import streamlit as st

from app import charts, choices, describing, exports, frame, upload_form, words
from worker.store.corpora import get_corpus
from worker.store.session import Store
from worker.store.tables import CorpusRow


def body(store: Store) -> None:
    """Sizes, leak audit, overlap and long tail of one corpus."""
    frame.header("Markets", "What the data are like, which markets can help each other, and which protocol is safe.")
    upload_form.draw(store)
    digest = choices.corpus(store)
    if digest is None:
        return
    row = get_corpus(store, digest)
    st.caption(
        f"{frame.literal(row.origin)} · added {words.day(row.created_at)} by {frame.literal(row.created_by)} · "
        f"digest {row.digest[:12]}"
    )
    _sizes(row)
    _audit(row)
    left, right = st.columns(2, gap="large")
    with left:
        _overlap(row)
    with right:
        _tail(row)


def _sizes(row: CorpusRow) -> None:
    total = row.description
    names = {"Markets": len(total["markets"]), "Users": total["users"], "Items": total["items"]}
    names |= {"Interactions": total["rows"], "Different pairs": total["pairs"]}
    for column, (name, value) in zip(st.columns(len(names)), names.items(), strict=True):
        column.metric(name, words.count(value), border=True)
    table = describing.sizes(row.description)
    percent = st.column_config.NumberColumn(format="percent")
    shares = ("Density", "Sold elsewhere too", "Top 10 % of items")
    st.dataframe(table, hide_index=True, column_config=dict.fromkeys(shares, percent))
    st.download_button(
        "Sizes as CSV", exports.csv(table), f"markets-{row.digest[:8]}.csv", "text/csv", on_click="ignore"
    )


def _audit(row: CorpusRow) -> None:
    st.subheader("Leak audit", anchor=False)
    safe = row.audit["protocol"]
    st.markdown(f"Safe protocol for these data: **{safe['kind']}**. {frame.literal(safe['reason'])}")
    for finding in row.audit["findings"]:
        show = st.warning if finding["severity"] == "warning" else st.info
        show(f"{frame.literal(finding['text'], keep='`')} ({', '.join(finding['markets'])})")
    with st.expander("The audit in numbers"):
        st.dataframe(describing.audit(row.audit), hide_index=True)


def _overlap(row: CorpusRow) -> None:
    st.subheader("Shared items", anchor=False)
    figure = charts.heatmap(describing.overlap(row.description), "share")
    st.plotly_chart(figure, config=charts.config(f"overlap-{row.name}"), key="overlap")
    st.caption("How much of the row market's catalogue the column market sells too.")


def _tail(row: CorpusRow) -> None:
    st.subheader("Long tail", anchor=False)
    figure = charts.tail(describing.tail(row.description))
    st.plotly_chart(figure, config=charts.config(f"tail-{row.name}"), key="tail")
    st.caption("How many of a market's items have at least so many interactions.")


frame.show(body)
