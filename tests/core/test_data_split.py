"""Splits, candidates and the stored form of a corpus, against naive oracles and properties."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.data.codec import from_parquet, to_parquet
from cmr_core.data.market import Corpus, build_corpus
from cmr_core.data.sampling import own_items, sample_candidates
from cmr_core.data.split import MarketSplit, make_split
from cmr_core.errors import DataError, IntegrityError, SpecError
from cmr_core.interfaces import Pairs
from cmr_core.spec import EvalSpec, JobSpec, SplitSpec, parse

Row = tuple[str, str, str, float, int]
KINDS = [
    SplitSpec(kind="ratio"),
    SplitSpec(kind="leave-one-out"),
    SplitSpec(kind="leave-one-out", order="latest"),
    SplitSpec(kind="temporal", valid=0.2, test=0.2),
    SplitSpec(kind="events"),
]


def corpus_of(rows: list[Row]) -> Corpus:
    market, user, item, rating, day = zip(*rows, strict=True)
    columns = {"market": market, "user": user, "item": item}
    table = pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()})
    table = table.append_column("rating", pa.array(rating, pa.float32()))
    return build_corpus("c", table.append_column("day", pa.array(day, pa.int32())))


rows_strategy = st.lists(
    st.tuples(
        st.sampled_from(["aa", "bb"]),
        st.sampled_from("uvwxy"),
        st.integers(0, 15).map("i{:02d}".format),
        st.sampled_from([1.0, 3.0, 5.0]),
        st.integers(100, 115),
    ),
    min_size=8,
    max_size=120,
)


def triples(corpus: Corpus, market: MarketSplit, part: Pairs) -> list[tuple[str, str, int]]:
    users, items = corpus.markets[market.name].users, corpus.items[market.catalogue]
    return [(users[u], items[i], int(d)) for u, i, d in zip(part.user, part.item, part.day, strict=True)]


def parts(corpus: Corpus, market: MarketSplit) -> dict[str, list[tuple[str, str, int]]]:
    return {name: triples(corpus, market, getattr(market, name)) for name in ("train", "valid", "test")}


def deduplicated(rows: list[Row], market: str, lowest: float = 0) -> set[tuple[str, str, int]]:
    """The naive way: a dictionary that keeps the earliest day."""
    first: dict[tuple[str, str], int] = {}
    for name, user, item, rating, day in rows:
        if name == market and rating >= lowest:
            first[user, item] = min(day, first.get((user, item), day))
    return {(user, item, day) for (user, item), day in first.items()}


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: f"{s.kind}-{s.order}")
@given(rows=rows_strategy, seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_parts_hold_every_pair_once_and_obey_the_rule(spec: SplitSpec, rows: list[Row], seed: int) -> None:
    corpus = corpus_of(rows)
    spec = spec.model_copy(update={"seed": seed})
    if spec.kind == "temporal":
        days = sorted(day for m in corpus.markets for _, _, day in deduplicated(rows, m))
        valid_from, test_from = days[int(len(days) * 0.6)], days[int(len(days) * 0.8)]
        if not days[0] < valid_from < test_from:
            with pytest.raises(DataError):
                make_split(corpus, spec)
            return
    split = make_split(corpus, spec)
    for name, market in split.markets.items():
        found = parts(corpus, market)
        together = [row for part in found.values() for row in part]
        expected = deduplicated(rows, name)
        assert len(together) == len(set(together))
        assert set(together) <= expected
        assert [len(corpus.items[market.catalogue])] == [len({i for m, _, i, _, _ in rows if m == name})]
        for user in {u for u, _, _ in expected}:
            own = {part: [row for row in found[part] if row[0] == user] for part in found}
            all_rows = [row for row in expected if row[0] == user]
            if spec.kind != "temporal":
                assert sorted(row for part in own.values() for row in part) == sorted(all_rows)
                assert own["train"]
                assert bool(own["valid"]) == bool(own["test"])
            check_rule(spec, own, all_rows, (valid_from, test_from) if spec.kind == "temporal" else None)


def check_rule(spec: SplitSpec, own: dict[str, list], all_rows: list, points: tuple[int, int] | None) -> None:
    n, days = len(all_rows), {row[2] for row in all_rows}
    if points:
        before = [row for row in all_rows if row[2] < points[0]]
        assert sorted(own["train"]) == sorted(before)
        assert sorted(own["test"]) == (sorted(row for row in all_rows if row[2] >= points[1]) if before else [])
    elif spec.kind == "events":
        held = [{row[2] for row in own[part]} for part in ("train", "valid", "test")]
        assert sum(map(len, held)) == len(days)  # no day on two sides
        assert bool(own["test"]) == (len(days) >= 3)
    elif spec.kind == "ratio":
        assert len(own["test"]) == (max(1, int(0.1 * n + 0.5)) if n >= 3 else 0)
    else:
        assert (len(own["valid"]), len(own["test"])) == ((1, 1) if n >= 3 else (0, 0))
        if spec.order == "latest" and n >= 3:
            assert own["test"][0][2] >= own["valid"][0][2] >= max(row[2] for row in own["train"])


@pytest.mark.parametrize("spec", [k for k in KINDS if k.kind != "temporal"], ids=lambda s: f"{s.kind}-{s.order}")
@given(rows=rows_strategy, order=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_neither_other_markets_nor_the_files_order_matter(spec: SplitSpec, rows: list[Row], order) -> None:
    shuffled = [row for row in rows if row[0] == rows[0][0]]
    order.shuffle(shuffled)
    both, alone = corpus_of(rows), corpus_of(shuffled)
    name = rows[0][0]
    split, other = make_split(both, spec), make_split(alone, spec)
    assert parts(both, split.markets[name]) == parts(alone, other.markets[name])
    assert split.task(name, []).target_digest == other.task(name, []).target_digest


def test_ratings_below_the_limit_take_no_part_but_stay_in_the_catalogue() -> None:
    rows = [("aa", "u", f"i{k}", float(k % 5 + 1), 100 + k) for k in range(20)]
    market = make_split(corpus_of(rows), SplitSpec(kind="ratio", min_rating=4)).markets["aa"]
    assert len(market.train) + len(market.valid) + len(market.test) == 8
    assert market.n_items == 20
    with pytest.raises(DataError, match="no interaction left"):
        make_split(corpus_of(rows), SplitSpec(kind="ratio", min_rating=5.5))


def test_an_unknown_day_does_not_pass_for_the_earliest() -> None:
    rows = [("aa", "u", "i", 5.0, -1), ("aa", "u", "i", 5.0, 200)]
    assert make_split(corpus_of(rows), SplitSpec(kind="ratio")).markets["aa"].train.day.tolist() == [200]


def test_kept_repeats_leak_only_where_the_rule_says_so() -> None:
    rng = np.random.default_rng(0)
    rows = [("aa", f"u{rng.integers(9)}", f"i{rng.integers(8)}", 5.0, int(rng.integers(100, 140))) for _ in range(400)]
    corpus = corpus_of(rows)
    leak = {}
    for spec in KINDS:
        market = make_split(corpus, spec.model_copy(update={"deduplicate": False})).markets["aa"]
        pairs = {n: [row[:2] for row in part] for n, part in parts(corpus, market).items()}
        assert len(set(pairs["test"])) == len(pairs["test"])
        leak[spec.kind] = len(set(pairs["test"]) & (set(pairs["train"]) | set(pairs["valid"])))
        assert len(pairs["train"]) > len(set(pairs["train"]))
    assert leak["ratio"] > 0
    assert leak["temporal"] == leak["events"] == 0


def test_large_shares_still_leave_a_row_in_train() -> None:
    rows = [("aa", f"u{n}", f"i{k}", 5.0, 100 + k) for n in range(1, 12) for k in range(n)]
    for kind in ("ratio", "events"):
        market = make_split(corpus_of(rows), SplitSpec(kind=kind, valid=0.49, test=0.49)).markets["aa"]
        assert (np.bincount(market.train.user, minlength=11) >= 1).all()
        assert set(market.valid.user) == set(market.test.user)


def test_held_out_shares_come_close_to_what_was_asked() -> None:
    rows = [("aa", f"u{u}", f"i{k:03d}", 5.0, 100 + k // 2) for u in range(50) for k in range(100)]
    market = make_split(corpus_of(rows), SplitSpec(kind="events")).markets["aa"]
    assert len(market.test) == pytest.approx(500, rel=0.05)
    assert len(market.valid) == pytest.approx(500, rel=0.05)


@pytest.mark.parametrize("spec", [KINDS[2], KINDS[3], KINDS[4]], ids=lambda s: s.kind)
def test_missing_dates_are_an_error_that_names_the_market(spec: SplitSpec) -> None:
    rows = [("aa", "u", f"i{k}", 5.0, k) for k in range(5)] + [("bb", "u", "i1", 5.0, -1)]
    with pytest.raises(DataError, match="bb") as caught:
        make_split(corpus_of(rows), spec)
    assert "ratio" in caught.value.hint


def some_corpus(seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    sells = {"aa": (0, 60), "bb": (30, 110), "cc": (50, 62)}
    return corpus_of(
        [
            (name, f"u{u}", f"i{rng.integers(low, high):03d}", 5.0, int(rng.integers(100, 160)))
            for name, (low, high) in sells.items()
            for u in range(12)
            for _ in range(9)
        ]
    )


def test_task_digests_name_the_training_pairs_and_nothing_else() -> None:
    split = make_split(some_corpus(), SplitSpec(kind="ratio"))
    one, two = split.task("aa", ["bb", "cc"]), split.task("bb", ["cc", "aa"])
    assert one.digest == two.digest
    assert one.target_digest != two.target_digest
    assert one.target_digest == split.task("aa", []).target_digest
    assert one.digest != split.task("aa", ["bb"]).digest
    assert one.digest != make_split(some_corpus(), SplitSpec(kind="ratio", seed=1)).task("aa", ["bb", "cc"]).digest
    assert [m.name for m in one.sources] == ["bb", "cc"]
    for wrong in (("aa", ["aa"]), ("aa", ["bb", "bb"]), ("zz", []), ("aa", ["zz"])):
        with pytest.raises(SpecError):
            split.task(*wrong)


def test_full_sources_give_all_their_rows_and_the_target_only_its_training_rows() -> None:
    split = make_split(some_corpus(), SplitSpec(kind="ratio", sources="full"))
    task = split.task("aa", ["bb"])
    source, target = split.markets["bb"], split.markets["aa"]
    assert len(task.sources[0].train) == len(source.train) + len(source.valid) + len(source.test)
    assert len(task.target.train) == len(target.train)
    assert task.digest != split.task("bb", ["aa"]).digest


@pytest.mark.parametrize("kind", ["sampled-market", "sampled-global"])
@given(seed=st.integers(0, 50), k=st.integers(1, 130))
@settings(max_examples=25, deadline=None)
def test_negatives_are_new_to_the_user_different_and_from_the_pool(kind: str, seed: int, k: int) -> None:
    split = make_split(some_corpus(seed), SplitSpec(kind="leave-one-out"))
    for name, market in split.markets.items():
        found = sample_candidates(split, name, "test", EvalSpec(candidates=kind, negatives=k, seed=seed))
        assert found is not None
        assert found.users.tolist() == sorted(set(market.test.user.tolist()))
        assert found.negatives.shape == (len(found.users), k)
        everything = own_items(market)
        for user, row in zip(found.users, found.negatives, strict=True):
            own, listed = set(everything.item[everything.user == user].tolist()), row[row >= 0].tolist()
            assert not own & set(listed)
            assert len(listed) == len(set(listed))
            assert not listed or max(listed) < market.n_items
            if kind == "sampled-market":
                assert len(listed) == min(k, market.n_items - len(own))


@pytest.mark.parametrize(("k", "n_items"), [(3, 40), (20, 40)])
def test_every_free_item_is_equally_likely(k: int, n_items: int) -> None:
    rows = [("aa", f"u{u}", f"i{(u * 7 + j) % n_items:02d}", 5.0, j) for u in range(200) for j in range(5)]
    split = make_split(corpus_of(rows), SplitSpec(kind="leave-one-out"))
    counts = np.zeros(n_items)
    for seed in range(40):
        drawn = sample_candidates(split, "aa", "test", EvalSpec(candidates="sampled-market", negatives=k, seed=seed))
        assert drawn is not None
        counts += np.bincount(drawn.negatives.ravel(), minlength=n_items)
    expected = 40 * 200 * k / n_items
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_global_negatives_that_the_market_does_not_sell_are_marked() -> None:
    split = make_split(some_corpus(), SplitSpec(kind="leave-one-out"))
    found = sample_candidates(split, "cc", "test", EvalSpec(candidates="sampled-global", negatives=20))
    assert found is not None
    unsold = 1 - split.markets["cc"].n_items / split.n_items
    assert (found.negatives == -1).mean() == pytest.approx(unsold, abs=0.12)


def test_candidates_follow_from_seed_market_and_part() -> None:
    split = make_split(some_corpus(), SplitSpec(kind="leave-one-out"))

    def drawn(market: str = "bb", part: str = "test", seed: int = 0) -> list:
        found = sample_candidates(split, market, part, EvalSpec(candidates="sampled-market", negatives=5, seed=seed))
        assert found is not None
        return found.negatives.tolist()

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn() != drawn(part="valid")
    assert sample_candidates(split, "bb", "test", EvalSpec()) is None


def test_a_corpus_survives_storage_with_its_digest() -> None:
    rows = [("aa", "007", "1e5", 5.0, 3), ("aa", "7", "nan", 2.5, -1), ("bb", "é\U0001f600", "NULL", 1.0, 4)]
    corpus = corpus_of(rows)
    again = from_parquet(to_parquet(corpus), "other")
    assert again.digest == corpus.digest
    assert again.name == "other"
    assert again.markets["aa"].users.tolist() == ["007", "7"]
    assert to_parquet(again) == to_parquet(corpus)
    for broken in (b"", b"PAR1", to_parquet(corpus)[:-30]):
        with pytest.raises(IntegrityError):
            from_parquet(broken, "x")


@settings(deadline=None, max_examples=25)
@given(rows=rows_strategy, spec=st.sampled_from(KINDS))
def test_the_catalogue_of_all_markets_changes_codes_and_nothing_else(rows: list[Row], spec: SplitSpec) -> None:
    corpus = corpus_of(rows)
    try:
        own = make_split(corpus, spec)
    except DataError:
        return
    wide = make_split(corpus, spec.model_copy(update={"catalogue": "all"}))
    for name, market in wide.markets.items():
        assert list(corpus.items[market.catalogue]) == list(corpus.items)
        assert parts(corpus, market) == parts(corpus, own.markets[name])
        one, other = (
            sample_candidates(split, name, "test", EvalSpec(candidates="sampled-global", negatives=3))
            for split in (own, wide)
        )
        assert one is not None
        assert other is not None
        sold = {int(code): at for at, code in enumerate(own.markets[name].catalogue)}
        translated = [[sold.get(int(code), -1) for code in row] for row in other.negatives]
        assert translated == one.negatives.tolist()
    assert wide.digest != own.digest


def test_a_choice_that_came_later_leaves_the_names_of_older_splits_alone() -> None:
    assert "catalogue" not in SplitSpec().model_dump()
    assert SplitSpec.model_validate(SplitSpec(catalogue="all").model_dump()).catalogue == "all"
    assert SplitSpec().digest() == "5563582d94e14c5feb406cf462d994d3a8cc7d3e4660f0803f7c6d86bf636535"


def test_imported_lists_need_the_markets_own_catalogue() -> None:
    job = {"corpus": "0" * 64, "target": "jp", "method": "popularity"}
    evaluation = {"candidates": "given", "given": "1" * 64}
    parse(JobSpec, {**job, "evaluation": evaluation})
    with pytest.raises(SpecError, match="imported lists"):
        parse(JobSpec, {**job, "evaluation": evaluation, "split": {"catalogue": "all"}})
