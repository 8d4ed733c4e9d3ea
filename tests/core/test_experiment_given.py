"""A job on imported lists: worked by hand, against ranx, and what is refused before any work."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cmr_core.__main__ import main
from cmr_core.data.lists import Lists
from cmr_core.data.market import Corpus, build_corpus
from cmr_core.data.split import make_split
from cmr_core.errors import DataError, SpecError
from cmr_core.experiment import Outcome, run
from cmr_core.spec import JobSpec, SplitSpec, parse
from cmr_core.training.monitor import QuietMonitor

with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    warnings.simplefilter("ignore")  # numba and its kin warn about themselves on import
    patch.setenv("NUMBA_DISABLE_JIT", "1")
    ranx = pytest.importorskip("ranx", reason="ranx is in the extra `test`, which is not installed")

NAMES = {"recall": "recall", "ndcg": "ndcg", "hit": "hit_rate", "mrr": "mrr", "map": "map", "precision": "precision"}
USERS, ITEMS = 30, 50


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Two markets; item i has been had by the users with a larger random number than i's own, so tastes differ."""
    rows = []
    rng = np.random.default_rng(0)
    for market in ("de", "jp"):
        had = np.argwhere(rng.random((USERS, ITEMS)) < np.linspace(0.05, 0.5, ITEMS))
        rows += [(market, f"{market}{user:02d}", f"p{item:02d}") for user, item in had]
    market, user, item = (pa.array(column) for column in zip(*rows, strict=True))
    rating, day = pa.array([1.0] * len(rows), pa.float32()), pa.array([-1] * len(rows), pa.int32())
    return build_corpus("c", pa.table({"market": market, "user": user, "item": item, "rating": rating, "day": day}))


def drawn(corpus: Corpus, *, judged: bool, market: str = "jp") -> Lists:
    """For every second user 15 items never had; the first three are the right ones if `judged`."""
    own, rng = corpus.markets[market], np.random.default_rng(1)
    had = set(zip(own.user.tolist(), own.item.tolist(), strict=True))
    rows: list[tuple[str, str, int]] = []
    right: list[tuple[str, str, int]] = []
    for user in range(0, len(own.users), 2):
        free = [item for item in own.catalogue if (user, item) not in had]
        picked = [(str(own.users[user]), str(corpus.items[item]), 1) for item in rng.permutation(free)[:15]]
        rows += picked
        right += picked[:3]
    tables = (pa.table(dict(zip(("user", "item", "line"), zip(*t, strict=True), strict=True))) for t in (rows, right))
    pairs, relevant = tables
    return Lists(market, "run.tsv", pairs, "qrel.tsv", relevant) if judged else Lists(market, "run.tsv", pairs)


def job(corpus: Corpus, lists: Lists | None, /, **changes: object) -> JobSpec:
    body = {"corpus": corpus.digest, "target": "jp", "method": "ease", "split": {"kind": "ratio"}}
    chosen = {} if lists is None else {"evaluation": {"candidates": "given", "given": lists.digest}}
    return parse(JobSpec, {**body, **chosen, **changes})


def listed(lists: Lists) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item in zip(lists.pairs["user"].to_pylist(), lists.pairs["item"].to_pylist(), strict=True):
        found.setdefault(user, []).append(item)
    return found


def compare_with_ranx(
    corpus: Corpus, outcome: Outcome, compete: Mapping[str, list[str]], right: Mapping[str, dict[str, int]]
) -> None:
    own, test = corpus.markets["jp"], outcome.test
    column = {str(corpus.items[code]): n for n, code in enumerate(own.catalogue)}
    scores = outcome.recommender.score(test.users)
    ids = [str(own.users[user]) for user in test.users]
    assert sorted(ids) == sorted(right)
    runs = {
        name: {item: float(row[column[item]]) for item in {*compete[name], *right[name]}}
        for name, row in zip(ids, scores, strict=True)
    }
    judged, ranked = ranx.Qrels({name: dict(items) for name, items in right.items()}), ranx.Run(runs)
    ranx.evaluate(judged, ranked, [f"{theirs}@{k}" for theirs in NAMES.values() for k in (5, 10)], make_comparable=True)
    for name, theirs in NAMES.items():
        for k in (5, 10):
            expected = [ranked.scores[f"{theirs}@{k}"][user] for user in ids]
            assert test.values[f"{name}@{k}"].tolist() == pytest.approx(expected, abs=1e-9), f"{name}@{k}"


