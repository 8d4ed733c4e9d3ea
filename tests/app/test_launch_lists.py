"""Imported candidate lists on the launch page."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from streamlit.testing.v1 import AppTest

from cmr_core.data.lists import Lists
from tests.app import seed
from worker.store.corpora import list_corpora, load_corpus
from worker.store.lists import add_lists
from worker.store.runs import list_runs
from worker.store.session import Store


def test_the_launch_page_offers_them_and_says_for_which_market(own: Store, open_page: Callable[..., AppTest]) -> None:
    corpus = load_corpus(own, list_corpora(own)[0].digest)
    market = corpus.markets["jp"]
    free = [str(corpus.items[code]) for code in market.catalogue if code not in market.item[market.user == 0]][:3]
    pairs = pa.table({"user": [str(market.users[0])] * 3, "item": free, "line": [1, 1, 1]})
    digest = add_lists(own, seed.ANALYST, Lists("jp", "run.tsv", pairs), corpus=corpus.digest, name="cup")
    app = open_page("launch")
    app.multiselect(key="methods-new").set_value(["popularity"]).run()
    app.multiselect(key="protocols-new").set_value(["lists-cup"]).run()
    assert any("are for market" in str(error.value) for error in app.error)
    app.multiselect(key="targets-new").set_value(["jp"]).run()
    assert not app.error
    app.button(key="launch").click().run()
    assert not app.exception
    newest = list_runs(own)[0]
    assert (newest.target, newest.spec["evaluation"]["given"]) == ("jp", digest)
