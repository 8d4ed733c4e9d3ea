"""Evaluation as a whole against a loop over users; masking, candidates, chance level, groups, the judge."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_core.data.sampling import Candidates, sample_candidates
from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import TrainingError
from cmr_core.evaluation import evaluate as module
from cmr_core.evaluation.evaluate import Judge, Score, evaluate
from cmr_core.evaluation.tables import held_out, per_user, topk
from cmr_core.evaluation.topk import tie_keys
from cmr_core.interfaces import IntArray, Pairs
from cmr_core.spec import EvalSpec, SplitSpec

SPEC = EvalSpec(cutoffs=(2, 5, 10))
Part = Literal["valid", "test"]


def pairs(rows: list[tuple[int, int]]) -> Pairs:
    user, item = np.array(rows, dtype=np.int32).reshape(-1, 2).T
    return Pairs(user, item, np.zeros(len(user), dtype=np.int32))


def market(seed: int = 0, users: int = 30, items: int = 40, repeats: bool = False) -> MarketSplit:
    """Random parts; with `repeats` held-out pairs may be in training too."""
    rng = np.random.default_rng(seed)
    draw = rng.random((users, items))
    train, valid, test = (
        [(int(u), int(i)) for u, i in np.argwhere((draw >= lo) & (draw < hi))]
        for lo, hi in ((0, 0.1), (0.08 if repeats else 0.1, 0.13), (0.13, 0.17))
    )
    return MarketSplit("xx", users, np.arange(items, dtype=np.int32) * 2, pairs(train), pairs(valid), pairs(test))


def split_of(own: MarketSplit) -> Split:
    return Split(SplitSpec(), "0" * 64, 100, {own.name: own})


def fixed(scores: np.ndarray) -> Score:
    return lambda users: scores[users]


def had(own: MarketSplit, part: Part, user: int) -> set[int]:
    past = (own.train,) if part == "valid" else (own.train, own.valid)
    return {int(i) for p in past for u, i in zip(p.user, p.item, strict=True) if u == user}


def naive_ranks(
    scores: np.ndarray, own: MarketSplit, part: Part, negatives: dict[int, IntArray] | None
) -> list[tuple[int, int, int]]:
    """(user, item, rank), by sorting each user's candidates."""
    held = own.valid if part == "valid" else own.test
    result = []
    for user in sorted(set(held.user.tolist())):
        mine = set(held.item[held.user == user].tolist())
        others = set(range(own.n_items)) - had(own, part, user) if negatives is None else set(negatives[user].tolist())
        keys = tie_keys(SPEC.seed, np.array([user]), np.arange(own.n_items))
        order = sorted((others | mine) - {-1}, key=lambda i: (-scores[user, i], int(keys[i])))
        result += [(user, i, r) for r, i in enumerate(order, 1) if i in mine]
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["valid", "test"]),
    st.sampled_from(["catalogue", "sampled-market", "sampled-global"]),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_ranks_and_lists_equal_a_loop(seed: int, part: Part, kind: str, repeats: bool, dtype: type) -> None:
    own = market(seed, repeats=repeats)
    scores = np.random.default_rng(seed).integers(0, 6, (30, 40)).astype(dtype)
    spec = SPEC.model_copy(update={"candidates": kind, "negatives": 7})
    drawn = sample_candidates(split_of(own), "xx", part, spec)
    found = evaluate(fixed(scores), own, part, spec, drawn, lists=6)
    negatives = None if drawn is None else dict(zip(drawn.users.tolist(), drawn.negatives, strict=True))
    rows = list(zip(found.held_user.tolist(), found.held_item.tolist(), found.held_rank.tolist(), strict=True))
    assert rows == naive_ranks(scores, own, part, negatives)
    for user, items, values in zip(found.top_users, found.top_items, found.top_scores, strict=True):
        free = [i for i in range(40) if i not in had(own, part, user)]
        assert not set(items.tolist()) & had(own, part, user)
        assert sorted((scores[user, free]).tolist(), reverse=True)[:6] == values.tolist()


def test_list_positions_are_the_ranks_in_the_whole_catalogue() -> None:
    own = market(3)
    found = evaluate(fixed(np.zeros((30, 40))), own, "test", SPEC, None, lists=40)
    place = {(u, i): r for u, row in zip(found.top_users, found.top_items, strict=True) for r, i in enumerate(row, 1)}
    held = zip(found.held_user, found.held_item, found.held_rank, strict=True)
    assert all(place[u, i] == rank for u, i, rank in held)