@pytest.mark.filterwarnings("ignore")
def test_a_qrel_files_items_are_what_the_test_asks_for(corpus: Corpus) -> None:
    lists = drawn(corpus, judged=True)
    assert lists.relevant is not None
    outcome = run(job(corpus, lists), corpus, QuietMonitor(), lists=lists)
    right: dict[str, dict[str, int]] = {}
    for user, item in zip(lists.relevant["user"].to_pylist(), lists.relevant["item"].to_pylist(), strict=True):
        right.setdefault(user, {})[item] = 1
    compare_with_ranx(corpus, outcome, listed(lists), right)


@pytest.mark.filterwarnings("ignore")
def test_without_one_the_splits_items_compete_with_the_listed(corpus: Corpus) -> None:
    lists = drawn(corpus, judged=False)
    outcome = run(job(corpus, lists), corpus, QuietMonitor(), lists=lists)
    own, test = corpus.markets["jp"], make_split(corpus, SplitSpec(kind="ratio")).markets["jp"].test
    right: dict[str, dict[str, int]] = {}
    for user, item in zip(test.user, test.item, strict=True):
        if own.users[user] in listed(lists):
            right.setdefault(str(own.users[user]), {})[str(corpus.items[own.catalogue[item]])] = 1
    compare_with_ranx(corpus, outcome, listed(lists), right)


def test_worked_by_hand() -> None:
    # Everybody has had p0; p1 is had by 36 users, p2 by 27, p3 by 18, p4 by 9, and popularity ranks them so.
    rows = [(f"u{user:02d}", item) for user in range(40) for item in ("p0", "q0", "q1")]
    rows += [(f"u{user:02d}", f"p{item}") for item in (1, 2, 3, 4) for user in range(9 * (5 - item))]
    user, item = (pa.array(column) for column in zip(*rows, strict=True))
    one, day = pa.array([1.0] * len(rows), pa.float32()), pa.array([-1] * len(rows), pa.int32())
    table = pa.table({"market": ["jp"] * len(rows), "user": user, "item": item, "rating": one, "day": day})
    corpus = build_corpus("hand", table)
    # u39 is asked for p3 and p2 among p1..p3; u38 for p4, which is not listed, against p1 and its own p0
    pairs = pa.table(
        {"user": ["u39", "u39", "u39", "u38", "u38"], "item": ["p1", "p2", "p3", "p1", "p0"], "line": range(5)}
    )
    relevant = pa.table({"user": ["u39", "u38", "u39"], "item": ["p3", "p4", "p2"], "line": range(3)})
    lists = Lists("jp", "run", pairs, "qrel", relevant)
    spec = job(corpus, lists, method="popularity")
    split = make_split(corpus, spec.split).markets["jp"]
    popular = np.bincount(split.train.item, minlength=split.n_items)
    assert (np.diff(popular[1:5]) < 0).all(), "the draw has made popularity another order"
    test = run(spec, corpus, QuietMonitor(), lists=lists).test
    assert test.users.tolist() == [38, 39]
    assert list(zip(test.held_user.tolist(), test.held_item.tolist(), test.held_rank.tolist(), strict=True)) == [
        (38, 4, 2), (39, 2, 2), (39, 3, 3),
    ]  # fmt: skip
    gain = 1 / math.log2(3)
    assert test.values["ndcg@5"].tolist() == pytest.approx([gain, (gain + 0.5) / (1 + gain)])


