"""The figures of vectors and of attention: their numbers by hand, and the page in every state of a picture."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from app import charts
from app.figures import embedding as figure
from app.study import attention, embedding
from cmr_core.data.synthetic import synthetic
from cmr_core.spec import StudySpec
from tests.app import seed
from tests.app.study_seed import choice, spec
from worker.settings import get_settings
from worker.store.clock import later
from worker.store.corpora import add_corpus
from worker.store.pictures import PictureSpec, ask_picture, draw_picture
from worker.store.session import Store
from worker.store.studies import launch_study
from worker.store.tables import PictureRow, RunRow

Open = Callable[..., AppTest]
EASE: dict[str, Any] = {"tune": False}
TEACHER: dict[str, Any] = {"dimensions": 8, "teacher_epochs": 4, "teacher_eval_every": 2}
ACMR: dict[str, Any] = {
    "dimensions": 8, "layers": 2, "heads": 2, "length": 8, "epochs": 1, "eval_every": 1, "finetune": False,
    "valid_users": 10,
}  # fmt: skip
PROMPTS = TEACHER | {"backbone_epochs": 2, "epochs": 3, "prompts": 3}
LOOK = spec(
    "look", ("embedding", "attention"),
    [
        choice("ease", **EASE), choice("lightgcn", "LightGCN", **TEACHER), choice("dcmpt", "DCMPT", **PROMPTS),
        choice("acmr", "ACMR", **ACMR),
    ],
    sources=("de", "jp"),
)  # fmt: skip
PLAIN = spec("plain", ("embedding", "attention"), [choice("ease", **EASE)], targets=("jp",))


def made(store: Store, study: StudySpec) -> None:
    for run_id in launch_study(store, seed.ANALYST, study).created:
        seed.execute(store, run_id)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished studies; no picture yet."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("pictures")
    store = seed.empty(home)
    add_corpus(store, seed.ANALYST, synthetic(seed=0, scale=0.04), "made from a seed, for tests")
    made(store, LOOK)
    made(store, PLAIN)
    store.close()
    return home


@pytest.fixture
def store(use: Callable[[Path], Store], drawn: Path, tmp_path: Path) -> Store:
    shutil.copytree(drawn, tmp_path / "home")
    return use(tmp_path / "home")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys that the page sends to a worker."""
    keys: list[str] = []

    def send(key: str) -> bool:
        keys.append(key)
        return True

    monkeypatch.setattr(figure, "send_picture", send)
    return keys


def study(store: Store, name: str) -> str:
    from app import queries

    found = queries.studies(store)
    return str(found.loc[found["name"] == name, "id"].iloc[0])


def said(app: AppTest) -> str:
    assert not app.exception
    shown = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.error, *app.warning, *app.info]
    text = "\n".join(str(element.value) for element in shown)
    assert "did not expect" not in text
    return text


def runs_of(store: Store, method: str) -> tuple[str, ...]:
    with store.read() as session:
        rows = session.query(RunRow.id).filter(RunRow.method == method, RunRow.state == "succeeded")
        return tuple(row.id for row in rows.order_by(RunRow.target))


# --- numbers by hand


def test_entropy_of_uniform_and_of_single_shares() -> None:
    shares = np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(attention.entropy(shares), [1.0, 0.0, 0.5], atol=1e-6)
    assert attention.entropy(np.ones((2, 1), dtype=np.float32)).tolist() == [1.0, 1.0], "one prompt is for everybody"


def test_nodes_with_one_prompt_each_differ_and_equal_nodes_do_not() -> None:
    own, same = np.eye(2, dtype=np.float32), np.array([[0.9, 0.1]] * 2, dtype=np.float32)
    found = attention.summary({"own": own, "same": same}).set_index("market")
    assert found.loc["own", "differ"] == pytest.approx(1.0)
    assert found.loc["own", "entropy"] == pytest.approx(0.0)
    assert found.loc["same", "differ"] == pytest.approx(0.0, abs=1e-6)
    assert found["n"].tolist() == [2, 2]


def test_entropy_is_said_in_words() -> None:
    found = pd.DataFrame({"market": ["de", "jp"], "entropy": [0.99, 0.4]})
    text = attention.in_words(found)
    assert "Nearly uniform in de (0.99)" in text
    assert "prefer some prompts in jp (0.40)" in text