def test_validation_items_compete_at_validation_but_are_masked_at_the_test() -> None:
    own = MarketSplit("xx", 1, np.arange(4, dtype=np.int32), pairs([(0, 0)]), pairs([(0, 1)]), pairs([(0, 2)]))
    scores = np.array([[9.0, 8.0, 7.0, 1.0]])
    assert evaluate(fixed(scores), own, "valid", SPEC, None).held_rank.tolist() == [1]
    found = evaluate(fixed(scores), own, "test", SPEC, None)
    assert found.held_rank.tolist() == [1]
    assert found.top_items.tolist() == [[2, 3, -1, -1]]
    assert evaluate(fixed(scores[:, ::-1]), own, "valid", SPEC, None).held_rank.tolist() == [3]


def test_items_not_sold_rank_last_however_low_the_score() -> None:
    own = MarketSplit("xx", 1, np.arange(3, dtype=np.int32), pairs([(0, 0)]), pairs([]), pairs([(0, 1)]))
    drawn = Candidates(np.array([0]), np.array([[-1, -1, 2]]))
    assert evaluate(fixed(np.array([[0.0, -1e9, 5.0]])), own, "test", SPEC, drawn).held_rank.tolist() == [2]


def test_a_given_list_that_names_held_out_items_counts_them_once() -> None:
    own = MarketSplit("xx", 2, np.arange(4, dtype=np.int32), pairs([]), pairs([]), pairs([(0, 1), (0, 2), (1, 3)]))
    drawn = Candidates(np.array([0]), np.array([[1, 2, 3]]))
    found = evaluate(fixed(np.tile([0.0, 3.0, 2.0, 2.5], (2, 1))), own, "test", SPEC, drawn)
    assert found.users.tolist() == [0]  # user 1 has no list
    assert found.held_rank.tolist() == [1, 3]


def test_users_without_held_out_items_are_not_counted() -> None:
    own = MarketSplit("xx", 3, np.arange(4, dtype=np.int32), pairs([(0, 0), (2, 0)]), pairs([]), pairs([(2, 1)]))
    found = evaluate(fixed(np.array([[0.0, 5.0, 1.0, 1.0]] * 3)), own, "test", SPEC, None)
    assert found.users.tolist() == [2]
    assert found.means()["recall@2"] == 1


def test_a_part_without_rows_gives_no_users_and_no_error() -> None:
    own = market(1)
    empty = MarketSplit("xx", own.n_users, own.catalogue, own.train, pairs([]), pairs([]))
    found = evaluate(fixed(np.zeros((30, 40))), empty, "test", SPEC, None)
    assert (len(found.users), found.slices, len(found.top_items)) == (0, [], 0)
    assert math.isnan(found.overall["coverage@5"])
    assert math.isnan(Judge(split_of(empty), EvalSpec())("xx", fixed(np.zeros((30, 40)))))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(wrong: float) -> None:
    own, scores = market(1), np.zeros((30, 40))
    scores[own.test.user[0], 5] = wrong
    with pytest.raises(TrainingError, match=r"1 of .* users of market xx are not finite"):
        evaluate(fixed(scores), own, "test", SPEC, None)


def test_scores_of_the_wrong_shape_are_an_error() -> None:
    with pytest.raises(TrainingError, match="40 items"):
        evaluate(fixed(np.zeros((30, 39))), market(1), "test", SPEC, None)


def test_the_methods_own_scores_are_left_alone() -> None:
    scores = np.zeros((30, 40), dtype=np.float32)
    scores.flags.writeable = False
    evaluate(lambda users: scores[: len(users)], market(1), "test", SPEC, None)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own, scores = market(5), np.random.default_rng(5).integers(0, 3, (30, 40)).astype(float)
    spec = SPEC.model_copy(update={"candidates": "sampled-market"})
    drawn = sample_candidates(split_of(own), "xx", "test", spec)
    whole = evaluate(fixed(scores), own, "test", spec, drawn)
    monkeypatch.setattr(module, "CELLS", 90)  # two users at a time
    parts = evaluate(fixed(scores), own, "test", spec, drawn)
    assert whole.slices == parts.slices
    assert whole.overall == parts.overall
    assert (whole.top_items == parts.top_items).all()


