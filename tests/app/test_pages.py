"""Every page with a filled store, an empty one, wrong addresses and a role that may only look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import delete
from streamlit.testing.v1 import AppTest

from app import auth, queries
from cmr_core.spec import MethodChoice
from tests.app import seed
from worker.settings import get_settings
from worker.store.audit import Actor
from worker.store.session import Store
from worker.store.studies import launch_study
from worker.store.tables import ArtifactRow

PAGES = ("home", "studies", "study", "launch", "runs", "run", "compare", "inspect", "markets", "methods")
Open = Callable[..., AppTest]


def said(app: AppTest) -> str:
    """All text on the page, one line per element."""
    shown = [*app.title, *app.header, *app.subheader, *app.markdown, *app.caption]
    shown += [*app.error, *app.warning, *app.info, *app.success]
    return "\n".join(str(element.value) for element in shown)


def check(app: AppTest) -> None:
    """The page came to its end and met no error that it did not expect."""
    assert not app.exception
    assert "did not expect" not in said(app)
    assert len(app.title) == 1


def run_in(store: Store, state: str, **narrow: object) -> str:
    runs, _ = queries.runs(store, states=[state], **narrow)  # type: ignore[arg-type]
    return str(runs["id"].iloc[0])


@pytest.mark.parametrize("page", PAGES)
def test_page_opens(store: Store, open_page: Open, page: str) -> None:
    app = open_page(page)
    check(app)
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_empty_store_says_what_to_do(use: Callable[[Path], Store], tmp_path: Path, open_page: Open, page: str) -> None:
    seed.empty(tmp_path)
    use(tmp_path)
    app = open_page(page)
    check(app)
    assert not app.error
    words = said(app)
    assert "./cmr data" in words or "Launch a study" in words or "Pick one" in words


@pytest.mark.parametrize("page", PAGES)
def test_store_without_tables_is_no_traceback(
    use: Callable[[Path], Store], tmp_path: Path, open_page: Open, page: str
) -> None:
    use(tmp_path)
    app = open_page(page)
    assert not app.exception
    if page not in ("run", "study"):
        assert "./cmr up" in said(app)


HOSTILE = ("", "nope", "<script>alert(1)</script>", "../../etc/passwd", "%00", "a" * 5000, "'; DROP TABLE run; --")
PARAMETERS = {
    "run": ("id",),
    "runs": ("study", "state", "method", "market"),
    "launch": ("run", "study"),
    "compare": ("corpus", "protocol", "metric", "k", "view", "row", "target", "against"),
    "inspect": ("corpus", "protocol", "market", "run", "metric", "order", "user", "why", "rank"),
    "markets": ("corpus",),
    "methods": ("method", "corpus", "protocol"),
    "study": ("study",),
}
CASES = [
    (page, name, HOSTILE[(at + shift) % len(HOSTILE)])
    for page, names in PARAMETERS.items()
    for at, name in enumerate(names)
    for shift in (1, 3)
]


@pytest.mark.parametrize(("page", "name", "value"), CASES)
def test_wrong_address_is_told_kindly(store: Store, open_page: Open, page: str, name: str, value: str) -> None:
    app = open_page(page, **{name: value})
    check(app)
    told = "is not there" in said(app) or "There is no" in said(app) or "is not the id" in said(app)
    assert told, said(app)
    assert "<script>" not in said(app).replace("\\<script\\>", "")


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "queued", "running"])
def test_run_page_in_each_state(store: Store, open_page: Open, state: str) -> None:
    app = open_page("run", id=run_in(store, state))
    check(app)
    words = said(app)
    expected = {
        "succeeded": "Finished",
        "failed": "Use a smaller learning rate",
        "cancelled": "Cancelled",
        "queued": "Waiting for a worker",
        "running": "Market",
    }
    assert expected[state] in words
    assert bool(app.error) == (state == "failed")


def test_run_page_shows_only_what_differs(store: Store, open_page: Open) -> None:
    app = open_page("run", id=run_in(store, "succeeded", methods=["lightgcn"]))
    (settings,) = [frame.value for frame in app.dataframe if "Setting" in frame.value.columns]
    assert set(settings["Setting"]) == {"dimensions", "teacher_epochs", "teacher_eval_every"}


def test_overview_shows_the_newest_comparison_and_what_goes_on(store: Store, open_page: Open) -> None:
    app = open_page("home")
    words = said(app)
    assert "synthetic · ratio 80/10/10 · catalogue · N " in words  # the study that finished last
    assert "1 running" in words
    assert "Leak audit of synthetic" in words
    assert len(app.get("plotly_chart")) == 1
    links = {str(link.proto.label): str(link.proto.query_string) for link in app.get("page_link")}
    failed = run_in(store, "failed")
    assert any("failed" in label and failed in address for label, address in links.items())
    assert "view=chart" in links["Compare these methods"]


def test_runs_that_go_on_come_first_and_waiting_ones_in_their_order(own: Store) -> None:
    launched = launch_study(own, seed.ANALYST, seed.study(name="third", targets=("uk", "fr"), seeds=(0,))).created
    runs, total = queries.runs(own, limit=6)
    assert total > 6
    assert list(runs["state"][:1]) == ["running"]
    waiting = runs[runs["state"] == "queued"]
    older = set(waiting["id"]) - set(launched)
    assert set(waiting["id"][: len(older)]) == older
    over = queries.runs(own, states=["succeeded", "failed", "cancelled"])[0]["finished_at"]
    assert over.is_monotonic_decreasing


def test_filters_wait_while_rows_are_ticked(store: Store, open_page: Open) -> None:
    app = open_page("runs")
    table = app.dataframe[0].value
    ticked = next(at for at, state in enumerate(table["State"]) if state != ["failed"])
    app.session_state["table-0"] = {"selection": {"rows": [ticked], "columns": [], "cells": []}}
    app.multiselect(key="state").set_value(["failed"]).run()
    check(app)
    assert list(app.dataframe[0].value["Run"]) == list(table["Run"])
    assert "filters that you change apply once none is" in said(app)
    app.session_state["table-0"] = {"selection": {"rows": [], "columns": [], "cells": []}}
    app.run()
    assert [state for (state,) in app.dataframe[0].value["State"]] == ["failed"]


def test_cancel_from_the_run_page(own: Store, open_page: Open) -> None:
    run_id = run_in(own, "queued")
    app = open_page("run", id=run_id)
    next(button for button in app.button if button.label == "Cancel").click().run()
    check(app)
    assert queries.run(own, run_id).state == "cancelled"
    assert "1 run cancelled" in said(app)


def test_retry_from_the_run_page(own: Store, open_page: Open) -> None:
    run_id = run_in(own, "failed")
    app = open_page("run", id=run_id)
    next(button for button in app.button if button.label == "Retry").click().run()
    assert queries.run(own, run_id).state == "queued"


def test_launch_queues_what_the_form_says(own: Store, open_page: Open) -> None:
    before = queries.runs(own)[1]
    app = open_page("launch")
    app.multiselect(key="methods-new").set_value(["popularity"]).run()
    app.multiselect(key="targets-new").set_value(["uk", "fr"]).run()
    assert [metric.value for metric in app.metric if metric.label == "New runs"] == ["2"]
    app.button(key="launch").click().run()
    check(app)
    assert queries.runs(own)[1] == before + 2
    assert set(queries.runs(own, states=["queued"])[0]["target"][-2:]) == {"uk", "fr"}
    assert "Launched 2 runs" in said(app)


@pytest.mark.parametrize(
    ("widget", "value", "told"),
    [
        ("seeds-new", "one, two", "is no seed"),
        ("seeds-new", "0-9999", "at most 20 seeds"),
        ("seeds-new", "3, 3", "different"),
        ("methods-new", [], "methods"),
        ("protocols-new", [], "protocols"),
    ],
)
def test_nonsense_is_refused_before_queueing(
    own: Store, open_page: Open, widget: str, value: object, told: str
) -> None:
    before = queries.runs(own)[1]
    app = open_page("launch")
    (found,) = [element for element in [*app.text_input, *app.multiselect] if element.key == widget]
    found.set_value(value).run()
    check(app)
    assert told in said(app)
    assert next(button for button in app.button if button.label == "Launch").disabled
    assert queries.runs(own)[1] == before


def test_clone_fills_the_form_with_the_run(store: Store, open_page: Open) -> None:
    run = queries.run(store, run_in(store, "succeeded", methods=["lightgcn"]))
    app = open_page("launch", run=run.id)
    check(app)
    (methods,) = [m for m in app.multiselect if m.label == "Methods"]
    assert methods.value == ["lightgcn"]
    (dimensions,) = [n for n in app.number_input if n.label == "Dimensions"]
    assert dimensions.value == 8
    assert [metric.value for metric in app.metric if metric.label == "New runs"] == ["0"]


def test_viewer_may_look_and_not_touch(own: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "actor", lambda: Actor("vera", "viewer"))
    app = open_page("launch")
    check(app)
    assert app.button(key="launch").disabled
    app = open_page("run", id=run_in(own, "queued"))
    assert next(button for button in app.button if button.label == "Cancel").disabled


def test_role_comes_from_the_settings(own: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMR_ROLE", "viewer")
    get_settings.cache_clear()
    assert auth.actor().role == "viewer"
    assert open_page("launch").button(key="launch").disabled
    assert next(b for b in open_page("home").button if b.label == "Launch a study").disabled
    app = open_page("markets")
    assert "may look, and not add" in said(app)
    assert not app.get("file_uploader")
    monkeypatch.setenv("CMR_ROLE", "king")
    get_settings.cache_clear()
    with pytest.raises(ValidationError, match="role"):
        auth.actor()


def test_forged_click_is_refused_by_the_store(own: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "actor", lambda: Actor("vera", "viewer"))
    monkeypatch.setattr(auth, "allowed", lambda action: True)
    before = queries.runs(own)[1]
    app = open_page("launch")
    app.multiselect(key="methods-new").set_value(["popularity"]).run()
    app.button(key="launch").click().run()
    check(app)
    assert "may not launch" in said(app)
    assert queries.runs(own)[1] == before


@pytest.mark.parametrize("view", ["table", "chart", "tradeoff", "richness", "groups", "wins", "beyond"])
@pytest.mark.parametrize("cutoff", ["5", "10"])
def test_each_view_names_protocol_n_and_date(store: Store, open_page: Open, view: str, cutoff: str) -> None:
    app = open_page("compare", view=view, metric="recall", k=cutoff)
    check(app)
    assert not app.warning
    assert not app.error
    (caption,) = [str(c.value) for c in app.caption if f"Recall@{cutoff}" in str(c.value)]
    assert "events 80/10/10" in caption
    assert " test users" in caption
    assert "newest run 20" in caption


def test_selection_reaches_the_address(store: Store, open_page: Open) -> None:
    app = open_page("compare")
    app.selectbox(key="metric").set_value("mrr").run()
    assert app.query_params["metric"] == "mrr"
    app.selectbox(key="metric").set_value("ndcg").run()
    assert "metric" not in app.query_params  # the default needs no place in the address


def test_address_that_changes_changes_the_page(store: Store, open_page: Open) -> None:
    app = open_page("compare", metric="mrr")
    app.query_params["metric"] = "recall"  # as Back and Forward do
    app.run()
    assert app.selectbox(key="metric").value == "recall"


def test_inspect_marks_hits_and_says_why(store: Store, open_page: Open) -> None:
    app = open_page("inspect", order="easiest")
    check(app)
    lists = [table.value for table in app.table if "Because" in table.value.columns]
    assert len(lists) == 3
    assert any((shown["Hit"] != "").any() for shown in lists)
    assert all(shown["Because"].str.len().gt(0).all() for shown in lists)
    assert "add up to the score exactly" in said(app)


def test_pages_judge_by_what_the_protocol_has(own: Store, open_page: Open) -> None:
    protocols = [{}, {"evaluation": {"cutoffs": [3], "select": "ndcg@3"}}]
    methods = [MethodChoice(method="popularity")]
    third = seed.study(name="third", targets=("de",), seeds=(0,), methods=methods, protocols=protocols)
    launched = launch_study(own, seed.ANALYST, third)
    (run,) = launched.created  # under the first protocol it has run for another study
    seed.execute(own, run)
    protocol = queries.run(own, run).protocol[:12]
    app = open_page("inspect", protocol=protocol)
    check(app)
    assert not app.error
    assert app.selectbox(key="metric").value == "ndcg@3"
    app = open_page("study", study=launched.study_id, protocol=protocol)
    check(app)
    assert app.selectbox(key="k").options == ["3"]
    assert len(app.table) == 1


def test_rows_rest_on_the_splits_that_they_share(own: Store, open_page: Open) -> None:
    split = {"kind": "leave-one-out", "each_seed": True}
    methods = [MethodChoice(method="popularity"), MethodChoice(method="ease", settings={"tune": False})]
    spec = seed.study(name="half", targets=("de",), seeds=(0, 1), methods=methods, protocols=[{"split": split}])
    launched = launch_study(own, seed.ANALYST, spec)
    for run in launched.created[:3]:  # the fourth is missing: EASE has the split of seed 0 only
        seed.execute(own, run)
    address = {"protocol": queries.run(own, launched.created[0]).protocol[:12]}
    for app in (open_page("compare", **address), open_page("study", study=launched.study_id)):
        check(app)
        assert "1 of 3 runs is left out" in said(app)
        assert "up to 1 seed" in said(app)
    for app in (open_page("home"), open_page("methods", method="popularity", **address)):
        check(app)
        assert "1 of 3 runs is left out" in said(app)
    app = open_page("compare", row="Popularity", **address)  # alone it has both
    assert "left out" not in said(app)
    assert "up to 2 seeds" in said(app)


def test_inspect_shows_runs_of_one_seed_where_each_has_its_own_split(own: Store, open_page: Open) -> None:
    split = {"kind": "leave-one-out", "each_seed": True}
    methods = [MethodChoice(method="popularity"), MethodChoice(method="ease", settings={"tune": False})]
    spec = seed.study(name="each", targets=("de",), seeds=(0, 1), methods=methods, protocols=[{"split": split}])
    launched = launch_study(own, seed.ANALYST, spec)
    assert len(launched.created) == 4
    for run in launched.created:
        seed.execute(own, run)
    address = {"market": "de", "protocol": queries.run(own, launched.created[0]).protocol[:12]}
    app = open_page("inspect", **address)
    check(app)
    assert app.selectbox(key="seed").options == ["0", "1"]
    first = [table.value for table in app.table]
    app = open_page("inspect", seed="1", **address)
    check(app)
    assert not app.error
    assert all(option.endswith("seed 1") for option in app.multiselect(key="run").options)
    assert len(app.multiselect(key="run").options) == 2
    assert any(not one.value.equals(other) for one, other in zip(app.table, first, strict=True))


def test_inspect_without_a_model_shows_the_stored_list_and_no_reasons(own: Store, open_page: Open) -> None:
    found = queries.runs(own, states=["succeeded"], targets=["de"])[0].drop_duplicates("method").set_index("method")
    runs = [str(found.at[method, "id"]) for method in ("ease", "lightgcn")]
    with own.begin() as session:
        session.execute(delete(ArtifactRow).where(ArtifactRow.run_id == runs[1], ArtifactRow.kind == "model"))
    address = {"market": "de", "protocol": queries.run(own, runs[0]).protocol[:12]}
    app = open_page("inspect", run=runs, **address)
    check(app)
    assert ["Because" in table.value.columns for table in app.table] == [True, False]
    assert len(app.table[1].value) == 10
    assert "The list is the stored one, and there are no reasons: Run" in said(app)
    assert app.selectbox(key="why").options == ["EASE (tune=False), seed 0"]
    app = open_page("inspect", run=runs[1], **address)
    check(app)
    assert not app.error
    assert "why" not in [box.key for box in app.selectbox]


def test_unexpected_error_has_a_number_and_no_traceback(
    store: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(queries, "workers", broken)
    app = open_page("home")
    assert not app.exception
    (error,) = app.error
    assert "number" in error.value
    assert "secret" not in error.value
    assert "secret detail" in caplog.text
