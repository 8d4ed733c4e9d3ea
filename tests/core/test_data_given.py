"""Imported candidate lists, from the files to codes and to the sampler's answer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmr_core.data.given import resolve
from cmr_core.data.lists import Lists, from_parquet, read_lists, to_parquet
from cmr_core.data.market import Corpus, build_corpus
from cmr_core.data.sampling import sample_candidates
from cmr_core.data.split import make_split
from cmr_core.errors import DataError, FileFormatError, IntegrityError, SpecError
from cmr_core.spec import EvalSpec, SplitSpec

# In jp, users a and b have had p0..p4, c has had p5..p8; p9 is sold in de only.
JP = [(user, f"p{n}") for user in "ab" for n in range(5)] + [("c", f"p{n}") for n in range(5, 9)]
DE = [("x", "p9"), ("x", "p0")]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rows = [("jp", *pair) for pair in JP] + [("de", *pair) for pair in DE]
    market, user, item = (pa.array(column) for column in zip(*rows, strict=True))
    rating, day = pa.array([1.0] * len(rows), pa.float32()), pa.array([-1] * len(rows), pa.int32())
    return build_corpus("tiny", pa.table({"market": market, "user": user, "item": item, "rating": rating, "day": day}))


def lists(folder: Path, run: str, qrel: str | None = None, market: str = "jp") -> Lists:
    (folder / "run.tsv").write_bytes(run.encode())
    if qrel is None:
        return read_lists(folder / "run.tsv", market)
    (folder / "qrel.tsv").write_bytes(qrel.encode())
    return read_lists(folder / "run.tsv", market, folder / "qrel.tsv")


def test_lists_become_candidates_in_local_codes(corpus: Corpus, tmp_path: Path) -> None:
    found = resolve(lists(tmp_path, "c\tp3,p9,p1\r\na\tp5\n"), corpus)
    assert found.held is None
    assert found.candidates.users.tolist() == [0, 2]
    assert found.candidates.negatives.tolist() == [[5, -1, -1], [1, 3, -1]]


def test_what_a_user_has_had_never_competes(corpus: Corpus, tmp_path: Path) -> None:
    given = lists(tmp_path, "a\tp0,p1,p2,p3,p4,p7\nc\tp1,p6\n")
    split, spec = make_split(corpus, SplitSpec(kind="ratio")), EvalSpec(candidates="given", given=given.digest)
    for part in ("valid", "test"):
        drawn = sample_candidates(split, "jp", part, spec, given={"jp": resolve(given, corpus).candidates})
        assert drawn is not None
        assert [sorted(set(row)) for row in drawn.negatives.tolist()] == [[-1, 7], [-1, 1]]
    with pytest.raises(SpecError, match="de"):
        sample_candidates(split, "de", "test", spec, given={"jp": resolve(given, corpus).candidates})
    with pytest.raises(SpecError):
        sample_candidates(split, "jp", "test", spec)


@pytest.mark.parametrize(
    "qrel",
    [
        "userId\titemId\trating\na\tp7\t1\na\tp5\t1\nc\tp2\t1\n",
        "a\tp5\t1\na\tp7\t1\r\na\tp8\t0\nc\tp2\t1",
        "a 0 p5 1\na 0 p7 1\na 0 p8 0\nc 0 p2 1\n",
        "a  0  p5  1\na Q0 p7 1\nc 0 p2 1\n",
    ],
)
def test_relevant_items_are_held_out_and_punished_nowhere(corpus: Corpus, tmp_path: Path, qrel: str) -> None:
    found = resolve(lists(tmp_path, "a\tp5,p6,p8\nb\tp7\nc\tp2,p1\n", qrel), corpus)
    assert found.held is not None
    assert list(zip(found.held.user.tolist(), found.held.item.tolist(), strict=True)) == [(0, 5), (0, 7), (2, 2)]
    assert found.candidates.negatives.tolist() == [[6, 8, -1], [7, -1, -1], [1, -1, -1]]


def test_relevant_pairs_that_the_corpus_has_are_refused_and_counted(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of the 3 relevant pairs") as caught:
        resolve(lists(tmp_path, "a\tp7\nc\tp1\n", "a\tp0\t1\na\tp7\t1\nc\tp8\t1\n"), corpus)
    assert "corpus" in caught.value.hint


@pytest.mark.parametrize(
    ("qrel", "line", "word"),
    [
        ("", None, "no item has label 1"),
        ("a\tp7\t0\n", None, "no item has label 1"),
        ("a\tp7\t1\nb\tp8\n", 2, "no line of a qrel"),
        ("userId\titemId\trating\na\tp7\t2\n", 2, "no label"),
        ("a\tp7\tyes\n", 1, "no label"),
        ("a\tp7\t1\nz\tp7\t1\n", 2, "no such user"),
        ("a\tp7\t1\na\tp70\t1\n", 2, "no such item"),
        ("a\tp7\t1\na\tp9\t1\n", 2, "does not sell"),
        ("a\tp7\t1\na\tp7\t1\n", 2, "twice"),
        ("a\tp7\t1\nb\tp7\t1\n", None, "have no list"),
    ],
)
def test_broken_qrel_files_are_refused_with_their_line(
    corpus: Corpus, tmp_path: Path, qrel: str, line: int | None, word: str
) -> None:
    with pytest.raises(FileFormatError, match=word) as caught:
        resolve(lists(tmp_path, "a\tp7\n", qrel), corpus)
    assert (caught.value.file, caught.value.line) == ("qrel.tsv", line)
    assert caught.value.hint


def test_the_digest_names_market_lists_and_relevance(tmp_path: Path) -> None:
    one = lists(tmp_path, "u\ta,b\nv\tc\n").digest
    assert one == lists(tmp_path, "u\ta\nu\tb\nv\tc").digest
    qrel = "u\ta\t1\n"
    others = [
        lists(tmp_path, "u\ta\nu\tb\nv\td"),
        lists(tmp_path, "u\ta,b\nv\tc\n", market="de"),
        lists(tmp_path, "u\ta,b\nv\tc\n", qrel),
        lists(tmp_path, "u\ta,b\nv\tc\n", "u\tb\t1\n"),
    ]
    assert len({one, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize("qrel", [None, "u\tz\t1\n"])
def test_parquet_brings_the_same_back(tmp_path: Path, qrel: str | None) -> None:
    before = lists(tmp_path, "u\ta,b\n007\tc d\n", qrel)
    after = from_parquet(to_parquet(before))
    assert (after.digest, after.market, after.file, after.qrel) == (before.digest, "jp", "run.tsv", before.qrel)
    assert after.pairs["line"].to_pylist() == [1, 1, 2]
    assert (after.relevant is None) == (qrel is None)


def test_other_bytes_are_no_lists(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        from_parquet(b"PAR1")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"user": ["a"]}), sink)
    with pytest.raises(IntegrityError):
        from_parquet(bytes(sink.getvalue()))


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("", None, "no list"),
        ("u\ta\nv a\n", 2, "no list"),
        ("u\ta\tb\n", 1, "no list"),
        ("u\ta\n\nv\tb\n", 2, "no list"),
        ("u\ta\nu\tb,,c\n", 2, "blank"),
        ("u\ta\nu\t\n", 2, "blank"),
        ("\ta\n", 1, "blank"),
        ("u\ta\nv\0\tb\n", 2, "NUL"),
    ],
)
def test_broken_run_files_are_refused_with_their_line(tmp_path: Path, text: str, line: int | None, word: str) -> None:
    with pytest.raises(FileFormatError, match=word) as caught:
        lists(tmp_path, text)
    assert caught.value.line == line


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"none\.tsv"):
        read_lists(tmp_path / "none.tsv", "jp")


def test_unknown_ids_and_repetitions_are_errors_with_their_line(corpus: Corpus, tmp_path: Path) -> None:
    for text, column in (("a\tp7\nnobody\tp7\n", "user"), ("a\tp7\na\tnothing\n", "item")):
        with pytest.raises(FileFormatError, match=f"line 2, column {column}"):
            resolve(lists(tmp_path, text), corpus)
    with pytest.raises(FileFormatError, match=r"line 2.*twice"):
        resolve(lists(tmp_path, "a\tp7,p8\na\tp7\n"), corpus)
    with pytest.raises(DataError, match="no market 'fr'"):
        resolve(lists(tmp_path, "a\tp7\n", market="fr"), corpus)
