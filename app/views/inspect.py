"""Inspect: one user's history beside what several runs recommend, with the hits and the reasons."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import cached, charts, choices, exports, frame, inspection, queries, words
from app.figures import attention
from cmr_core.data.split import MarketSplit
from cmr_core.errors import CmrError
from cmr_core.interfaces import Recommender
from cmr_core.spec import JobSpec, parse
from worker.store.artifacts import Table
from worker.store.session import Store

MOST_RUNS = 4
LIST = 10


def body(store: Store) -> None:
    """Choose market, runs and user; then look."""
    frame.header(
        "Inspect users",
        "What single users have had, what each run recommends to them, and why: exactly, where the method allows it.",
    )
    chosen = choices.both(store)
    if chosen is None:
        return
    digest, protocol, text = chosen
    names = choices.accuracy(queries.metric_names(store, digest, protocol))
    judge = choices.usual(names)
    results = queries.results(store, digest, protocol, judge)
    targets = sorted(set(results["target"]))
    left, right = st.columns([2, 5])
    with left:
        market = frame.choose("Market", targets, "market")
    runs = queries.finished(store, digest, protocol, market)
    if _job(store, runs["id"].iloc[0]).split.each_seed:
        # users held out by one seed's split may be trained on in another's: only runs of one seed can be compared
        with left:
            seed = frame.choose("Split of seed", sorted(set(runs["seed"])), "seed", text=str)
        runs, results = runs[runs["seed"] == seed], results[results["seed"] == seed]
    with right:
        picked = _runs(runs, _best(results, market))
    runs = runs.set_index("id").loc[picked]
    tables = _tables(runs, "per_user")
    user = _user(tables, names, judge)
    if user is None:
        return
    users, newest = words.count(len(next(iter(tables.values())))), words.day(runs["finished_at"].max())
    st.caption(f"{text} · N {users} test users in {market} · {newest}")
    part = cached.split(digest, _job(store, picked[0]).drawn().split).market(market)
    _one_user(store, digest, part, runs, user)


def _job(store: Store, run: str) -> JobSpec:
    return parse(JobSpec, queries.run(store, run).spec)


def _best(results: pd.DataFrame, market: str) -> list[str]:
    """Runs on the market, the best first, one of each label."""
    mine = results[results["target"] == market].sort_values("value", ascending=False, kind="stable")
    return [str(run) for run in mine.drop_duplicates("label")["run_id"]]


def _runs(runs: pd.DataFrame, best: list[str]) -> list[str]:
    rows = zip(runs["id"], runs["label"], runs["seed"], strict=True)
    names = {run: f"{label}, seed {seed}" for run, label, seed in rows}
    first = [run for run in best if run in names][:3] or list(runs.drop_duplicates("label")["id"][:3])
    wanted = st.query_params.get_all("run")
    picked = frame.choose_many(
        f"Runs (at most {MOST_RUNS})", list(names), "run", text=names.__getitem__,
        max_selections=max(MOST_RUNS, len(wanted)), placeholder="The three best",
    )  # fmt: skip
    return (picked or first)[:MOST_RUNS]


def _user(tables: dict[str, pd.DataFrame], names: list[str], judge: str) -> int | None:
    shared = [name for name in names if all(name in table for table in tables.values())]
    by, order, who = st.columns([2, 2, 3])
    with by:
        metric = frame.choose("Judged by", shared, "metric", default=judge, text=words.metric)
    with order:
        how = frame.choose("Order", list(inspection.ORDERS), "order", text=inspection.ORDERS.__getitem__)
    users = inspection.users(tables, metric, how)
    if users.empty:
        frame.empty("**No test user of this market was evaluated in all of these runs.** Choose other runs.")
        return None
    said = {
        u: f"{u} · {n} in training · {m:.3f}"
        for u, n, m in zip(users["user_id"], users["n_train"], users["mean"], strict=True)
    }
    with who:
        user_id = frame.choose(
            "User", list(said), "user", text=said.__getitem__, help="Type a part of the user's id to find it."
        )
    return int(users.loc[users["user_id"] == user_id, "user"].iloc[0])


def _one_user(store: Store, digest: str, part: MarketSplit, runs: pd.DataFrame, user: int) -> None:
    corpus = cached.corpus(digest)
    ids = list(corpus.items[part.catalogue])
    labels = zip(runs.index, runs["label"], runs["seed"], strict=True)
    names = {str(run): f"{label}, seed {seed}" for run, label, seed in labels}
    held, tops = _tables(runs, "held_out"), _tables(runs, "topk")
    left, right = st.columns([3, 5], gap="medium")
    with left:
        st.subheader("Has had", anchor=False)
        past = inspection.history(corpus, part, user)
        narrow = {name: st.column_config.Column(width="small") for name in ("Item", "Day", "Part")}
        st.dataframe(
            past.rename(columns={"item_id": "Item", "day": "Day", "part": "Part"}),
            hide_index=True, column_config=narrow, height="auto" if len(past) < 12 else 420,
        )  # fmt: skip
    with right:
        st.subheader("Held out: what the test asks for", anchor=False)
        ranks = inspection.held_out(held, user)
        ranks["run"] = ranks["run"].map(names)
        st.dataframe(ranks.rename(columns={"run": "Rank by"}), hide_index=True)
        st.caption("Each run's rank of the item among all candidates; 1 is best.")
    shown = {}
    columns = st.columns(max(2, len(runs)), gap="small")
    for column, run, at in zip(columns, names, runs["finished_at"], strict=False):
        with column:
            model = _model(run, str(at))
            known = None if isinstance(model, CmrError) else model
            shown[run] = inspection.recommended(known, part, tops[run], held[run], user, LIST)
            _list(names[run], shown[run], ids)
            if isinstance(model, CmrError):
                st.caption(f"The list is the stored one, and there are no reasons: {frame.literal(model.explain())}")
    looked = _why(shown, names, ids)
    if looked is not None and runs.loc[looked[0], "method"] == attention.ACMR:
        with st.expander("What the layers look at in the user's items"):
            attention.heat(store, looked[0], str(runs.loc[looked[0], "finished_at"]), user, looked[1])
            st.caption(f"{attention.HOW} What layers read is no reason for a score.")


def _model(run: str, finished: str) -> Recommender | CmrError:
    """The run's model, or why there is none: a run may have been imported without it."""
    try:
        return cached.model(run, finished)
    except CmrError as error:
        return error


