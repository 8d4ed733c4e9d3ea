"""Grids, several configurations and a protocol made by hand, on the launch page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from app import grids, protocol_form, queries
from app.forms import fields
from cmr_core.errors import SpecError
from cmr_core.models.registry import get
from tests.app import seed
from worker.store.runs import list_runs
from worker.store.session import Store
from worker.store.studies import launch_study

Open = Callable[..., AppTest]
EASE = get("ease")


def new_runs(app: AppTest) -> list[str]:
    return [metric.value for metric in app.metric if metric.label == "New runs"]


def only(app: AppTest, method: str, market: str) -> None:
    app.multiselect(key="methods-new").set_value([method]).run()
    app.multiselect(key="targets-new").set_value([market]).run()


def field(name: str) -> object:
    return next(found for found in fields(EASE.config) if found.name == name)


def test_values_are_read_and_checked_one_by_one() -> None:
    name = next(f.name for f in fields(EASE.config) if f.kind == "number")
    found = grids.values(field(name), "1, 10,100.5")  # type: ignore[arg-type]
    assert found == (1.0, 10.0, 100.5)
    assert grids.check(EASE, name, found) == found
    for text in ("", "1, 1", "-5", "nan", ", ".join(map(str, range(1, 30)))):
        with pytest.raises(SpecError):
            grids.check(EASE, name, grids.values(field(name), text))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="'ten' is no number"):
        grids.values(field(name), "1, ten")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["five", "5;10", "-1", "1e3", "²"])
def test_wrong_cutoffs_are_named(text: str) -> None:
    with pytest.raises(SpecError, match="no cutoff"):
        protocol_form.cutoffs(text)


def test_every_combination_of_a_grid_is_a_run(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    only(app, "lightgcn", "uk")
    app.multiselect(key="new-lightgcn-0-grid").set_value(["dimensions", "layers"]).run()
    app.text_input(key="new-lightgcn-0-dimensions-values").set_value("8, 16, 32").run()
    app.text_input(key="new-lightgcn-0-layers-values").set_value("1, 2").run()
    assert not app.error
    assert new_runs(app) == ["6"]
    app.button(key="launch").click().run()
    made = [run for run in list_runs(own) if run.target == "uk"]
    assert {(run.spec["settings"]["dimensions"], run.spec["settings"]["layers"]) for run in made} == {
        (d, n) for d in (8, 16, 32) for n in (1, 2)
    }
    assert len({run.label for run in made}) == 6


def test_a_wrong_value_stops_the_launch_and_not_the_form(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    only(app, "lightgcn", "uk")
    app.multiselect(key="new-lightgcn-0-grid").set_value(["dimensions"]).run()
    app.text_input(key="new-lightgcn-0-dimensions-values").set_value("8, many").run()
    assert any("is no whole number" in str(error.value) for error in app.error)
    assert next(button for button in app.button if button.label == "Launch").disabled
    assert app.text_input(key="seeds-new").value == "0"


def test_two_configurations_of_one_method(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    only(app, "lightgcn", "uk")
    app.number_input(key="new-lightgcn-number").set_value(2).run()
    app.text_input(key="new-lightgcn-1-label").set_value("small").run()
    app.number_input(key="new-lightgcn-1-dimensions").set_value(8).run()
    assert new_runs(app) == ["2"]
    app.button(key="launch").click().run()
    assert {run.label for run in list_runs(own) if run.target == "uk"} >= {"small"}


def test_a_study_with_grids_comes_back_into_the_form(own: Store, open_page: Open) -> None:
    methods = [
        {"method": "lightgcn", "grid": {"dimensions": (8, 16)}, "settings": {"layers": 1}},
        {"method": "lightgcn", "label": "plain"},
        {"method": "popularity"},
    ]
    spec = seed.study(name="grid", targets=("uk",), seeds=(0,), methods=methods)
    launched = launch_study(own, seed.ANALYST, spec)
    assert len(launched.created) == 4
    app = open_page("launch", study=launched.study_id)
    assert not app.error
    assert new_runs(app) == ["0"]  # the same study again: everything is there already
    said = next(str(caption.value) for caption in app.caption if "4 runs in all, 4 of them there" in str(caption.value))
    assert "Nothing is left to compute" in said


MEMBERS = [{"method": "ease", "settings": {"tune": False}}, {"method": "ease"}, {"method": "popularity"}]


def test_a_combination_comes_back_with_its_members_as_study_and_as_run(own: Store, open_page: Open) -> None:
    twice = [{"method": "blend", "members": MEMBERS}]
    launched = launch_study(own, seed.ANALYST, seed.study(name="blend", targets=("uk",), seeds=(0,), methods=twice))
    for address in ({"study": launched.study_id}, {"run": launched.created[0]}):
        app = open_page("launch", **address)
        assert not app.error
        assert new_runs(app) == ["0"]
        (members,) = [box for box in app.multiselect if box.label == "What it combines"]
        assert members.value == ["EASE (tune=False)", "EASE", "Popularity"]


def test_a_study_keeps_protocols_that_read_alike(own: Store, open_page: Open) -> None:
    alike = [{"evaluation": {"select": name}, "split": {"seed": 7}} for name in ("ndcg@10", "recall@10")]
    fields = {"name": "alike", "targets": ("uk",), "seeds": (0,), "methods": [{"method": "popularity"}]}
    launched = launch_study(own, seed.ANALYST, seed.study(protocols=alike, **fields))
    assert len(launched.created) == 2
    app = open_page("launch", study=launched.study_id)
    assert not app.error
    assert any("2 runs in all, 2 of them there" in str(caption.value) for caption in app.caption)
    (box,) = [box for box in open_page("study", study=launched.study_id).selectbox if box.label == "Protocol"]
    assert len(set(box.options)) == 2


def test_custom_protocol(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    only(app, "popularity", "uk")
    app.multiselect(key="protocols-new").set_value(["ratio", "custom"]).run()
    app.selectbox(key="custom-new-kind").set_value("leave-one-out").run()
    app.selectbox(key="custom-new-order").set_value("latest").run()
    app.selectbox(key="custom-new-candidates").set_value("sampled-market").run()
    app.number_input(key="custom-new-negatives").set_value(20).run()
    app.number_input(key="custom-new-rating").set_value(3.0).run()
    app.toggle(key="custom-new-sources").set_value(True).run()
    app.text_input(key="custom-new-cutoffs").set_value("3, 10").run()
    assert not app.error
    assert new_runs(app) == ["2"]
    app.button(key="launch").click().run()
    texts = set(queries.runs(own, states=["queued"], targets=["uk"])[0]["protocol_text"])
    assert "leave-one-out (latest) · sampled-market (20 negatives) · ratings ≥ 3 · sources in full" in texts
    made = next(run for run in list_runs(own) if run.spec["split"]["order"] == "latest")
    assert made.spec["evaluation"]["cutoffs"] == [3, 10]


def test_a_split_per_seed_runs_every_seed_of_what_draws_nothing(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    only(app, "popularity", "uk")
    app.text_input(key="seeds-new").set_value("0-2").run()
    app.multiselect(key="protocols-new").set_value(["custom"]).run()
    app.number_input(key="custom-new-seed").set_value(4).run()
    assert new_runs(app) == ["1"]
    app.toggle(key="custom-new-each").set_value(True).run()
    assert not app.error
    assert new_runs(app) == ["3"]
    assert any("a split per seed" in str(caption.value) for caption in app.caption)
    assert not [box for box in app.number_input if box.key in ("custom-new-seed", "custom-new-draw")]
    app.button(key="launch").click().run()
    made = [run for run in list_runs(own) if run.target == "uk" and run.spec["split"].get("each_seed")]
    assert sorted(run.seed for run in made) == [0, 1, 2]
    assert len({run.protocol for run in made}) == 1


def test_custom_protocol_that_makes_no_sense_is_refused(own: Store, open_page: Open) -> None:
    app = open_page("launch")
    app.multiselect(key="protocols-new").set_value(["custom"]).run()
    app.text_input(key="custom-new-select").set_value("ndcg@7").run()
    assert any("not among cutoffs" in str(error.value) for error in app.error)
    assert next(button for button in app.button if button.label == "Launch").disabled
