"""Files from the browser: whole or not at all, and never under the user's names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import uploads
from cmr_core.data.layouts import Columns, Layout
from cmr_core.errors import CmrError, DataError, FileFormatError
from worker.store.corpora import list_corpora
from worker.store.session import Store

HEAD = b"userId itemId rate date\n"
ROWS = b"u1 i1 5.0 2015-01-02\nu1 i2 4.0 2015-01-03\nu2 i1 3.0 2015-01-04\n"
GOOD = HEAD + ROWS


def test_one_file_per_market() -> None:
    corpus = uploads.read([("de_5core.txt", GOOD), ("JP.txt", GOOD)], name="mine", layout=None)
    assert sorted(corpus.markets) == ["de", "jp"]
    assert corpus.markets["de"].has_dates


def test_a_market_column_needs_no_file_names() -> None:
    data = b"who,what,where\nu1,i1,de\nu1,i2,de\nu2,i1,jp\n"
    layout = Layout(columns=Columns(user="who", item="what", rating=None, date=None, market="where"))
    corpus = uploads.read([("../../etc/passwd", data)], name="mine", layout=layout)
    assert sorted(corpus.markets) == ["de", "jp"]


def test_faults_name_the_users_file_line_column_and_value() -> None:
    bad = GOOD + b"u3 i3 many 2015-01-05\n"
    with pytest.raises(FileFormatError) as caught:
        uploads.read([("de_5core.txt", GOOD), ("jp_5core.txt", bad)], name="mine", layout=None)
    error = caught.value
    assert str(error).startswith("jp_5core.txt, line 5, column rate: ")
    assert "'many'" in str(error)
    assert (error.file, error.line, error.column, error.value) == ("jp_5core.txt", 5, "rate", "many")
    assert error.hint


@pytest.mark.parametrize(
    "name",
    ["../de.txt", "..\\de.txt", "/etc/passwd", "\0de.txt", "=de.txt", "", "_.txt", ".hidden", "é.txt", "x" * 300],
)
def test_names_that_are_no_market_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileFormatError, match="begin with a market"):
        uploads.read([(name, GOOD)], name="mine", layout=None)
    assert not list(tmp_path.iterdir())  # nothing stays, whatever happened


@pytest.mark.parametrize(
    "files",
    [
        [],
        [("de.txt", b"")],
        [("de.txt", HEAD)],
        [("de.txt", b"PK\x03\x04" + GOOD)],
        [("de.txt", b"\x80\x04" + GOOD)],
        [("de.txt", GOOD), ("de_again.txt", GOOD)],
        [("de.txt", GOOD)] * (uploads.MOST_FILES + 1),
    ],
)
def test_what_is_no_corpus_is_refused(files: list[uploads.Upload]) -> None:
    with pytest.raises(DataError) as caught:
        uploads.read(files, name="mine", layout=None)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "A B", "x" * 65])
def test_wrong_names_of_a_corpus_are_refused(name: str) -> None:
    with pytest.raises(CmrError, match="cannot name"):
        uploads.read([("de.txt", GOOD)], name=name, layout=None)


def add(app: AppTest, files: list[tuple[str, bytes]]) -> AppTest:
    uploader = app.get("file_uploader")[0]
    uploader.set_value([(name, data, "text/plain") for name, data in files]).run()
    app.text_input(key="corpus-name").set_value("mine").run()
    return app.button(key="add-corpus").click().run()


def test_the_page_stores_a_corpus_and_shows_it(own: Store, open_page: Callable[..., AppTest]) -> None:
    app = add(open_page("markets"), [("de_5core.txt", GOOD), ("jp_5core.txt", GOOD)])
    assert not app.exception
    assert not app.error
    row = next(row for row in list_corpora(own) if row.name == "mine")
    assert row.origin == "uploaded in the browser: de_5core.txt, jp_5core.txt"
    assert app.selectbox(key="corpus").value == row.digest[:12]
    assert any("Stored mine: 2 markets" in str(note.value) for note in app.success)


def test_the_page_says_what_is_wrong_and_stores_nothing(own: Store, open_page: Callable[..., AppTest]) -> None:
    app = add(open_page("markets"), [("de_5core.txt", GOOD + b"u3 i3\n")])
    assert any("line 5" in str(error.value) for error in app.error)
    assert any("Nothing was stored" in str(caption.value) for caption in app.caption)
    assert "mine" not in [row.name for row in list_corpora(own)]
