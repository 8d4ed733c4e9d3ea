"""The pages Studies and Study over finished, failed and waiting runs; launching, copying, exporting, importing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import and_, or_, update
from streamlit.testing.v1 import AppTest

from app import auth, charts, figures, forms, queries, study_files
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import CmrError, NotFoundError, NotPermittedError
from cmr_core.spec import FigureKind
from tests.app import seed, study_seed
from tests.app.test_pages import check, said
from worker.store.audit import Actor
from worker.store.corpora import add_corpus, list_corpora, load_corpus, market_names
from worker.store.runs import list_runs
from worker.store.session import Store
from worker.store.studies import list_studies, study_spec
from worker.store.tables import RunRow

Open = Callable[..., AppTest]


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a study for each figure, not to be changed."""
    home = tmp_path_factory.mktemp("studied")
    study_seed.fill(home).close()
    return home


@pytest.fixture
def done(use: Callable[[Path], Store], studied: Path) -> Store:
    """That store, for reading."""
    return use(studied)


@pytest.fixture
def mine(use: Callable[[Path], Store], studied: Path, tmp_path: Path) -> Store:
    """A copy of it, for changing."""
    shutil.copytree(studied, tmp_path / "home")
    return use(tmp_path / "home")


def id_of(store: Store, name: str) -> str:
    return next(row.id for row in list_studies(store) if row.name == name)


# --- the page of a study --------------------------------------------------------------------------------------------


def test_every_kind_has_a_title_and_a_renderer() -> None:
    kinds = set(FigureKind.__args__)  # type: ignore[attr-defined]
    assert set(figures.TITLES) == set(figures.RENDERERS) == kinds


@pytest.mark.parametrize("name", ["table", "parts", "knobs", "help"])
def test_each_figure_names_metric_protocol_n_seeds_and_date(done: Store, open_page: Open, name: str) -> None:
    study = id_of(done, name)
    app = open_page("study", study=study)
    check(app)
    assert not app.error
    kinds = study_spec(next(row for row in list_studies(done) if row.id == study)).figures
    assert [str(head.value) for head in app.subheader][: len(kinds)] == [figures.TITLES[kind] for kind in kinds]
    protocol = "ratio 80/10/10" if name in ("table", "parts") else "events 80/10/10"
    notes = [str(note.value) for note in app.caption if " test users · up to " in str(note.value)]
    assert notes
    assert all(protocol in note and "newest run 20" in note and "@10" in note for note in notes)


def test_published_numbers_stand_beside_ours_and_are_never_in_our_columns(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "table"))
    table = app.table[0].value
    assert [name for name in table.columns if name.endswith("paper")] == ["de, paper", "jp, paper", "uk, paper"]
    assert table.loc["LightGCN", "de, paper"] == "0.1389"
    assert "0.1389" not in table["de"].str.cat()
    only = [str(name).replace("\u00a0", " ") for name in table.index if "paper" in str(name)]
    assert "FOREC (paper only)" in only
    assert len(only) == 9
    app.toggle[0].set_value(False).run()
    assert not [name for name in app.table[0].value.columns if "paper" in name]


def test_another_metric_reaches_figures_and_address(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "table"), metric="mrr")
    check(app)
    assert any(str(note.value).startswith("MRR@10") for note in app.caption)
    assert "reports no MRR@10" in said(app)


def test_costs_are_judged_by_the_papers_metric(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "table"))
    costs = next(frame.value for frame in app.dataframe if "Parameters" in frame.value.columns)
    assert "Recall@10, paper" in costs.columns
    assert {"FOREC (paper only)", "EASE (tune=False)", "LightGCN"} <= set(costs["Method"])
    trained = costs.set_index("Method").loc["LightGCN"]
    assert trained["Epoch (s)"] > 0
    assert trained["In total (s)"] >= trained["Run (s)"] > 0


def test_what_is_missing_is_said_and_the_rest_is_drawn(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "parts"))
    assert "1 of 6 runs is missing: 1 failed." in said(app)
    assert "Not all runs ended well: 1 failed" in said(app)
    (table,) = [frame.value for frame in app.dataframe if "Variant" in frame.value.columns]
    assert set(zip(table["Variant"], table["Market"], strict=True)) < {
        (variant, market) for variant in ("w/o prompt", "w/o distillation") for market in ("de", "jp")
    }
    assert table["Difference in the paper"].notna().all()