def one_held_out(users: int, items: int) -> MarketSplit:
    rng = np.random.default_rng(0)
    test = pairs([(u, int(rng.integers(items))) for u in range(users)])
    return MarketSplit("xx", users, np.arange(items, dtype=np.int32), pairs([]), pairs([]), test)


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_scores_that_know_nothing_give_chance_level(kind: str) -> None:
    """One held-out item among 99 negatives: recall@10 is .1, whether scores are random or all the same."""
    own, spec = one_held_out(4000, 300), EvalSpec(candidates="sampled-market", negatives=99)
    noise = np.random.default_rng(1).random((4000, 300), dtype=np.float32)
    scores = noise if kind == "random" else np.zeros((4000, 300), dtype=np.float32)
    drawn = sample_candidates(split_of(own), "xx", "test", spec)
    found = evaluate(fixed(scores), own, "test", spec, drawn)
    assert found.means()["recall@10"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000))
    whole = evaluate(fixed(scores), own, "test", EvalSpec(), None)
    assert whole.means()["recall@20"] == pytest.approx(20 / 300, abs=4 * math.sqrt(0.0622 / 4000))


def test_groups_by_hand() -> None:
    """User 0 (5 training items) has two cold items held out, user 1 (1 training item) a known one."""
    train = pairs([(0, i) for i in range(5)] + [(1, 0)])
    own = MarketSplit("xx", 2, np.arange(8, dtype=np.int32), train, pairs([]), pairs([(0, 7), (0, 6), (1, 1)]))
    scores = np.array([[0, 0, 0, 0, 0, 3, 2, 1], [0, 9, 0, 0, 0, 0, 0, 0]], dtype=float)
    found = evaluate(fixed(scores), own, "test", EvalSpec(cutoffs=(2, 10), select="ndcg@10"), None)
    rows = {(row.slice, row.name): (row.value, row.n) for row in found.slices}
    assert rows["all", "recall@2"] == (0.75, 2)
    assert rows["user:5-9", "recall@2"] == (0.5, 1)
    assert rows["user:1-4", "recall@2"] == (1.0, 1)
    assert rows["item:0", "recall@2"] == (0.5, 1)
    assert rows["item:1-4", "recall@2"] == (1.0, 1)
    assert ("item:20+", "recall@2") not in rows


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.sampled_from(["ndcg@10", "recall@5", "mrr@10"]), st.booleans())
def test_the_judge_says_what_evaluation_says_of_validation(seed: int, select: str, sampled: bool) -> None:
    own, scores = market(seed), np.random.default_rng(seed).integers(0, 9, (30, 40)).astype(np.float32)
    spec = EvalSpec(select=select, candidates="sampled-global" if sampled else "catalogue", negatives=9)
    drawn = sample_candidates(split_of(own), "xx", "valid", spec)
    judge = Judge(split_of(own), spec)
    expected = evaluate(fixed(scores), own, "valid", spec, drawn).means()[select]
    assert judge("xx", fixed(scores)) == pytest.approx(expected, abs=1e-12)
    assert judge("xx", fixed(scores)) == pytest.approx(expected, abs=1e-12)  # and again, from what it has prepared


def test_the_judges_digest_names_split_candidates_and_metric() -> None:
    split = split_of(market(1))
    specs = [EvalSpec(), EvalSpec(seed=1), EvalSpec(candidates="sampled-market"), EvalSpec(select="recall@10")]
    digests = [Judge(split, spec).digest for spec in specs]
    other = Split(SplitSpec(seed=1), split.corpus_digest, split.n_items, split.markets)
    assert len({*digests, Judge(other, EvalSpec()).digest}) == 5
    assert Judge(split, EvalSpec(cutoffs=(10,))).digest == digests[0]


def test_only_the_target_judges_where_sources_train_on_everything() -> None:
    own = market(1)
    both = {"xx": own, "yy": replace(own, name="yy")}
    scores = fixed(np.random.default_rng(0).random((30, 40)))
    full = Judge(Split(SplitSpec(sources="full"), "0" * 64, 100, both), EvalSpec(), target="xx")
    train = Judge(Split(SplitSpec(), "0" * 64, 100, both), EvalSpec(), target="xx")
    assert math.isnan(full("yy", scores))
    assert full("xx", scores) == train("xx", scores) == train("yy", scores)


def test_tables_carry_readable_ids() -> None:
    own = MarketSplit("xx", 2, np.array([3, 5, 8]), pairs([(1, 0), (1, 1)]), pairs([]), pairs([(1, 2)]))
    found = evaluate(fixed(np.array([[1.0, 2.0, 3.0]] * 2)), own, "test", EvalSpec(cutoffs=(10,)), None)
    users, items = np.array(["007", "8"], dtype=object), np.array(["a", "b", "c"], dtype=object)
    table = per_user(found, users, np.array([0, 2]))
    assert table[["user", "user_id", "n_train", "ndcg@10"]].values.tolist() == [[1, "8", 2, 1.0]]
    assert topk(found, users, items).values.tolist() == [[1, "8", 1, 2, "c", 3.0]]
    assert held_out(found, users, items).values.tolist() == [[1, "8", 2, "c", 1]]
