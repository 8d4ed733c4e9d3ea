"""What looks at what: a user's items (ACMR paper, figure 5), nodes at prompts (DCMPT), the target at its sources."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app import cached, charts, exports, frame, queries, words
from app.figures import shared
from app.queries.weights import PREFIX, study_weighted
from app.study import attention
from app.study.embedding import Choice, choices
from app.study.view import View
from cmr_core.errors import SpecError
from cmr_core.explain.attention import Attention, attend_to
from cmr_core.interfaces import FloatArray
from cmr_core.models.base import Factors
from cmr_core.spec import JobSpec, parse
from worker.store.artifacts import load_model
from worker.store.session import Store

ACMR, PROMPTED = "acmr", "dcmpt"
USERS = 500  # users with the longest histories that are offered
NODES = {"item": "Items", "user": "Users"}
MEAN = "mean over heads"
HOW = (
    "A row shows from which items its item takes how much in this layer; a row sums to 1. ▸ marks the candidate, whose "
    "row feeds the score."
)
MEANING = (
    "Entropy: of a node's shares, mean over nodes; 1 is uniform: then prompts change everybody alike. Nodes differ: "
    "how much of a node's choice is its own; 0 where all nodes have the same shares, which too changes everybody "
    "alike. Each market learns its own prompts: prompt 1 of two markets need not mean the same."
)


def draw(view: View, store: Store) -> None:
    """One of up to three views: those that the study's methods have."""
    runs, weighted = view.labelled(), study_weighted(store, view.study_id)
    parts: dict[str, tuple[str, pd.DataFrame, Callable[[View, Store, pd.DataFrame], None]]] = {
        "history": ("Items of a history", runs[runs["method"] == ACMR], _history),
        "prompts": ("Nodes and prompts", runs[runs["method"] == PROMPTED], _prompts),
        "sources": ("Sources over training", runs[runs["run_id"].isin(weighted)], _sources),
    }
    there = {name: part for name, part in parts.items() if len(part[1])}
    if not there:
        shared.nothing(
            view, view.wanted(), "No run of ACMR or DCMPT, the methods with attention to show, has finished."
        )
        return
    name = frame.choose(
        "What is looked at", list(there), "attention", text=lambda name: parts[name][0],
        control=st.segmented_control, required=True, label_visibility="collapsed",
    )  # fmt: skip
    _, mine, show = there[name]
    show(view, store, mine)
    wanted = view.wanted()
    shared.partial(wanted[wanted["label"].isin(mine["label"])])


def _history(view: View, store: Store, runs: pd.DataFrame) -> None:
    choice = _method(runs)
    left, middle, right = st.columns([1, 2, 2])
    with left:
        market = frame.choose("Market", list(choice.runs["target"]), "attention-market")
    run = choice.runs.set_index("target").loc[market]
    run_id, finished = str(run["run_id"]), str(run["finished_at"])
    users = cached.table(run_id, finished, "per_user")[["user", "user_id", "n_train"]]
    users = users.sort_values(["n_train", "user_id"], ascending=[False, True]).head(USERS).set_index("user_id")
    with middle:
        user_id = frame.choose(
            "User, longest histories first", list(users.index), f"attention-user-{market}",
            text=lambda user_id: f"{user_id} · {users.loc[user_id, 'n_train']} in training",
        )  # fmt: skip
    user = int(users.loc[user_id, "user"])
    held, top = cached.table(run_id, finished, "held_out"), cached.table(run_id, finished, "topk")
    items = attention.candidates(held, top, user)
    if not items:
        st.caption("Nothing is held out and nothing is recommended to this user.")
        return
    with right:
        item = st.selectbox("Candidate item", list(items), format_func=items.__getitem__, key=f"seen-{run_id}-{user}")
    st.page_link(
        "views/inspect.py", label="Inspect this user", icon=":material/person_search:",
        query_params={
            "corpus": str(run["corpus"])[:12], "protocol": str(run["protocol"])[:12], "market": market,
            "run": run_id, "user": user_id,
        },
    )  # fmt: skip
    heat(store, run_id, finished, user, int(item))
    st.caption(
        f"{frame.literal(choice.label)} · market {market} · user {frame.literal(user_id)} · seed {choice.seed} · "
        f"{frame.literal(view.text)} · {words.day(run['finished_at'])}. {HOW}"
    )


def heat(store: Store, run_id: str, finished: str, user: int, item: int) -> None:
    """The attention with which a finished run of ACMR scores local `item` for local `user`; a layer and head to choose.

    Raises SpecError for other methods.
    """
    found = _attend(run_id, finished, user, item)
    layers, heads, length, _ = found.weights.shape
    left, right, _ = st.columns([1, 1, 2])
    names = [*map(str, range(layers, 0, -1))]
    with left:
        layer = frame.choose(
            "Layer", names, "attention-layer", text=lambda name: f"{name} (last)" if name == names[0] else name
        )
    with right:
        head = frame.choose("Heads", [MEAN, *map(str, range(1, heads + 1))], "attention-head")
    chosen = found.weights[int(layer) - 1]
    weights = chosen.mean(axis=0) if head == MEAN else chosen[int(head) - 1]
    job = parse(JobSpec, queries.run(store, run_id).spec)
    catalogue = cached.split(job.corpus, job.drawn().split).market(job.target).catalogue
    ids = cached.corpus(job.corpus).items[catalogue]
    figure = charts.attention(weights, attention.place_names(found.items.tolist(), ids))
    st.plotly_chart(figure, config=charts.config(f"attention-{run_id[:8]}-{user}-{item}"), key="attention-chart")
    st.caption(f"{length} items; a layer that looks at all of them alike has {1 / length:.3f} in every cell.")