def test_two_sets_of_prompts_are_kept_apart() -> None:
    user, item = np.array([[0.7, 0.3, 0, 0]]), np.array([[0, 0, 0.2, 0.8]])
    found = attention.sides(user, item)
    assert found["user"].tolist() == [[0.7, 0.3]]
    assert found["item"].tolist() == [[0.2, 0.8]]
    shared = attention.sides(user, user)
    assert shared["item"].shape == (1, 4), "one set: users and items share it"


def test_takers_are_those_with_the_largest_share() -> None:
    shares = np.array([[0.1, 0.9], [0.6, 0.4], [0.3, 0.7]])
    table = attention.takers(shares, np.array(["a", "b", "c"], dtype=object), most=2)
    assert table["prompt 1"].tolist() == ["b (60%)", "c (30%)"]
    assert table["prompt 2"].tolist() == ["a (90%)", "c (70%)"]
    means = attention.mean_shares({"de": shares})
    np.testing.assert_allclose(means.loc["de"], [1 / 3, 2 / 3])


def test_candidates_are_held_out_items_then_the_list() -> None:
    held = pd.DataFrame({"user": [1, 2], "item": [5, 9], "item_id": ["e", "i"], "rank": [2, 7]})
    top = pd.DataFrame({"user": [1, 1, 2], "rank": [2, 1, 1], "item": [5, 7, 3], "item_id": ["e", "g", "c"]})
    assert attention.candidates(held, top, 1) == {5: "e · held out, rank 2", 7: "g · recommended, rank 1"}
    assert attention.candidates(held, top, 3) == {}
    assert attention.place_names([-1, 1], np.array(["a", "b"], dtype=object)) == ["no history", "▸ b"]


def test_a_picture_takes_the_first_seed_and_knows_what_is_missing() -> None:
    wanted = pd.DataFrame(
        [("A", "jp", 0, "succeeded", "r1"), ("A", "de", 0, "running", "r2"), ("A", "de", 1, "succeeded", "r3")],
        columns=["label", "target", "seed", "state", "run_id"],
    )
    (found,) = embedding.choices(wanted)
    assert found.seed == 0
    assert found.runs["run_id"].tolist() == ["r1"]
    assert found.wanted["run_id"].tolist() == ["r1", "r2"]


def test_separations_are_a_row_per_picture() -> None:
    results: dict[str, dict[str, Any]] = {
        "A": {"separation": 0.5, "silhouette": {"de": 0.4, "jp": 0.6}},
        "B": {"separation": None, "silhouette": {}},
    }
    table = embedding.separations(results)
    assert table.columns.tolist() == ["Picture", "All", "de", "jp"]
    assert table.loc[0, "de"] == 0.4
    assert table["All"].isna().tolist() == [False, True]


# --- figures


def test_scatter_has_a_colour_per_market_and_a_symbol_where_colours_repeat() -> None:
    markets = [f"m{at:02d}" for at in range(10)]
    points = pd.DataFrame(
        {"market": ["m00", "m08", "m08"], "x": [0.0, 1, 2], "y": [0.0, 1, 2], "name": ["a", "b", "c"]}
    )
    first, second = charts.scatter(points, charts.series_colors(markets)).data
    assert first.marker.color == second.marker.color
    assert first.marker.symbol != second.marker.symbol
    assert list(second.customdata) == ["b", "c"]


def test_attention_keeps_places_whose_names_repeat() -> None:
    weights = np.array([[0.5, 0.5], [0.1, 0.9]])
    drawn = charts.attention(weights, ["a", "a"])
    assert list(drawn.layout.xaxis.ticktext) == ["a", "a"]
    assert np.asarray(drawn.data[0].z).tolist() == weights.tolist()


def test_weights_have_a_line_per_source() -> None:
    points = pd.DataFrame({"source": ["de", "uk"] * 2, "step": [1, 1, 2, 2], "value": [0.5, 0.5, 0.2, 0.8]})
    drawn = charts.weights(points, charts.series_colors(["de", "jp", "uk"]))
    assert {line.name: list(line.y) for line in drawn.data} == {"de": [0.5, 0.2], "uk": [0.5, 0.8]}
    assert drawn.layout.shapes[0].y0 == 0.5


# --- the page


