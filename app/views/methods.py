"""Methods: what each does, what it can be told, and where it stands on the data that are here."""

from __future__ import annotations

import streamlit as st

from app import cached, charts, choices, comparison, describing_methods, frame, queries, words
from cmr_core.models.registry import MethodInfo
from worker.store import naming
from worker.store.comparable import left_out, same_splits
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store

FIRST, METRIC = "dcmpt", "ndcg@10"


def body(store: Store) -> None:
    """One method, then the list of all."""
    frame.header("Methods", "What each of them does, what it can be told, and where it stands on your data.")
    known = cached.methods()
    names = sorted(known, key=lambda name: (known[name].family, known[name].label))
    name = frame.choose(
        "Method", names, "method", default=FIRST, text=lambda key: f"{known[key].label} · {known[key].family}"
    )
    info = known[name]
    left, right = st.columns([5, 6], gap="large")
    with left:
        _about(info)
    with right:
        _standing(store, info)
    _settings(info)
    st.subheader(f"All {len(known)} methods", anchor=False)
    st.dataframe(describing_methods.overview(known[key] for key in names), hide_index=True, height=420)


def _about(info: MethodInfo) -> None:
    st.subheader(frame.literal(info.label), anchor=False)
    st.markdown(f"**{frame.literal(info.summary)}**")
    for paragraph in describing_methods.paragraphs(info):
        st.markdown(frame.literal(paragraph, keep="`"))
    st.markdown("\n".join(f"- {fact}" for fact in describing_methods.facts(info)))
    st.caption(f"In study files: `{info.name}`")


def _standing(store: Store, info: MethodInfo) -> None:
    st.subheader("Where it stands", anchor=False)
    chosen = choices.both(store, st.columns([2, 3]))
    if chosen is None:
        return
    digest, protocol, text = chosen
    names = queries.metric_names(store, digest, protocol)
    metric = METRIC if METRIC in names or not names else names[0]
    results = queries.results(store, digest, protocol, metric)
    finished = naming.label_rows(results, market_names(get_corpus(store, digest)))
    labelled = same_splits(finished)
    stands = describing_methods.standing(comparison.means(labelled), info.name)
    if stands.empty:
        frame.empty(
            f"**{frame.literal(info.label)} has no finished run under this protocol.** Launch one, or choose another "
            "protocol above.",
            "views/launch.py",
            "Launch a study",
        )
        return
    frame.remark(left_out(finished, labelled))
    mine = labelled[labelled["method"] == info.name]
    own = labelled[labelled["label"].isin(stands["series"])]
    labels = dict(zip(own["label"], own["method"], strict=True))
    colors = charts.palette(labels, cached.colors()) | {describing_methods.BEST: charts.GREY}
    figure = charts.dots(stands, colors, words.metric(metric))
    # around the dot of the method that is itself the best one, not over it
    ring = {"symbol": "diamond-open", "size": 14, "line": {"width": 2}}
    figure.update_traces(marker=ring, selector={"name": describing_methods.BEST})
    st.plotly_chart(figure, config=charts.config(f"{info.name}-{digest[:8]}"), key="standing")
    number = st.column_config.NumberColumn(format="%.4f")
    table = describing_methods.compared(stands)
    st.dataframe(table, hide_index=True, column_config=dict.fromkeys([*stands["series"].unique(), "Best"], number))
    seeds, newest = mine.groupby(["label", "target"])["seed"].nunique().max(), mine["finished_at"].max()
    st.caption(
        f"{words.metric(metric)} · {frame.literal(text)} · means over up to {words.plural(int(seeds), 'seed')}, "
        f"no intervals · newest run {words.day(newest)}"
    )
    address = {"corpus": digest[:12], "protocol": protocol[:12]}
    st.page_link(
        "views/compare.py", label="Intervals and tests: Compare", icon=":material/arrow_forward:", query_params=address
    )


def _settings(info: MethodInfo) -> None:
    st.subheader("Settings", anchor=False)
    table = describing_methods.settings(info)
    if table.empty:
        st.caption("This method has none.")
        return
    if not info.published:
        table = table.drop(columns="Published")
    wide = st.column_config.TextColumn(width="large")
    st.dataframe(table, hide_index=True, column_config={"What it does": wide})
    if not info.published:
        return
    st.caption(
        "Published: what its paper or public code of it has, as far as that is known, where our default differs."
    )
    with st.expander("With the published settings, for a study file"):
        st.code(describing_methods.as_published(info), language="yaml")


frame.show(body)
