"""Readers: what is taken, and a corpus of bad files of which none may be."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cmr_core.data import blocks
from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Columns, Layout, guess_layout
from cmr_core.errors import CmrError, DataError, FileFormatError, SpecError

XM, WSDM = Layout(kind="xmarket"), Layout(kind="wsdm")
TABLE = Layout(columns=Columns())
H = "userId itemId rate date\n"
W = "userId\titemId\trating\n"
T = "user,item,rating,date\n"
OK = "u i 5.0 2019-05-31\n"


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def parquet(**columns: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("de_5core.txt", H + OK)
    return sink.getvalue()


def long_parquet() -> bytes:
    return parquet(user=["u"] * 3, item=["i"] * 3, rating=[1.0, 2.0, None], date=["2019-01-01"] * 3)


# name: (layout, bytes or text, line of the fault or None, a word of the message)
BAD: dict[str, tuple[Layout, str | bytes, int | None, str]] = {
    "empty": (XM, "", None, "no row"),
    "header only": (XM, H, None, "no row"),
    "header without line end": (XM, H.strip(), None, "no row"),
    "line feed only": (XM, "\n", 1, "header"),
    "no header": (XM, OK, 1, "header"),
    "header of another layout": (XM, W + "u\ti\t1\n", 1, "header"),
    "header with comma": (XM, H.replace(" ", ",") + OK, 1, "header"),
    "header in other case": (XM, H.lower() + OK, 1, "header"),
    "header with trailing space": (XM, H.replace("date", "date ") + OK, 1, "header"),
    "byte order mark": (XM, b"\xef\xbb\xbf" + (H + OK).encode(), None, "byte order mark"),
    "utf-16": (XM, (H + OK).encode("utf-16"), None, "UTF-16"),
    "utf-16 big end first": (XM, b"\xfe\xff" + (H + OK).encode("utf-16-be"), None, "UTF-16"),
    "utf-16 without mark": (XM, (H + OK).encode("utf-16-le"), 1, "NUL"),
    "latin-1": (XM, (H + OK + "ü i 5 2019-01-01\n").encode("latin-1"), 3, "not UTF-8"),
    "cut off character": (XM, (H + OK).encode() + b"u\xc3", 3, "not UTF-8"),
    "overlong encoding": (XM, H.encode() + b"\xc0\xaf i 5 2019-01-01\n", 2, "not UTF-8"),
    "surrogate": (XM, H.encode() + b"\xed\xa0\x80 i 5 2019-01-01\n", 2, "not UTF-8"),
    "NUL": (XM, H + OK + "u\0 i 5 2019-01-01\n", 3, "NUL"),
    "carriage returns only": (XM, (H + OK).replace("\n", "\r"), 1, "carriage return"),
    "carriage return in a line": (XM, H + OK + "u\r i 5 2019-01-01\n", 3, "carriage return"),
    "line of 1 MB": (XM, H + OK + "u" * 1_000_000 + "\n", 3, "longer than"),
    "one endless line": (XM, "u" * 9_000_000, 1, "longer than"),
    "missing column": (XM, H + OK + "u i 5.0\n", 3, "3 columns where 4"),
    "extra column": (XM, H + OK + OK + "u i 5.0 2019-01-01 x\n", 4, "5 columns where 4"),
    "two spaces": (XM, H + "u  i 5.0 2019-01-01\n", 2, "5 columns where 4"),
    "tab in a space file": (XM, H + "u\ti 5.0 2019-01-01\n", 2, "3 columns where 4"),
    "blank line inside": (XM, H + OK + "\n" + OK, 3, "blank"),
    "blank line at the end": (XM, H + OK + "\n", 3, "blank"),
    "trailing space": (XM, H + "u i 5.0 2019-01-01 \n", 2, "columns"),
    "fault in the last line without end": (XM, H + OK + "u i x 2019-01-01", 3, "no rating"),
    "text rating": (XM, H + OK + "u i good 2019-01-01\n", 3, "no rating"),
    "NaN": (XM, H + "u i NaN 2019-01-01\n", 2, "no rating"),
    "inf": (XM, H + "u i inf 2019-01-01\n", 2, "no rating"),
    "minus infinity": (XM, H + "u i -Infinity 2019-01-01\n", 2, "no rating"),
    "1e308": (XM, H + "u i 1e308 2019-01-01\n", 2, "no rating"),
    "negative": (XM, H + "u i -1 2019-01-01\n", 2, "no rating"),
    "too large": (XM, H + "u i 1001 2019-01-01\n", 2, "no rating"),
    "hexadecimal": (XM, H + "u i 0x5 2019-01-01\n", 2, "no rating"),
    "underscore in a number": (XM, H + "u i 1_0 2019-01-01\n", 2, "no rating"),
    "foreign digits": (XM, H + "u i ٥ 2019-01-01\n", 2, "no rating"),
    "decimal comma": (XM, H + "u i 4,5 2019-01-01\n", 2, "no rating"),
    "blank rating": (WSDM, W + "u\ti\t\n", 2, "no rating"),
    "rating with a space": (WSDM, W + "u\ti\t 5\n", 2, "no rating"),
    "date of zeros": (XM, H + "u i 5 0000-00-00\n", 2, "no date"),
    "30 February": (XM, H + OK + "u i 5 2019-02-30\n", 3, "no date"),
    "year 9999": (XM, H + "u i 5 9999-12-31\n", 2, "no date"),
    "before 1970": (XM, H + "u i 5 1969-12-31\n", 2, "no date"),
    "day first": (XM, H + "u i 5 31-05-2019\n", 2, "no date"),
    "slashes": (XM, H + "u i 5 2019/05/31\n", 2, "no date"),
    "epoch in an xmarket file": (XM, H + "u i 5 1559260800\n", 2, "no date"),
    "ISO then epoch": (TABLE, T + "u,i,5,2019-05-31\nu,i,5,1559260800\n", 3, "no date"),
    "epoch then ISO": (TABLE, T + "u,i,5,1559260800\nu,i,5,2019-05-31\n", 3, "no date"),
    "seconds then milliseconds": (TABLE, T + "u,i,5,1559260800\nu,i,5,1559260800000\n", 3, "no date"),
    "blank date": (TABLE, T + "u,i,5,2019-05-31\nu,i,5,\n", 3, "no date"),
    "blank user": (TABLE, T + ",i,5,2019-05-31\n", 2, "blank"),
    "user of spaces": (TABLE, T + "  ,i,5,2019-05-31\n", 2, "blank"),
    "user of no-break spaces": (TABLE, T + "\u00a0,i,5,2019-05-31\n", 2, "blank"),
    "blank item": (WSDM, W + "u\t\t5\n", 2, "blank"),
    "space before an id": (TABLE, T + "u,i,5,2019-05-31\n u,i,5,2019-05-31\n", 3, "space"),
    "id of 10,000 characters": (XM, H + OK + "u" * 10_000 + " i 5 2019-05-31\n", 3, "longer than"),
    "control character in an id": (TABLE, T + "u\x07,i,5,2019-05-31\n", 2, "control"),
    "unclosed quote": (TABLE, T + 'u,i,5,2019-05-31\n"u,i,5,2019-05-31\nu,i,5,2019-05-31\n', 3, "quote"),
    "quote over two lines": (TABLE, T + '"u\nv",i,5,2019-05-31\n', 2, "quote"),
    "missing rating column": (TABLE, "user,item,date\nu,i,2019-05-31\n", 1, "no column for the rating"),
    "other delimiter": (TABLE, (T + "u,i,5,2019-05-31\n").replace(",", ";"), 1, "no column"),
    "two columns of one name": (TABLE, "user,item,rating,date,user\nu,i,5,2019-05-31,v\n", 1, "one name"),
    "zip": (XM, zipped(), None, "zip"),
    "pickle": (XM, b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94.", None, "serialised"),
    "program": (XM, b"\x7fELF\x02\x01\x01" + bytes(50), None, "program"),
    "PDF": (XM, b"%PDF-1.7\n", None, "PDF"),
    "bzip2": (XM, bz2.compress((H + OK).encode()), None, "bzip2"),
    "NumPy": (XM, b"\x93NUMPY\x01\x00v\x00", None, "NumPy"),
    "database": (XM, b"SQLite format 3\0" + bytes(100), None, "database"),
    "gzip of gzip": (XM, gzip.compress(gzip.compress((H + OK).encode())), None, "twice"),
    "cut off gzip": (XM, gzip.compress((H + OK * 1000).encode())[:-20], None, "gzip"),
    "gzip with a wrong sum": (XM, gzip.compress((H + OK).encode())[:-8] + bytes(8), None, "gzip"),
    "gzip header alone": (XM, b"\x1f\x8b", None, "gzip"),
    "gzip followed by rubbish": (XM, gzip.compress((H + OK).encode()) + b"rubbish", None, "gzip"),
    "parquet as xmarket": (XM, long_parquet(), None, "Parquet"),
    "parquet cut off": (TABLE, long_parquet()[:-10], None, "damaged"),
    "parquet in name only": (TABLE, b"PAR1" + bytes(100), None, "damaged"),
    "parquet with a missing rating": (TABLE, long_parquet(), 3, "no rating"),
    "parquet with NaN": (
        TABLE,
        parquet(user=["u"], item=["i"], rating=[float("nan")], date=["2019-01-01"]),
        1,
        "no rating",
    ),
    "parquet with lists": (TABLE, parquet(user=[["u"]], item=["i"], rating=[1], date=["2019-01-01"]), None, "type"),
    "parquet with fractional ids": (
        TABLE,
        parquet(user=[1.5], item=["i"], rating=[1], date=["2019-01-01"]),
        None,
        "fraction",
    ),
    "parquet without rows": (
        TABLE,
        parquet(
            user=pa.array([], pa.string()),
            item=pa.array([], pa.string()),
            rating=pa.array([], pa.float32()),
            date=pa.array([], pa.string()),
        ),
        None,
        "no row",
    ),
    "parquet without a column": (TABLE, parquet(user=["u"], item=["i"], rating=[1.0]), 1, "no column for the date"),
}


TEXT = [case for case, (_, data, *_) in BAD.items() if data and isinstance(data, str)]


@pytest.mark.parametrize(
    ("case", "packed"), [(c, False) for c in BAD] + [pytest.param(c, True, id=f"{c}, packed") for c in TEXT]
)
def test_bad_files_are_refused_with_the_place_and_the_remedy(tmp_path: Path, case: str, packed: bool) -> None:
    layout, data, line, word = BAD[case]
    raw = data.encode() if isinstance(data, str) else data
    path = write(tmp_path, "de_5core.txt", gzip.compress(raw) if packed else raw)
    with pytest.raises(FileFormatError) as caught:
        read_corpus([path], name="c", layout=layout)
    assert word in str(caught.value)
    assert caught.value.line == line
    assert caught.value.file == "de_5core.txt"
    assert caught.value.hint
    assert str(tmp_path) not in caught.value.explain()


def test_the_corpus_of_bad_files_is_large_enough() -> None:
    assert len(BAD) >= 80


@pytest.mark.parametrize(
    "name", ["_5core.txt", ".txt", "-de.txt", "d e_5core.txt", "ü_5core.txt", "x" * 100 + "_5core.txt", "=cmd.txt"]
)
def test_file_names_that_begin_with_no_market_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError, match="market"):
        read_corpus([write(tmp_path, name, H + OK)], name="c", layout=XM)


def test_no_file_a_folder_and_one_market_twice_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path, "de_a.txt", H + OK), write(tmp_path, "DE_b.txt", H + OK)
    for paths in ([], [tmp_path], [tmp_path / "nothing"], [first, second], [first, first]):
        with pytest.raises(DataError) as caught:
            read_corpus(paths, name="c", layout=XM)
        assert caught.value.hint


@pytest.mark.parametrize("market", ["DE", "", "a/b", "..", "=x", "d" * 65])
def test_wrong_market_codes_in_a_column_are_refused(tmp_path: Path, market: str) -> None:
    layout = Layout(columns=Columns(rating=None, date=None, market="m"))
    path = write(tmp_path, "all.csv", f"user,item,m\nu,i,de\nu,i,{market}\n")
    with pytest.raises(FileFormatError, match="line 3, column m"):
        read_corpus([path], name="c", layout=layout)


def test_too_many_markets_mean_a_wrong_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "all.csv", "user,item,m\n" + "".join(f"u,i,x{k}\n" for k in range(300)))
    with pytest.raises(DataError, match="300 markets"):
        read_corpus([path], name="c", layout=Layout(columns=Columns(rating=None, date=None, market="m")))


def test_a_column_cannot_play_two_roles() -> None:
    with pytest.raises(ValidationError, match="mapped twice"):
        Columns(market="item")


def test_one_byte_above_the_limit_is_refused_and_the_limit_is_not(tmp_path: Path) -> None:
    data = (H + OK * 50).encode()
    for raw in (data, gzip.compress(data)):
        path = write(tmp_path, "de.txt", raw)
        assert len(read_corpus([path], name="c", layout=XM, max_bytes=len(data)).markets["de"]) == 50
        with pytest.raises(FileFormatError, match="more than"):
            read_corpus([path], name="c", layout=XM, max_bytes=len(data) - 1)


def test_a_gzip_bomb_is_stopped_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "de.txt", gzip.compress((H + OK * 2_000_000).encode(), 1))
    read = []
    whole = blocks._read
    monkeypatch.setattr(blocks, "_read", lambda *a: read.append(len(d := whole(*a))) or d)
    with pytest.raises(FileFormatError, match="more than"):
        read_corpus([path], name="c", layout=XM, max_bytes=6 << 20)
    assert sum(read) <= (6 << 20) + blocks.BLOCK_BYTES


def test_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks.text_blocks, "__kwdefaults__", {"size": 64})
    good = H + "".join(f"u{k} i{k} 5.0 2019-05-31\n" for k in range(100))
    path = write(tmp_path, "de.txt", good)
    assert read_corpus([path], name="c", layout=XM).markets["de"].users.tolist() == sorted(f"u{k}" for k in range(100))
    for bad in ("u i nan 2019-05-31\n", "u i 5\n", "\xa0 i 5 2019-05-31\n"):
        with pytest.raises(FileFormatError) as caught:
            read_corpus([write(tmp_path, "de.txt", good + bad + OK)], name="c", layout=XM)
        assert caught.value.line == 102


def test_ids_stay_text_and_rows_keep_their_order(tmp_path: Path) -> None:
    odd = ["007", "7", "1e5", "NaN", "NULL", "=cmd", "\U0001f600", "\u05d0\u05d1", "TRUE", '"q', "#x"]
    rows = "".join(f"{user} {user} 5.0 2019-05-31\n" for user in odd)
    market = read_corpus([write(tmp_path, "de_5core.txt", H + rows)], name="c", layout=XM).markets["de"]
    assert market.users[market.user].tolist() == odd
    assert market.users.tolist() == sorted(odd)


def test_windows_line_ends_and_a_missing_last_one_are_fine(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, name, data)
        for name, data in {"aa.txt": (H + OK * 2).replace("\n", "\r\n"), "bb.txt": (H + OK * 2).strip()}.items()
    ]
    corpus = read_corpus(paths, name="c", layout=XM)
    for market in corpus.markets.values():
        assert (len(market), market.users.tolist(), market.day.tolist()) == (2, ["u"], [18047, 18047])


def test_the_three_layouts_and_parquet_say_the_same(tmp_path: Path) -> None:
    csv = 'note,market,who,what,stars,when\n"a, ""b""",de,u1,i1,4.5,2019-05-31\n,jp,u1,i2,1,1970-01-01\n'
    columns = Columns(user="who", item="what", rating="stars", date="when", market="market")
    table = read_corpus([write(tmp_path, "x.csv", csv)], name="c", layout=Layout(columns=columns))
    files = [
        write(tmp_path, "de_5core.txt", H + "u1 i1 4.5 2019-05-31\n"),
        write(tmp_path, "jp_5core.txt.gz", gzip.compress((H + "u1 i2 1 1970-01-01\n").encode())),
    ]
    xmarket = read_corpus(files, name="c", layout=XM)
    days = pa.array([18047, 0], pa.int32()).cast(pa.date32())
    data = parquet(who=["u1", "u1"], what=["i1", "i2"], stars=[4.5, 1.0], when=days, market=["de", "jp"])
    stored = read_corpus([write(tmp_path, "x.parquet", data)], name="c", layout=Layout(columns=columns))
    assert table.digest == xmarket.digest == stored.digest
    for name, user, rating in (("t1", "u1", 4.5), ("t2", "u2", 2.0)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train.tsv", W + f"{user}\ti1\t{rating}\n")
    cup = read_corpus(
        [tmp_path / "t1/train.tsv", tmp_path / "t2/train.tsv"],
        name="c",
        layout=Layout(kind="wsdm", market_from="folder"),
    )
    assert sorted(cup.markets) == ["t1", "t2"]
    assert cup.markets["t2"].rating.tolist() == [2.0]
    assert not cup.markets["t1"].has_dates


def test_users_are_keyed_by_market(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{m}_5core.txt", H + OK) for m in ("de", "uk")]
    corpus = read_corpus(paths, name="c", layout=XM)
    assert [m.users.tolist() for m in corpus.markets.values()] == [["u"], ["u"]]
    assert corpus.items.tolist() == ["i"]


@pytest.mark.parametrize(("text", "day"), [("86399", None), ("1559260800", 18046), ("1559347199999", 18047)])
def test_unix_times_become_days(tmp_path: Path, text: str, day: int | None) -> None:
    path = write(tmp_path, "de.csv", T + f"u,i,5,{text}\n")
    if day is None:
        with pytest.raises(FileFormatError, match="no date"):
            read_corpus([path], name="c", layout=TABLE)
    else:
        assert read_corpus([path], name="c", layout=TABLE).markets["de"].day.tolist() == [
            int(np.datetime64(int(text[:10]), "s").astype("datetime64[D]").astype(int))
        ]


def test_layouts_are_guessed_from_the_header(tmp_path: Path) -> None:
    assert guess_layout(write(tmp_path, "a.txt", H + OK)) == XM
    assert guess_layout(write(tmp_path, "a.txt.gz", gzip.compress((H + OK).encode()))) == XM
    assert guess_layout(write(tmp_path, "b.txt", W)) == WSDM
    assert guess_layout(write(tmp_path, "c.csv", T)) == TABLE
    assert guess_layout(write(tmp_path, "d.csv", "user;item;market\n")) == Layout(
        columns=Columns(rating=None, date=None, market="market"), delimiter=";"
    )
    assert guess_layout(write(tmp_path, "e", long_parquet())) == TABLE
    with pytest.raises(FileFormatError):
        guess_layout(write(tmp_path, "f", zipped()))


ids = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@given(
    rows=st.lists(
        st.tuples(
            ids,
            ids,
            st.integers(0, 1000),
            st.dates(np.datetime64("1970-01-01").item(), np.datetime64("2099-12-31").item()),
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=80, deadline=None)
def test_whatever_is_written_is_read(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = H + "".join(f"{u} {i} {r} {d}\n" for u, i, r, d in rows)
    path = write(tmp_path_factory.mktemp("files"), "de.txt", text)
    corpus = read_corpus([path], name="c", layout=XM)
    market = corpus.markets["de"]
    days = market.day.astype("datetime64[D]").astype(object)
    found = zip(market.users[market.user], corpus.items[market.item], market.rating, days, strict=True)
    assert [(u, i, int(r), d) for u, i, r, d in found] == rows


@given(data=st.binary(max_size=300), layout=st.sampled_from([XM, WSDM, TABLE]), header=st.sampled_from(["", H, W, T]))
@settings(max_examples=300, deadline=None)
def test_no_bytes_bring_anything_but_a_typed_error(
    data: bytes, layout: Layout, header: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp(), f"de_{os.getpid()}.txt", header.encode() + data)
    try:
        corpus = read_corpus([path], name="c", layout=layout)
    except FileFormatError:
        return
    assert len(corpus.markets["de"]) >= 1


def test_errors_are_of_the_projects_own_tree() -> None:
    assert issubclass(FileFormatError, CmrError)
    assert not issubclass(FileFormatError, SpecError)