def test_pictures_are_asked_for_drawn_and_kept(store: Store, open_page: Open, sent: list[str]) -> None:
    address = study(store, "look")
    app = open_page("study", study=address)
    text = said(app)
    assert "No worker has drawn these pictures yet" in text
    assert "Without vectors: EASE" in text
    button = app.button(key="draw-pictures")
    assert button.label == "Draw 3 pictures"
    button.click().run()
    assert "3 pictures queued" in said(app)
    assert "No worker is alive" in said(app)
    assert len(set(sent)) == 3
    for key in sent:
        draw_picture(store, key)
    app = open_page("study", study=address)
    text = said(app)
    assert "queued" not in text
    assert text.count("Separation **") == 4, "DCMPT has one without and one with prompts"
    assert "DCMPT, without prompts" in text
    assert "keep neighbourhoods, not distances" in text
    assert "drawn with seed 0" in text
    assert "draw-pictures" not in [button.key for button in app.button], "nothing is left to draw"


def test_a_fault_is_told_and_may_be_asked_again(
    store: Store, open_page: Open, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    app = open_page("study", study=study(store, "look"), reduction="umap", pictures="LightGCN", vectors="user")
    app.button(key="draw-pictures").click().run()
    draw_picture(store, sent[0])
    app.run()
    assert "Not drawn: LightGCN" in said(app)
    assert "UMAP is not installed" in said(app)
    app.button(key="ask-again-0").click().run()
    assert sent == [sent[0]] * 2
    assert "1 picture queued" in said(app)


def test_a_broker_that_is_away_is_said_and_the_message_can_be_sent_later(
    store: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "send_picture", lambda key: False)
    app = open_page("study", study=study(store, "look"), pictures="LightGCN")
    app.button(key="draw-pictures").click().run()
    assert "The queue does not answer" in said(app)
    with store.begin() as session:
        session.execute(update(PictureRow).values(asked_at=later(-120.0)))
    app.run()
    assert app.button(key="send-again").label == "Send again"


def test_a_viewer_sees_pictures_and_may_not_ask(
    store: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    runs = PictureSpec(runs=runs_of(store, "lightgcn"))
    key, _ = ask_picture(store, seed.ANALYST, runs)
    draw_picture(store, key)
    monkeypatch.setenv("CMR_ROLE", "viewer")
    get_settings.cache_clear()
    app = open_page("study", study=study(store, "look"))
    assert "Separation **" in said(app)
    assert app.button(key="draw-pictures").disabled
    assert not sent


def test_attention_of_a_history(store: Store, open_page: Open) -> None:
    app = open_page("study", study=study(store, "look"))
    text = said(app)
    assert "▸ marks the candidate" in text
    assert "a layer that looks at all of them alike" in text
    users = app.selectbox(key="attention-user-de").options
    counts = [int(option.split(" · ")[1].split()[0]) for option in users]
    assert counts == sorted(counts, reverse=True)
    app.selectbox(key="attention-layer").select("1").run()
    app.selectbox(key="attention-head").select("2").run()
    assert "a layer that looks at all of them alike" in said(app)


def test_prompts_and_sources(store: Store, open_page: Open) -> None:
    app = open_page("study", study=study(store, "look"), attention="prompts")
    text = said(app)
    assert "Entropy: of a node's shares" in text
    tables = [element.value for element in app.dataframe]
    entropy = next(table for table in tables if "Entropy" in table)
    assert entropy["Market"].tolist() == ["de", "jp"]
    assert entropy["Entropy"].between(0, 1).all()
    assert any(list(table.columns) == ["prompt 1", "prompt 2", "prompt 3"] for table in tables)
    app = open_page("study", study=study(store, "look"), attention="sources", **{"attention-target": "jp"})
    assert "target jp" in said(app)
    assert "at the end: de 1.000" in said(app)


def test_a_study_without_vectors_and_attention_says_so(store: Store, open_page: Open) -> None:
    text = said(open_page("study", study=study(store, "plain")))
    assert "No method that learns vectors has finished a run." in text
    assert "No run of ACMR or DCMPT" in text


def test_inspect_shows_what_acmr_looks_at(store: Store, open_page: Open) -> None:
    app = open_page("inspect", market="de", run=runs_of(store, "acmr")[0])
    text = said(app)
    assert "What the layers look at in the user's items" in [box.label for box in app.expander]
    assert "▸ marks the candidate" in text
