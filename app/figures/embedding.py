"""How the vectors of markets lie to each other (DCMPT paper, figure 6; ACMR paper, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd
import streamlit as st

from app import actions, auth, cached, charts, exports, frame, queries, words
from app.figures import shared
from app.study import embedding
from app.study.embedding import Choice
from app.study.view import View
from cmr_core.spec import JobSpec, parse
from worker.queue import send_picture
from worker.store.pictures import PictureSpec, ask_picture, find_picture, load_points
from worker.store.session import Store
from worker.store.tables import PictureRow

FIRST = 8  # configurations that are shown where nobody chose
WITHOUT = ("item-item", "blend", "boosted")  # shapes that have no vectors
KINDS = {"item": "Items", "user": "Users"}
REDUCTIONS = {"t-sne": "t-SNE", "umap": "UMAP"}
IMPATIENT = 60.0  # seconds in the queue after which a message may be sent again
NOTE = (
    "Pictures keep neighbourhoods, not distances: points that lie close have similar vectors; gaps between groups and "
    "the size of a group mean nothing. Separation: mean silhouette of the whole vectors by cosine distance, from -1 "
    "(lies among other markets) over 0 (mixed) to 1 (lies apart). Models that were trained each on one market have "
    "axes of their own: that such markets lie apart says nothing about them."
)


@dataclass(frozen=True)
class Picture:
    """What is to be drawn of a configuration, and how far that is."""

    choice: Choice
    spec: PictureSpec
    row: PictureRow | None  # None: nobody has asked for it

    @property
    def key(self) -> str:
        """Under which the store keeps it."""
        return self.spec.digest()


def draw(view: View, store: Store) -> None:
    """A picture per configuration and stage, a button that asks for those that are not there, and the separations."""
    chosen = _choose(view, store)
    if not chosen:
        return
    left, right, place = st.columns([2, 2, 3], vertical_alignment="bottom")
    with left:
        kind = _switch("Vectors of", KINDS, "vectors")
    with right:
        reduction = _switch("Picture by", REDUCTIONS, "reduction")
    pictures = [_find(store, choice, kind, reduction) for choice in chosen]
    with place:
        _button(store, pictures)
    actions.show_notes()
    _waiting(store, pictures)
    _failed(store, pictures)
    done = [picture for picture in pictures if picture.row is not None and picture.row.state == "done"]
    if done:
        _pictures(view, store, done)
    elif all(picture.row is None for picture in pictures):
        st.caption("No worker has drawn these pictures yet. It takes some seconds each, and they are kept.")
    shared.partial(pd.concat([choice.wanted for choice in chosen]).drop_duplicates("run_id"))


def _switch(label: str, options: Mapping[str, str], key: str) -> str:
    return frame.choose(
        label, list(options), key, text=options.__getitem__, control=st.segmented_control, required=True
    )


def _choose(view: View, store: Store) -> list[Choice]:
    known = {choice.label: choice for choice in embedding.choices(view.wanted())}
    ready = {label: choice for label, choice in known.items() if len(choice.runs)}
    shapes = {label: queries.run(store, str(choice.runs["run_id"].iloc[0])).shape for label, choice in ready.items()}
    fitting = [label for label in ready if shapes[label] not in WITHOUT]
    if not fitting:
        shared.nothing(view, view.wanted(), "No method that learns vectors has finished a run.")
        return []
    picked = frame.choose_many(
        "Configurations", fitting, "pictures", placeholder="All" if len(fitting) <= FIRST else f"The first {FIRST}"
    )
    without = [label for label in ready if label not in fitting]
    if without:
        st.caption(f"Without vectors: {frame.literal(', '.join(without))}.")
    return [ready[label] for label in picked or fitting[:FIRST]]


def _find(store: Store, choice: Choice, kind: str, reduction: str) -> Picture:
    spec = PictureSpec(
        runs=tuple(choice.runs["run_id"]),
        kind=cast(Literal["user", "item"], kind),
        reduction=cast(Literal["t-sne", "umap"], reduction),
    )
    return Picture(choice, spec, find_picture(store, spec.digest()))


def _button(store: Store, pictures: Sequence[Picture]) -> None:
    new = [picture for picture in pictures if picture.row is None]
    if not new:
        return
    text = f"Draw {words.plural(len(new), 'picture')}"
    if st.button(text, disabled=not auth.allowed("draw picture"), key="draw-pictures"):
        _ask(store, new)


def _ask(store: Store, pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        key, _ = ask_picture(store, auth.actor(), picture.spec)
        if not send_picture(key):  # a message too many does no harm: a picture that is there is not drawn again
            actions.note("The queue does not answer. Start it with `./cmr up`, then press “Send again”.", good=False)
            break
    st.rerun()


def _waiting(store: Store, pictures: Sequence[Picture]) -> None:
    waiting = [
        picture for picture in pictures if picture.row is not None and picture.row.state in ("queued", "drawing")
    ]
    if not waiting:
        return
    _live(store, {picture.key: picture.choice.label for picture in waiting})
    asked = [picture.row.asked_at for picture in waiting if picture.row is not None]
    if (queries.clock(store) - min(asked)).total_seconds() > IMPATIENT:
        _again(store, waiting, "Send again", "send-again")


@st.fragment(run_every=2.0)
def _live(store: Store, labels: Mapping[str, str]) -> None:
    rows = {key: find_picture(store, key) for key in labels}
    states = {key: "gone" if row is None else row.state for key, row in rows.items()}
    if not set(states.values()) <= {"queued", "drawing"}:
        st.rerun()
    drawing = [labels[key] for key, state in states.items() if state == "drawing"]
    said = [f"{words.plural(len(labels) - len(drawing), 'picture')} queued"] if len(drawing) < len(labels) else []
    said += [f"drawing {frame.literal(', '.join(drawing))}"] if drawing else []
    alive = "" if len(queries.workers(store)) else ". No worker is alive: start one with `./cmr worker`"
    st.info(f":material/hourglass_top: {', '.join(said)}{alive}.")


def _failed(store: Store, pictures: Sequence[Picture]) -> None:
    by_message: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.row is not None and picture.row.state == "failed":
            by_message.setdefault(picture.row.message or "It failed without a word.", []).append(picture)
    for at, (message, group) in enumerate(by_message.items()):
        labels = ", ".join(picture.choice.label for picture in group)
        st.warning(f"**Not drawn: {frame.literal(labels)}.** {frame.literal(message)}")
        _again(store, group, "Ask again", f"ask-again-{at}")


def _again(store: Store, pictures: Sequence[Picture], text: str, key: str) -> None:
    if st.button(text, key=key, disabled=not auth.allowed("draw picture")):
        _ask(store, pictures)


def _pictures(view: View, store: Store, done: Sequence[Picture]) -> None:
    colors, results, sizes = charts.series_colors(list(view.markets)), {}, []
    tiles = [(picture, stage, title) for picture in done for stage, title in _stages(picture).items()]
    for at in range(0, len(tiles), 2):
        for column, (picture, stage, title) in zip(st.columns(2, gap="medium"), tiles[at : at + 2], strict=False):
            found = _result(picture)[stage]
            results[title] = found
            points = _points(picture.key, stage)
            sizes += list(points.groupby("market").size())
            with column, st.container(border=True, height="stretch"):
                st.markdown(f"**{frame.literal(title)}**")
                name = f"{view.spec.name}-{picture.spec.kind}s-{at}"
                key = f"picture-{picture.key[:12]}-{stage}"
                st.plotly_chart(charts.scatter(points, colors), config=charts.config(name), key=key)
                st.caption(_separation(found, len(points)))
    _table(view, results)
    seeds = sorted({picture.choice.seed for picture in done})
    last = max(picture.row.ended_at for picture in done if picture.row is not None and picture.row.ended_at is not None)
    spec = done[0].spec
    many = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    st.caption(
        f"{KINDS[spec.kind]} · {REDUCTIONS[spec.reduction]} by cosine distance · N {many} points per market, drawn "
        f"with seed {spec.seed} · runs of seed {', '.join(map(str, seeds))} · {frame.literal(view.text)} · "
        f"{words.day(last)}. {NOTE}"
    )


def _result(picture: Picture) -> dict[str, Any]:
    return {} if picture.row is None else picture.row.result or {}


def _stages(picture: Picture) -> dict[str, str]:
    return embedding.titles(picture.choice.label, list(_result(picture)))


@st.cache_resource(show_spinner=False, max_entries=64)
def _points(key: str, stage: str) -> pd.DataFrame:
    """The points of a finished picture's stage, with names to hover over; not to be changed."""
    store = frame.get_store()
    row = find_picture(store, key)
    assert row is not None
    spec, points = parse(PictureSpec, row.spec), load_points(store, row)
    mine = points[points["stage"] == stage].reset_index(drop=True)
    job = parse(JobSpec, queries.run(store, spec.runs[0]).spec)
    return mine.assign(
        name=embedding.names(mine, spec.kind, cached.split(job.corpus, job.drawn().split), cached.corpus(job.corpus))
    )


def _separation(found: Mapping[str, Any], n: int) -> str:
    if found["separation"] is None:
        return f"N {words.count(n)} points. One market alone: there is nothing to stand apart from."
    parts = ", ".join(f"{market} {value:.2f}" for market, value in found["silhouette"].items())
    return f"Separation **{found['separation']:.2f}** · {parts} · N {words.count(n)} points"


def _table(view: View, results: Mapping[str, Mapping[str, Any]]) -> None:
    table = embedding.separations(results)
    if len(table) < 2 or table["All"].isna().all():
        return
    with st.expander("Separation of all pictures in numbers"):
        numbers = {name: st.column_config.NumberColumn(format="%.3f") for name in table.columns[1:]}
        st.dataframe(table, hide_index=True, column_config=numbers)
        data = exports.csv(table, [view.text, f"study {view.spec.name} {view.study_id}"])
        st.download_button(
            "CSV", data, f"{view.spec.name}-separation.csv", "text/csv", on_click="ignore", key="separation-csv"
        )
