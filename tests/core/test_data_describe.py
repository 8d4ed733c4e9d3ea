"""Descriptions and audits, against hand-worked cases and the published facts of the XMarket files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cmr_core.data.audit import audit
from cmr_core.data.catalogue import CATALOGUE
from cmr_core.data.describe import describe, gini
from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.market import Corpus, build_corpus

DATA = Path(os.environ.get("CMR_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "xmarket-electronics"


def corpus_of(rows: list[tuple[str, str, str, float, int]]) -> Corpus:
    names = ("market", "user", "item", "rating", "day")
    kinds = (pa.string(), pa.string(), pa.string(), pa.float32(), pa.int32())
    columns = zip(*rows, strict=True)
    return build_corpus("c", pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)}))


HAND = corpus_of(
    [
        ("aa", "u", "i1", 5.0, 10),  # twin of the next
        ("aa", "u", "i2", 5.0, 10),
        ("aa", "u", "i3", 4.0, 10),  # same day, other rating
        ("aa", "u", "i1", 1.0, 11),  # repeat
        ("aa", "v", "i1", 5.0, 10),
        ("bb", "u", "i1", 3.0, 20),  # id of aa's u
        ("bb", "w", "i9", 3.0, 21),
        ("cc", "x", "i5", 3.0, 30),  # shares no item
        ("cc", "x", "i6", 3.0, -1),  # no date
    ]
)


def test_sizes_overlaps_and_tails_of_a_hand_worked_corpus() -> None:
    told = describe(HAND)
    json.dumps(told, allow_nan=False)
    aa = told["markets"]["aa"]
    assert (aa["users"], aa["items"], aa["rows"], aa["pairs"]) == (2, 3, 5, 4)
    assert aa["density"] == pytest.approx(4 / 6)
    assert aa["items_shared"] == pytest.approx(1 / 3)
    assert aa["gini"] == pytest.approx(1 / 6)  # 1, 1, 2: sum of |differences| 4 / (2 * 3 * 4)
    assert aa["long_tail"]["items"][:3] == [2, 1, 0]
    assert (aa["first_day"], aa["last_day"]) == ("1970-01-11", "1970-01-12")
    assert aa["user_quantiles"]["100"] == 3
    assert told["overlap"]["items"] == [[3, 1, 0], [1, 2, 0], [0, 0, 2]]
    assert told["overlap"]["jaccard"][0] == [1, 0.25, 0]
    assert told["items_by_markets"] == [5, 1, 0]
    assert (told["users"], told["user_ids"], told["rows"], told["pairs"]) == (5, 4, 9, 8)


def test_leaks_and_gaps_of_a_hand_worked_corpus() -> None:
    told = audit(HAND)
    json.dumps(told, allow_nan=False)
    assert told["markets"]["aa"]["repeats"] == 1
    assert told["markets"]["aa"]["same_day"] == pytest.approx(2 / 4)
    assert told["markets"]["aa"]["one_day"] == pytest.approx(1 / 2)
    assert told["markets"]["cc"]["same_day"] is None
    assert told["same_day"] == pytest.approx(2 / 6)
    assert told["shared_users"] == {"u": ["aa", "bb"]}
    assert told["lonely_markets"] == ["cc"]
    topics = {finding["topic"]: finding for finding in told["findings"]}
    assert set(topics) == {
        "repeats", "same-day", "no-dates", "no-overlap", "shared-users", "rare-items", "short-users", "one-day-users",
    }  # fmt: skip
    assert topics["no-dates"]["markets"] == ["cc"]
    assert topics["same-day"]["severity"] == "warning"
    assert told["protocol"]["kind"] == "ratio"  # events needs dates


def test_a_clean_corpus_has_no_finding_and_a_random_split_is_safe() -> None:
    rows = [(m, f"{m}{u}", f"i{k}", 5.0, u * 10 + k) for m in ("aa", "bb") for u in range(4) for k in range(4)]
    told = audit(corpus_of(rows))
    assert [finding["severity"] for finding in told["findings"]] == ["fine"]
    assert told["protocol"]["kind"] == "ratio"


def test_twins_are_found_at_a_pairs_earliest_date_only() -> None:
    rows = [("aa", "u", "i1", 5.0, 10), ("aa", "u", "i2", 5.0, 20), ("aa", "u", "i1", 5.0, 20)]
    assert audit(corpus_of(rows))["same_day"] == 0
    assert audit(corpus_of([*rows, ("aa", "u", "i2", 5.0, 10)]))["same_day"] == 1


def test_gini_of_equals_is_zero_and_of_one_owner_nearly_one() -> None:
    assert gini(np.full(9, 4)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)


@pytest.fixture(scope="module")
def xmarket() -> Corpus:
    if not DATA.is_dir():
        pytest.skip(f"the XMarket files are not at {DATA}; set CMR_TEST_DATA to the folder above them")
    return read_corpus(sorted(DATA.glob("*_5core.txt")), name="xmarket", layout=Layout(kind="xmarket"))


def test_the_xmarket_files_have_the_built_in_checksums(xmarket: Corpus) -> None:
    for file, digest in CATALOGUE["xmarket-electronics"].sha256.items():
        assert hashlib.sha256((DATA / file).read_bytes()).hexdigest() == digest


def test_the_xmarket_files_have_the_known_sizes(xmarket: Corpus) -> None:
    told = describe(xmarket)
    sizes = {n: (m["users"], m["items"], m["rows"], m["pairs"]) for n, m in told["markets"].items()}
    assert sizes == {
        "de": (1851, 2179, 17300, 16647),
        "jp": (487, 955, 4485, 4355),
        "in": (239, 470, 2015, 1973),
        "fr": (1838, 1879, 17624, 17154),
        "ca": (4668, 5735, 44779, 43891),
        "mx": (1878, 1645, 17095, 16933),
        "uk": (3352, 3251, 31547, 30874),
    }
    shared = {name: round(market["items_shared"], 2) for name, market in told["markets"].items()}
    assert shared == {"de": 0.91, "jp": 0.87, "in": 0.88, "fr": 0.93, "ca": 0.46, "mx": 0.79, "uk": 0.79}
    assert (told["users"], told["user_ids"], told["items"]) == (14_313, 14_311, 8_304)
    assert (told["rows"], told["pairs"]) == (134_845, 131_827)
    assert (told["items_by_markets"][0], told["items_by_markets"][6]) == (4_596, 56)
    names, items = told["overlap"]["markets"], told["overlap"]["items"]
    assert items[names.index("in")][names.index("jp")] == 142
    assert items[names.index("ca")][names.index("uk")] == 1_718


def test_the_xmarket_files_have_the_known_leaks(xmarket: Corpus) -> None:
    told = audit(xmarket)
    assert told["same_day"] == pytest.approx(0.58, abs=0.005)
    assert told["markets"]["mx"]["same_day"] == pytest.approx(0.80, abs=0.005)
    assert sum(m["repeats"] for m in told["markets"].values()) == 3_018
    assert sorted(map(tuple, told["shared_users"].values())) == [("ca", "uk"), ("de", "uk")]
    assert told["protocol"]["kind"] == "events"
