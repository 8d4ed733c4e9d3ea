"""A method in tables: every registered one can be described, and its place is worked by hand."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from app import describing_methods as describing
from app.forms import fields
from cmr_core.models.registry import load
from cmr_core.spec import MethodChoice, parse

METHODS = load()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_described(name: str) -> None:
    info = METHODS[name]
    assert info.summary.endswith(".")
    assert "\n" not in "".join(describing.paragraphs(info))
    assert list(describing.settings(info)["Setting"]) == [field.name for field in fields(info.config)]
    assert (describing.settings(info)["What it does"] != "").all()
    assert (describing.settings(info)["Allowed"] != "").all()
    assert any("other methods" in fact or "market" in fact for fact in describing.facts(info))


@pytest.mark.parametrize("name", [name for name, info in METHODS.items() if info.published])
def test_the_lines_for_a_study_file_ask_for_what_was_published(name: str) -> None:
    info = METHODS[name]
    (method,) = yaml.safe_load(describing.as_published(info))
    assert parse(MethodChoice, method).settings == dict(info.published)
    table = describing.settings(info).set_index("Setting")
    assert set(table.index[table["Published"] != ""]) == set(info.published)
    assert (table["Published"] != table["Default"]).all()


def test_all_methods_have_a_line() -> None:
    assert list(describing.overview(METHODS.values())["Method"]) == [info.label for info in METHODS.values()]


def cells() -> pd.DataFrame:
    rows = [
        ("EASE", "ease", "jp", 0.5, 9),
        ("Popularity", "popularity", "jp", 0.3, 9),
        ("EASE, lighter", "ease", "jp", 0.4, 9),
        ("Popularity", "popularity", "uk", 0.2, 70),
        ("EASE", "ease", "uk", 0.1, 70),
        ("GMF", "gmf", "de", 0.9, 4),
    ]
    return pd.DataFrame(rows, columns=["label", "method", "target", "mean", "n"])


def test_a_method_stands_beside_popularity_and_the_best() -> None:
    table = describing.compared(describing.standing(cells(), "ease"))
    assert list(table.columns) == [
        "Market", "EASE", "EASE, lighter", "Popularity", "Best", "Which is", "Test users",
    ]  # fmt: skip
    assert table.astype(object).where(table.notna(), None).to_numpy().tolist() == [
        ["jp", 0.5, 0.4, 0.3, 0.5, "EASE", 9],
        ["uk", 0.1, None, 0.2, 0.2, "Popularity", 70],
    ]


def test_popularity_is_not_beside_itself_and_what_has_not_run_is_empty() -> None:
    assert set(describing.standing(cells(), "popularity")["series"]) == {"Popularity", describing.BEST}
    assert describing.standing(cells(), "dcmpt").empty