@st.cache_resource(show_spinner=False, max_entries=100)
def _attend(run_id: str, finished: str, user: int, item: int) -> Attention:
    """Not to be changed."""
    return attend_to(cached.model(run_id, finished), user, item)


def _prompts(view: View, store: Store, runs: pd.DataFrame) -> None:
    choice = _method(runs)
    kind = frame.choose("Nodes", list(NODES), "attention-nodes", text=NODES.__getitem__, control=st.segmented_control,
                        required=True)  # fmt: skip
    with st.spinner("Reading the models …", show_time=False):
        found = {
            str(target): _shares(str(run_id), str(finished))
            for run_id, finished, target in choice.runs[["run_id", "finished_at", "target"]].itertuples(index=False)
        }
    tables = {target: sides[kind] for target, sides in found.items() if sides is not None}
    if not tables:
        st.caption(f"{frame.literal(choice.label)} has no prompts: there are no shares to show.")
        return
    matrix, summary = attention.mean_shares(tables), attention.summary(tables)
    st.plotly_chart(charts.shares(matrix), config=charts.config(f"{view.spec.name}-prompts"), key="prompts-chart")
    st.markdown(frame.literal(attention.in_words(summary)))
    shown = summary.set_axis(["Market", "N", "Entropy", "Nodes differ"], axis=1)
    numbers = dict.fromkeys(("Entropy", "Nodes differ"), st.column_config.NumberColumn(format="%.3f"))
    st.dataframe(shown, hide_index=True, column_config=numbers, width="content")
    st.caption(
        f"{frame.literal(choice.label)} · mean share of each prompt over the market's {kind}s · seed {choice.seed} · "
        f"{frame.literal(view.text)} · {words.day(choice.runs['finished_at'].max())}. {MEANING}"
    )
    _takers(view, store, choice, tables, kind)


def _takers(view: View, store: Store, choice: Choice, tables: dict[str, FloatArray], kind: str) -> None:
    market = frame.choose(f"{NODES[kind]} that take most of each prompt, market", list(tables), "attention-takers")
    job = parse(JobSpec, queries.run(store, str(choice.runs["run_id"].iloc[0])).spec)
    corpus = cached.corpus(job.corpus)
    catalogue = cached.split(job.corpus, job.drawn().split).market(market).catalogue
    ids = corpus.items[catalogue] if kind == "item" else corpus.market(market).users
    table = attention.takers(tables[market], ids)
    st.dataframe(table, hide_index=True)
    data = exports.csv(table, [view.text, f"study {view.spec.name} {view.study_id}", choice.label, market])
    st.download_button(
        "CSV", data, f"{view.spec.name}-prompts-{market}.csv", "text/csv", on_click="ignore", key="prompts-csv"
    )


@st.cache_resource(show_spinner=False, max_entries=60)
def _shares(run_id: str, finished: str) -> dict[str, FloatArray] | None:
    """Shares of users and items, not to be changed; None for a model without prompts. The model itself is not kept."""
    model = load_model(frame.get_store(), run_id)
    if not isinstance(model, Factors):
        raise SpecError("This model has no prompts.", hint="Choose a run of DCMPT.")
    if model.user_attention is None or model.item_attention is None:
        return None
    return attention.sides(model.user_attention, model.item_attention)


def _sources(view: View, store: Store, runs: pd.DataFrame) -> None:
    choice = _method(runs)
    target = frame.choose("Target market", list(choice.runs["target"]), "attention-target")
    run = choice.runs.set_index("target").loc[target]
    points = queries.points(store, str(run["run_id"]))
    points = points[points["name"].str.startswith(PREFIX)]
    points = points.assign(source=points["name"].str.removeprefix(PREFIX))
    colors = charts.series_colors(list(view.markets))
    figure = charts.weights(points, colors)
    st.plotly_chart(figure, config=charts.config(f"{view.spec.name}-weights-{target}"), key="weights-chart")
    last = points[points["step"] == points["step"].max()].sort_values("value", ascending=False)
    spread = last["value"].max() - last["value"].min()
    said = ", ".join(f"{source} {value:.3f}" for source, value in zip(last["source"], last["value"], strict=True))
    st.caption(
        f"{frame.literal(choice.label)} · target {target} · seed {choice.seed} · {frame.literal(view.text)} · "
        f"{words.day(run['finished_at'])}. How much each source's loss counts in each epoch; at the end: "
        f"{frame.literal(said)}, a spread of {spread:.3f}. Dotted: all sources alike."
    )


def _method(runs: pd.DataFrame) -> Choice:
    found = {choice.label: choice for choice in choices(runs)}
    if len(found) == 1:
        return next(iter(found.values()))
    return found[frame.choose("Method", list(found), "attention-method")]