def test_a_study_that_waits_says_so_and_what_comes(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "waiting"))
    check(app)
    assert "No run has finished yet" in said(app)
    assert "4 of 4 runs are missing: 4 waiting." in said(app)


def test_a_figure_that_its_study_cannot_fill_says_what_it_needs(own: Store, open_page: Open) -> None:
    kinds: tuple[FigureKind, ...] = ("ablation", "sensitivity", "market-transfer", "item-groups")
    study = seed.study(name="odd", figures=kinds, methods=[study_seed.choice("popularity")])
    launched = study_files.launch(own, study)[0]
    assert not launched.created  # a run of another study is shared
    app = open_page("study", study=launched.study_id)
    check(app)
    words = said(app)
    assert "itself and a variant of it" in words
    assert "several values of a setting" in words
    assert "learns from source markets" in words


def test_a_figure_whose_data_are_missing_leaves_the_others(
    done: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise NotFoundError("Run 'DCMPT' has no model.", hint="Import it with its models.")

    monkeypatch.setitem(figures.RENDERERS, "market-transfer", missing)
    app = open_page("study", study=id_of(done, "help"))
    check(app)
    assert [str(error.value) for error in app.error] == ["Run 'DCMPT' has no model."]
    assert len(app.table[0].value) == 2


def test_sensitivity_shows_levels_or_changes(done: Store, open_page: Open) -> None:
    study = id_of(done, "knobs")
    for how, words in (("level", "bootstrap interval over users"), ("change", "difference to the default")):
        app = open_page("study", study=study, sensitivity=how)
        check(app)
        assert words in said(app)
        assert len(app.get("plotly_chart")) == 2
    assert "neighbours = 100, shrinkage = 10" in said(app)


def test_defaults_are_found_as_numbers(mine: Store, open_page: Open) -> None:
    methods = [study_seed.gridded("ease", {"regularisation": [10, 100]}, **study_seed.EASE)]  # it has 100.0
    launched = study_files.launch(mine, study_seed.spec("whole", ("sensitivity",), methods))[0]
    assert not launched.created
    app = open_page("study", study=launched.study_id, sensitivity="change")
    check(app)
    assert "difference to the default on the same users" in said(app)
    assert "not among the values" not in said(app)
    assert len(app.get("plotly_chart")) == 1


def test_a_default_that_is_not_among_the_values_is_said(mine: Store, open_page: Open) -> None:
    methods = [
        study_seed.gridded("ease", {"regularisation": [1000, 10]}, **study_seed.EASE),
        study_seed.gridded("itemknn", {"neighbours": [20, 100], "shrinkage": [0, 10], "tune": [False]}),
    ]
    launched = study_files.launch(mine, study_seed.spec("other", ("sensitivity",), methods))[0]
    assert not launched.created
    app = open_page("study", study=launched.study_id, sensitivity="change")
    check(app)
    words = said(app)
    assert "None of the runs" not in words
    assert len(app.get("plotly_chart")) == 2
    missed = "the default regularisation = 100 is not among the values"
    assert f"{missed}, and the change is against regularisation = 1000." in words
    assert "At tune = False." in words
    assert "the default tune = True is not among the values." in words


def test_what_is_compared_with_and_has_not_finished_is_named(mine: Store, open_page: Open) -> None:
    with mine.begin() as session:
        base = RunRow.spec["settings"]["regularisation"].as_float() == 100
        session.execute(update(RunRow).where(RunRow.method == "ease", base).values(state="failed"))
    methods = [study_seed.gridded("ease", {"regularisation": [1000.0, 100.0]}, **study_seed.EASE)]
    study = study_seed.spec("other", ("sensitivity",), methods, targets=("de",))
    launched = study_files.launch(mine, study)[0]
    app = open_page("study", study=launched.study_id, sensitivity="change")
    check(app)
    assert "compared with have not finished: regularisation = 100." in said(app)


def test_parts_of_two_methods_that_share_a_variant_and_a_variant_without_a_common_market(
    mine: Store, open_page: Open
) -> None:
    grids = ([1000.0, 100.0], [10.0, 100.0])
    methods = [study_seed.gridded("ease", {"regularisation": values}, **study_seed.EASE) for values in grids]
    launched = study_files.launch(mine, study_seed.spec("twice", ("ablation",), methods))[0]
    app = open_page("study", study=launched.study_id)
    check(app)
    assert len(app.get("plotly_chart")) == 2
    with mine.begin() as session:
        value = RunRow.spec["settings"]["regularisation"].as_float()
        lost = or_(and_(value == 100, RunRow.target == "de"), and_(value == 1000, RunRow.target == "jp"))
        session.execute(update(RunRow).where(RunRow.method == "ease", lost).values(state="failed"))
    app = open_page("study", study=launched.study_id)
    check(app)
    assert "It needs EASE itself and a variant of it, finished on one market." in said(app)
    assert len(app.get("plotly_chart")) == 1


def test_a_market_has_its_colour_whatever_is_shown_beside_it(
    done: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = charts.series_colors(market_names(list_corpora(done)[0]))
    monkeypatch.setattr(charts, "MANY", 1)  # as with many methods: a series per market
    pages = [
        open_page("study", study=id_of(done, "knobs")),
        open_page("study", study=id_of(done, "table")),
        open_page("compare", view="chart", target=["jp", "uk"]),
    ]
    for app in pages:
        check(app)
        traces = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
        mine = {trace["name"]: (trace["line"] if "line" in trace else trace["marker"])["color"] for trace in traces}
        assert "jp" in mine
        assert mine == {name: known[name] for name in mine}


def test_sources_are_recommended_for_each_target(done: Store, open_page: Open) -> None:
    app = open_page("study", study=id_of(done, "help"))
    check(app)
    (advice,) = [str(text.value) for text in app.markdown if str(text.value).startswith("- **de**")]
    assert "- **jp**: " in advice
    assert "use " in advice
    assert "against EASE" in advice
    assert list(app.table[0].value.columns) == ["de", "jp", "mean"]  # runs with fewer sources stand in no table
    assert len(app.table[0].value) == 2


def test_copying_fills_the_form_with_sources_in_turn_and_figures(done: Store, open_page: Open) -> None:
    app = open_page("launch", study=id_of(done, "help"))
    check(app)
    chosen = {box.label: list(box.value) for box in app.multiselect}
    assert chosen["Which sources a run gets"] == ["all", "without-one", "only-one"]
    assert chosen["Figures, in this order"] == ["market-transfer", "table"]
    assert [metric.value for metric in app.metric if metric.label == "New runs"] == ["0"]


def test_the_trade_off_leaves_out_who_lacks_markets_and_names_the_diamonds(done: Store, open_page: Open) -> None:
    protocols = queries.protocols(done, list_corpora(done)[0].digest).set_index("text")["protocol"]
    address = {"view": "tradeoff", "protocol": protocols[protocols.index.str.startswith("ratio")].iloc[0][:12]}
    app = open_page("compare", **address)
    check(app)
    assert "Left out: 3 methods without runs in all 3 markets." in said(app)  # DCMPT and its variants
    app = open_page("compare", **address, metric="recall", market="uk")
    check(app)
    assert "Left out" not in said(app)
    assert "Open diamonds: DCMPT paper, table 3, under its own protocol" in said(app)


# --- the page of all studies ----------------------------------------------------------------------------------------


def test_launched_studies_show_progress_and_what_ended_badly(done: Store, open_page: Open) -> None:
    app = open_page("studies")
    check(app)
    table = app.dataframe[0].value.set_index("Name")
    assert table.at["help", "Ended"] == 1
    assert table.at["waiting", "Ended"] == 0
    assert table.at["waiting", "Remaining"] == "no worker is alive"
    assert table.at["parts", "Ended badly"] == "1 failed"
    assert table.at["help", "Study"] == "What about help?"


@pytest.mark.parametrize(("page", "key"), [("home", "studies"), ("studies", "launched")])
def test_a_tick_stays_on_its_study(mine: Store, open_page: Open, page: str, key: str) -> None:
    def names() -> list[str]:
        (table,) = [frame.value for frame in app.dataframe if "Study" in frame.value.columns]
        return list(table["Study"])

    app = open_page(page)
    app.session_state[key] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    ticked = id_of(mine, "help")
    assert names()[1] == "What about help?"
    study_files.launch(mine, study_seed.spec("newest", ("table",), [study_seed.choice("popularity")]))
    app.run()
    check(app)
    assert names()[1] == "What about help?"
    app.button(key="open").click().run()
    assert app.query_params["study"] in (ticked, [ticked])
    app = open_page(page)
    assert names()[0] == "What about newest?"


def test_work_left_is_known_from_earlier_runs(done: Store) -> None:
    progress = queries.study_progress(done)
    assert progress.at[id_of(done, "waiting"), "queued"] == 4
    assert progress.at[id_of(done, "waiting"), "seconds"] == 4 * 60  # neither method has ever run here
    assert progress.at[id_of(done, "help"), "seconds"] == 0


def test_one_click_launches_a_study_of_the_project(mine: Store, open_page: Open) -> None:
    app = open_page("studies")
    assert "these need the corpus xmarket-electronics" in said(app)
    assert app.button(key="launch-xmarket").disabled
    app.button(key="launch-sample").click().run()
    check(app)
    assert id_of(mine, "sample")
    assert re.search(r"Launched \d+ runs; \d+ were there already", said(app))


def test_a_viewer_may_look_and_not_launch(mine: Store, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "actor", lambda: Actor("vera", "viewer"))
    app = open_page("studies")
    assert app.button(key="launch-sample").disabled
    assert not app.get("file_uploader")
    assert "may look, and not bring studies" in said(app)
    before = len(list_studies(mine))
    with pytest.raises(NotPermittedError):
        study_files.launch(mine, study_seed.TABLE)
    with pytest.raises(NotPermittedError):
        study_files.export(mine, id_of(mine, "help"))
    assert len(list_studies(mine)) == before


def test_studies_without_data_say_what_they_need(use: Callable[[Path], Store], tmp_path: Path, open_page: Open) -> None:
    seed.empty(tmp_path)
    use(tmp_path)
    app = open_page("studies")
    check(app)
    assert "./cmr data fetch" in said(app)
    assert all(found.disabled for found in app.button if str(found.key).startswith("launch-"))


def test_a_card_notices_that_its_corpus_has_come(use: Callable[[Path], Store], tmp_path: Path, open_page: Open) -> None:
    seed.empty(tmp_path)
    store = use(tmp_path)
    app = open_page("studies")
    assert app.button(key="launch-xmarket").disabled
    add_corpus(store, seed.ANALYST, synthetic(scale=0.05, name="xmarket-electronics"), "fetched meanwhile")
    app.run()
    check(app)
    assert not app.button(key="launch-xmarket").disabled


def test_a_study_file_from_the_browser_is_offered(mine: Store, open_page: Open) -> None:
    app = open_page("studies")
    data = forms.study_yaml(study_seed.spec("brought", ("table",), [study_seed.choice("gf-cf")])).encode()
    app.get("file_uploader")[0].set_value([("brought.yaml", data, "application/yaml")]).run()
    check(app)
    app.button(key="launch-_file").click().run()
    assert id_of(mine, "brought")
    assert {run.method for run in list_runs(mine, study_id=id_of(mine, "brought"))} == {"gf-cf"}


@pytest.mark.parametrize("name", ["bad.yaml", "bad.zip"])
def test_a_file_that_is_no_study_is_told_and_stores_nothing(mine: Store, open_page: Open, name: str) -> None:
    before = len(list_studies(mine))
    app = open_page("studies")
    app.get("file_uploader")[0].set_value([(name, b"nonsense: [", "application/octet-stream")]).run()
    if name.endswith("zip"):
        app.button(key="import").click().run()
    assert not app.exception
    assert app.error
    assert "Nothing was stored" in said(app)
    assert len(list_studies(mine)) == before


def test_an_exported_study_comes_in_with_its_figures(
    use: Callable[[Path], Store], studied: Path, tmp_path: Path, open_page: Open
) -> None:
    source = use(studied)
    study, corpus = id_of(source, "help"), load_corpus(source, list_corpora(source)[0].digest)
    data = study_files.export(source, study)
    seed.empty(tmp_path)
    there = use(tmp_path)
    with pytest.raises(CmrError, match="not in this store"):
        study_files.take(there, "help.zip", data)
    add_corpus(there, seed.ANALYST, corpus, "the same files")
    app = open_page("studies")
    app.get("file_uploader")[0].set_value([("help.zip", data, "application/zip")]).run()
    app.button(key="import").click().run()
    check(app)
    assert "Imported the study help with" in said(app)
    assert list(app.dataframe[0].value["Name"]) == ["help"]
    page = open_page("study", study=study)
    check(page)
    assert len(page.get("plotly_chart")) == 2
    assert "- **jp**: " in said(page)
