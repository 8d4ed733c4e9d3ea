"""Imported candidate lists, from the file to the sampler's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmr_core.data.given import candidates, read_lists
from cmr_core.data.market import Corpus
from cmr_core.data.sampling import sample_candidates
from cmr_core.data.split import make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import FileFormatError, SpecError
from cmr_core.spec import EvalSpec, SplitSpec


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic(0, 0.02)


def write(folder: Path, text: str) -> Path:
    path = folder / "valid_run.tsv"
    path.write_bytes(text.encode())
    return path


def test_lists_become_candidates_in_local_codes(corpus: Corpus, tmp_path: Path) -> None:
    market = corpus.markets["jp"]
    sold = [str(corpus.items[code]) for code in market.catalogue[[3, 1, 5]]]
    foreign = next(str(item) for code, item in enumerate(corpus.items) if code not in market.catalogue)
    second, first = market.users[2], market.users[0]
    lists = read_lists(write(tmp_path, f"{second}\t{sold[0]},{foreign},{sold[1]}\r\n{first}\t{sold[2]}\n"))
    found = candidates(lists, corpus, "jp")
    assert found.users.tolist() == [0, 2]
    assert [sorted(row) for row in found.negatives.tolist()] == [[-1, -1, 5], [-1, 1, 3]]
    spec = EvalSpec(candidates="given", given=lists.digest)
    split = make_split(corpus, SplitSpec(kind="ratio"))
    assert sample_candidates(split, "jp", "test", spec, given={"jp": found}) is found
    with pytest.raises(SpecError, match="de"):
        sample_candidates(split, "de", "test", spec, given={"jp": found})
    with pytest.raises(SpecError):
        sample_candidates(split, "jp", "test", spec)


def test_the_digest_names_the_lists(tmp_path: Path) -> None:
    one = read_lists(write(tmp_path, "u\ta,b\nv\tc\n")).digest
    assert one == read_lists(write(tmp_path, "u\ta\nu\tb\nv\tc")).digest
    assert one != read_lists(write(tmp_path, "u\ta\nu\tb\nv\td")).digest


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
def test_broken_files_are_refused_with_their_line(tmp_path: Path, text: str, line: int | None, word: str) -> None:
    with pytest.raises(FileFormatError, match=word) as caught:
        read_lists(write(tmp_path, text))
    assert caught.value.line == line


def test_unknown_ids_and_repetitions_are_errors_with_their_line(corpus: Corpus, tmp_path: Path) -> None:
    market = corpus.markets["jp"]
    user, item, other = market.users[0], *corpus.items[market.catalogue[:2]]
    for text, column in ((f"{user}\t{item}\nnobody\t{item}\n", "user"), (f"{user}\t{item}\n{user}\tnothing\n", "item")):
        with pytest.raises(FileFormatError, match=f"line 2, column {column}"):
            candidates(read_lists(write(tmp_path, text)), corpus, "jp")
    with pytest.raises(FileFormatError, match=r"line 2.*twice"):
        candidates(read_lists(write(tmp_path, f"{user}\t{item},{other}\n{user}\t{item}\n")), corpus, "jp")