def test_lists_change_no_training(corpus: Corpus) -> None:
    lists = drawn(corpus, judged=True)
    settings = {"tune": False}
    with_lists = run(job(corpus, lists, settings=settings), corpus, QuietMonitor(), lists=lists)
    without = run(job(corpus, None, settings=settings), corpus, QuietMonitor())
    for name, value in without.recommender.arrays().items():
        np.testing.assert_array_equal(value, with_lists.recommender.arrays()[name])
    assert with_lists.valid.means() != without.valid.means()


@pytest.mark.parametrize("method", ["ease-weighted", "lightgcn-all"])
def test_methods_that_look_at_sources_need_no_lists_for_them(corpus: Corpus, method: str) -> None:
    lists = drawn(corpus, judged=True)
    small = {"lightgcn-all": {"dimensions": 4, "layers": 1, "backbone_epochs": 2, "backbone_eval_every": 1}}
    spec = job(corpus, lists, method=method, sources=["de"], settings=small.get(method, {}))
    assert len(run(spec, corpus, QuietMonitor(), lists=lists).test.users) == USERS // 2


def test_a_job_and_its_lists_belong_together(corpus: Corpus) -> None:
    lists, other = drawn(corpus, judged=True), drawn(corpus, judged=False)
    de = drawn(corpus, judged=False, market="de")
    cases = [(lists, other, "asks for candidate lists"), (lists, None, "no candidate lists came"), (de, de, "'de'")]
    for named, handed, words in [*cases, (None, lists, "asks for no candidate lists")]:
        monitor = QuietMonitor()
        with pytest.raises(SpecError, match=words):
            run(job(corpus, named), corpus, monitor, lists=handed)
        assert not monitor.progress


def test_lists_of_nobody_who_is_evaluated_are_refused(corpus: Corpus) -> None:
    rows = [("jp", "lonely", "p10")] + [("jp", f"u{u}", f"p{i}") for u in range(5) for i in range(10, 16)]
    market, user, item = (pa.array(column) for column in zip(*rows, strict=True))
    one, day = pa.array([1.0] * len(rows), pa.float32()), pa.array([-1] * len(rows), pa.int32())
    small = build_corpus("s", pa.table({"market": market, "user": user, "item": item, "rating": one, "day": day}))
    lists = Lists("jp", "run", pa.table({"user": ["lonely"], "item": ["p12"], "line": [1]}))
    with pytest.raises(DataError, match="None of the 1 listed users"):
        run(job(small, lists), small, QuietMonitor(), lists=lists)


def test_the_protocol_says_which_lists(corpus: Corpus) -> None:
    lists, other = drawn(corpus, judged=True), drawn(corpus, judged=False)
    assert job(corpus, lists).protocol_text() == f"ratio 80/10/10 · given ({lists.digest[:8]})"
    assert job(corpus, lists).protocol() != job(corpus, other).protocol()


def test_the_command_line_takes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["userId itemId rate date"]
    lines += [f"u{u} p{(u + i) % 12:02d} 5 2019-01-{i + 1:02d}" for u in range(12) for i in range(7)]
    (tmp_path / "jp_5core.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "run.tsv").write_text("u0\tp07,p08,p09\nu1\tp08,p09,p10\n")
    (tmp_path / "qrel.tsv").write_text("userId\titemId\trating\nu0\tp08\t1\nu1\tp10\t1\n")
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"target": "jp", "method": "ease", "split": {"kind": "ratio"}}))
    words = [str(path), "--data", str(tmp_path / "jp_5core.txt")]
    files = ["--given", str(tmp_path / "run.tsv"), "--qrel", str(tmp_path / "qrel.tsv")]
    assert main([*words, *files, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "2 test users" in out
    assert "given (" in out
    assert main([*words, *files[2:]]) == 2
    assert "--qrel goes with --given" in capsys.readouterr().err
    path.write_text(json.dumps({"target": "jp", "method": "ease", "evaluation": {"candidates": "catalogue"}}))
    assert main([*words, *files]) == 2
    assert "candidate list" in capsys.readouterr().err