def _list(name: str, items: list[inspection.Shown], ids: list[str]) -> None:
    st.markdown(f"**{frame.literal(name)}**")
    rows = [
        {
            "Rank": i.rank,
            "Item": frame.literal(i.item_id),
            "Hit": "✔" if i.hit else "",
        }
        | ({} if i.why is None else {"Because": frame.literal(inspection.reason(i.why, ids))})
        for i in items
    ]
    st.table(pd.DataFrame(rows), hide_index=True, border="horizontal")  # wraps its text, whatever the width
    hits = sum(i.hit for i in items)
    st.caption(f"{words.plural(hits, 'hit')} (held-out items) among {len(items)}")


def _why(shown: dict[str, list[inspection.Shown]], names: dict[str, str], ids: list[str]) -> tuple[str, int] | None:
    """The run and the item that are looked at; None where nothing explains or is recommended."""
    told = [run for run, items in shown.items() if all(i.why is not None for i in items)]
    if not told:
        return None
    st.subheader("Why", anchor=False)
    left, right = st.columns([2, 2])
    with left:
        run = frame.choose("Run", told, "why", text=names.__getitem__)
    items = {str(i.rank): i for i in shown[run]}
    if not items:
        st.caption("This run's list for the user is empty.")
        return None
    with right:
        rank = frame.choose("Recommendation", list(items), "rank", text=lambda r: f"{r}. {items[r].item_id}")
    item, why = items[rank], items[rank].why
    assert why is not None
    if inspection.nothing_exact(why):
        st.info(f"Score {why.total:.4f}. {inspection.exactness(why)}")
        return run, item.item
    table = inspection.parts_table(why, ids)
    st.plotly_chart(
        charts.contributions(list(table["part"]), list(table["value"])), config=charts.config("why"), key="why-chart"
    )
    st.caption(f"Score {why.total:.4f}. {inspection.exactness(why)}")
    if why.prompt is not None:
        st.markdown(
            f"The **prompts** changed this score by **{why.prompt:+.4f}** (a part of it, spread over the bars)."
        )
    st.download_button("These parts as CSV", exports.csv(table), "why.csv", "text/csv", on_click="ignore")
    return run, item.item


def _tables(runs: pd.DataFrame, kind: Table) -> dict[str, pd.DataFrame]:
    finished = zip(runs.index, runs["finished_at"], strict=True)
    return {str(run): cached.table(str(run), str(at), kind) for run, at in finished}


frame.show(body)
