"""From a scoring function to numbers: ranks, metrics per user, groups, and the lists that users would be shown.

Candidates. Without a list the user's candidates are the market's whole catalogue without what the user has had in
training (and, for the test, in validation). With a list they are the user's negatives and held-out items. A held-out
item is a candidate in any case, also where repeats are kept and the user has had it before; top lists never show what
the user has had. Top lists are always drawn from the whole catalogue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeGuard

import numpy as np

from cmr_core.data.sampling import Candidates, Part, sample_candidates
from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import TrainingError
from cmr_core.evaluation.groups import ITEM_BOUNDS, USER_BOUNDS, group_names, group_of
from cmr_core.evaluation.metrics import METRICS, beyond_accuracy, per_user
from cmr_core.evaluation.topk import CELLS, ranks, top_k
from cmr_core.interfaces import FloatArray, IntArray, ListScoring
from cmr_core.spec import EvalSpec

Score = Callable[[IntArray], FloatArray]
LISTS = 50  # items per user in a top list
COSTLY_LISTS = 200  # users whose top lists are made where a catalogue is dear and nobody needs it for the metrics
WIDE = 2**31  # above every item code, so that row * WIDE + item orders pairs


class Slice(NamedTuple):
    """The mean of metric `name` over the `n` users of a group; `all` is everybody who was evaluated."""

    slice: str
    name: str
    value: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Everything known about one method on one part of one market. Codes are local to the market."""

    market: str
    part: Part
    users: IntArray  # (n,) evaluated users, ascending: those with held-out items
    values: dict[str, FloatArray]  # e.g. "ndcg@10": (n,) float64
    overall: dict[str, float]  # coverage@k, novelty@k, gini@k, popularity@k; empty unless everybody has a list
    slices: list[Slice]  # groups in which there is nobody are left out
    top_users: IntArray  # (t,) whose lists follow: `users`, or some of them where a method's catalogue is dear, or none
    top_items: IntArray  # (t, K) int32, best first; -1 where a list is short
    top_scores: FloatArray  # (t, K); -inf where a list is short
    held_user: IntArray  # (H,) one row per held-out item, ascending by user and rank
    held_item: IntArray  # (H,)
    held_rank: IntArray  # (H,) 1-based, among the candidates

    def means(self) -> dict[str, float]:
        """Mean over users of every metric, and the overall ones."""
        return {row.name: row.value for row in self.slices if row.slice == "all"} | self.overall


def evaluate(
    score: Score | ListScoring,
    market: MarketSplit,
    part: Part,
    spec: EvalSpec,
    candidates: Candidates | None,
    *,
    lists: int = LISTS,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate `score`, which maps local user codes (B,) to scores (B, n_items), on a part of `market`.

    Users without held-out rows (or, with a given list, without a row in it) are not counted. `lists` items per user
    are kept. One pass in blocks of users: O(users * items) beside the scoring; a block holds about 500,000 scores.
    Where the protocol lists candidates, a costly scorer is asked about those only, and then COSTLY_LISTS users, drawn
    with the seed, get top lists; so is every scorer of lists where `lists` is 0, and nobody gets one. `watch` hears
    after each block how many scores of how many there are; what it raises ends the evaluation. Raises TrainingError
    for scores of the wrong shape or not finite.
    """
    cases = shown = prepare(market, part, candidates)
    width = max(lists, spec.cutoffs[-1]) if lists else 0
    if not lists:
        shown = cases.block(0, 0)
    if cases.listed is not None and asks_lists_only(score, lists=lists):
        if lists:
            shown = replace(cases.sample(COSTLY_LISTS, spec.seed), listed=None)
        before = cases.listed.size
        total = before + len(shown.users) * shown.n_items
        rank = _listed_ranks(score, cases, spec.seed, lambda done: watch(done, total))
        _, top, top_score = _run(score, shown, spec.seed, width, lambda done: watch(before + done, total))
    else:
        total = len(cases.users) * cases.n_items
        rank, top, top_score = _run(score, cases, spec.seed, width, lambda done: watch(done, total))
    values = per_user(cases.held_row, rank, len(cases.users), spec.cutoffs)
    everybody = len(shown.users) == len(cases.users)
    overall = beyond_accuracy(top, _train_users(market), market.n_users, spec.cutoffs) if lists and everybody else {}
    order = np.lexsort((rank, cases.held_row))
    held_user = cases.users[cases.held_row[order]]
    kept = (top[:, :lists], top_score[:, :lists])
    held = (held_user, cases.held_item[order], rank[order])
    slices = _slices(market, cases, rank, values, spec)
    return Evaluation(market.name, part, cases.users, values, overall, slices, shown.users, *kept, *held)


def asks_lists_only(score: Score | ListScoring, *, lists: int) -> TypeGuard[ListScoring]:
    """Whether `score` is asked about no catalogue for its ranks, where a protocol lists candidates."""
    return isinstance(score, ListScoring) and (score.costly or not lists)


class Judge:
    """The validator that methods get: the selection metric on validation rows, and nothing else about them.

    `target` matters where sources contribute in full, as their validation rows are then training rows, and where
    candidates are given, as only the target has a list: then nobody but the target's users judges.
    """

    def __init__(
        self, split: Split, spec: EvalSpec, *, target: str | None = None, given: Mapping[str, Candidates] | None = None
    ) -> None:
        self._split, self._spec, self._given = split, spec, given
        self._only = target if split.spec.sources == "full" or spec.candidates == "given" else None
        self._cases: dict[str, Cases] = {}

    @property
    def digest(self) -> str:
        """sha256 of what decides a verdict: the split, the candidates, their seed and the metric."""
        rule = self._spec.model_dump(mode="json", exclude={"cutoffs"})
        return hashlib.sha256(json.dumps([self._split.digest, rule], sort_keys=True).encode()).hexdigest()

    def __call__(self, market: str, score: Score | ListScoring, *, users: int | None = None) -> float:
        """Mean over the validation users; nan where none may judge. Raises TrainingError as `evaluate`.

        `users`: ask at most so many, drawn once with the protocol's seed.
        """
        if self._only not in (None, market):
            return float("nan")
        if market not in self._cases:
            drawn = sample_candidates(self._split, market, "valid", self._spec, given=self._given)
            self._cases[market] = prepare(self._split.market(market), "valid", drawn)
        cases = self._cases[market] if users is None else self._cases[market].sample(users, self._spec.seed)
        if not len(cases.users):
            return float("nan")
        if isinstance(score, ListScoring) and cases.listed is not None:
            rank = _listed_ranks(score, cases, self._spec.seed)
        else:
            rank, _, _ = _run(score, cases, self._spec.seed, 0)
        name, cutoff = self._spec.select.split("@")
        values = per_user(cases.held_row, rank, len(cases.users), [int(cutoff)], [name])
        return float(values[self._spec.select].mean())


@dataclass(frozen=True)
class Cases:
    """Who is asked about what: rows of evaluated users, their held-out items, history and candidates."""

    market: str
    n_items: int
    users: IntArray  # (n,) ascending
    held_row: IntArray  # (H,) index into users, ascending
    held_item: IntArray  # (H,)
    past_row: IntArray  # (P,) index into users, ascending
    past_item: IntArray  # (P,) items the user has had and must not be shown
    listed: IntArray | None  # (n, C) candidates incl. the held-out ones, -1 where none; None: the whole catalogue

    def block(self, start: int, stop: int) -> Cases:
        """The rows from `start` to `stop`, numbered from 0."""
        held = slice(*np.searchsorted(self.held_row, (start, stop)))
        past = slice(*np.searchsorted(self.past_row, (start, stop)))
        return replace(
            self,
            users=self.users[start:stop],
            held_row=self.held_row[held] - start,
            held_item=self.held_item[held],
            past_row=self.past_row[past] - start,
            past_item=self.past_item[past],
            listed=None if self.listed is None else self.listed[start:stop],
        )

    def sample(self, most: int, seed: int) -> Cases:
        """These users, or `most` of them drawn with the seed; the same ones whenever it is asked."""
        if len(self.users) <= most:
            return self
        rows = np.sort(np.random.default_rng([seed, most]).choice(len(self.users), most, replace=False))
        held, past = np.isin(self.held_row, rows), np.isin(self.past_row, rows)
        return replace(
            self,
            users=self.users[rows],
            held_row=np.searchsorted(rows, self.held_row[held]),
            held_item=self.held_item[held],
            past_row=np.searchsorted(rows, self.past_row[past]),
            past_item=self.past_item[past],
            listed=None if self.listed is None else self.listed[rows],
        )


def prepare(market: MarketSplit, part: Part, candidates: Candidates | None) -> Cases:
    """Everything about the part that does not depend on scores. O(interactions), two sorts."""
    held = market.valid if part == "valid" else market.test
    past = (market.train,) if part == "valid" else (market.train, market.valid)
    users = np.unique(held.user)
    if candidates is not None:
        users = np.intersect1d(users, candidates.users)
    held_row, held_item = _rows(users, held.user, held.item)
    past_row, past_item = _rows(users, np.concatenate([p.user for p in past]), np.concatenate([p.item for p in past]))
    listed = None
    if candidates is not None:
        negatives = candidates.negatives[np.searchsorted(candidates.users, users)].astype(np.int64)
        own = np.isin(np.arange(len(users))[:, None] * WIDE + negatives, held_row * WIDE + held_item)
        negatives[own & (negatives >= 0)] = -1  # a given list may name held-out items, which are added below
        listed = np.hstack([negatives, _padded(held_row, held_item, len(users))])
    return Cases(market.name, market.n_items, users, held_row, held_item, past_row, past_item, listed)


def _rows(users: IntArray, user: IntArray, item: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of `users` only, once each, as (row, item), ascending."""
    mine = np.isin(user, users)
    key = _distinct(np.searchsorted(users, user[mine]) * WIDE + item[mine])
    return key // WIDE, key % WIDE


def _distinct(key: IntArray) -> IntArray:
    """`np.unique`, which hashes whole numbers since numpy 2.3 and takes five times as long."""
    key = np.sort(key)
    return key[np.diff(key, prepend=-1) > 0]


def _padded(row: IntArray, item: IntArray, n: int) -> IntArray:
    """(n, most) items of each row, -1 behind them; `row` ascends."""
    count = np.bincount(row, minlength=n)
    result = np.full((n, int(count.max(initial=0))), -1, dtype=np.int64)
    result[row, np.arange(len(row)) - (np.cumsum(count) - count)[row]] = item
    return result


def _run(
    score: Score | ListScoring, cases: Cases, seed: int, width: int, watch: Callable[[int], None] = lambda done: None
) -> tuple[IntArray, IntArray, FloatArray]:
    """Ranks (H,) of the held-out items, and top lists (n, K) with their scores; no lists where `width` is 0."""
    step = max(1, CELLS // cases.n_items)
    rank: list[IntArray] = [np.empty(0, dtype=np.int64)]
    shape = (0, min(width, cases.n_items))
    top: list[IntArray] = [np.empty(shape, dtype=np.int32)]
    top_score: list[FloatArray] = [np.empty(shape, dtype=np.float32)]
    for start in range(0, len(cases.users), step):
        block = cases.block(start, min(start + step, len(cases.users)))
        scores = _scores(score, block)
        own = scores[block.held_row, block.held_item]
        scores[block.past_row, block.past_item] = -np.inf
        if width:
            items, values = top_k(scores, block.users, width, seed)
            top.append(items)
            top_score.append(values)
        scores[block.held_row, block.held_item] = own
        rank.append(_block_ranks(scores, block, seed))
        watch((start + len(block.users)) * cases.n_items)
    return np.concatenate(rank), np.concatenate(top), np.concatenate(top_score)


def _listed_ranks(
    score: ListScoring, cases: Cases, seed: int, watch: Callable[[int], None] = lambda done: None
) -> IntArray:
    """Ranks (H,) of the held-out items among the listed candidates, of which alone the scorer is asked."""
    assert cases.listed is not None, "there is no list to ask about"
    width = cases.listed.shape[1]
    step = max(1, CELLS // width)
    rank: list[IntArray] = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(cases.users), step):
        block = cases.block(start, min(start + step, len(cases.users)))
        assert block.listed is not None
        scores = _finite(score.listed(block.users, np.maximum(block.listed, 0)), block, width)
        # what the user has had, and is not asked about, never competes
        places = np.arange(len(block.users))[:, None] * WIDE + block.listed
        had = np.isin(places, block.past_row * WIDE + block.past_item)
        asked = np.isin(places, block.held_row * WIDE + block.held_item)
        scores[(block.listed < 0) | (had & ~asked)] = -np.inf
        rank.append(ranks(scores, block.users, block.held_row, block.held_item, seed, block.listed))
        watch((start + len(block.users)) * width)
    return np.concatenate(rank)


def _block_ranks(scores: FloatArray, block: Cases, seed: int) -> IntArray:
    held = (block.users, block.held_row, block.held_item, seed)
    if block.listed is None:
        return ranks(scores, *held)
    listed = np.take_along_axis(scores, np.maximum(block.listed, 0), axis=1)
    listed[block.listed < 0] = -np.inf
    return ranks(listed, *held, block.listed)


def _scores(score: Score | ListScoring, block: Cases) -> FloatArray:
    """A copy of the block's scores that may be written to, as float32 or float64. Raises TrainingError."""
    return _finite(score(block.users), block, block.n_items)


def _finite(found: FloatArray, block: Cases, width: int) -> FloatArray:
    """A copy, of shape (users, width), checked. Raises TrainingError."""
    raw = np.asarray(found)
    if raw.shape != (len(block.users), width):
        raise TrainingError(
            f"The method scored {raw.shape} for {len(block.users)} users and {width} items of {block.market}.",
            hint="This is a fault of the method: it must score every item that it is asked about.",
        )
    scores: FloatArray = raw.astype(np.float32 if raw.dtype == np.float32 else np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        bad = int((~finite).any(axis=1).sum())
        raise TrainingError(
            f"The method's scores for {bad} of {len(scores)} users of market {block.market} are not finite numbers.",
            hint="Training has probably diverged: lower the learning rate or raise the regularisation.",
        )
    return scores


def _train_users(market: MarketSplit) -> IntArray:
    """Different training users of each item: (n_items,)"""
    pairs = _distinct(market.train.user.astype(np.int64) * WIDE + market.train.item)
    return np.bincount(pairs % WIDE, minlength=market.n_items)


def _slices(
    market: MarketSplit, cases: Cases, rank: IntArray, values: dict[str, FloatArray], spec: EvalSpec
) -> list[Slice]:
    """Means over all users, by activity of the user, and over the held-out items of each item group."""
    result = _means("all", values, np.ones(len(cases.users), dtype=bool))
    activity = np.bincount(market.train.user, minlength=market.n_users)[cases.users]
    of_user = group_of(activity, USER_BOUNDS)
    for g, name in enumerate(group_names("user", USER_BOUNDS)):
        result += _means(name, values, of_user == g)
    of_held = group_of(np.bincount(market.train.item, minlength=market.n_items), ITEM_BOUNDS)[cases.held_item]
    for g, name in enumerate(group_names("item", ITEM_BOUNDS)):
        row = cases.held_row[of_held == g]
        part = per_user(row, rank[of_held == g], len(cases.users), spec.cutoffs, METRICS)
        result += _means(name, part, np.bincount(row, minlength=len(cases.users)) > 0)
    return result


def _means(group: str, values: dict[str, FloatArray], where: np.ndarray) -> list[Slice]:
    n = int(where.sum())
    if not n:
        return []
    means = np.stack(list(values.values()))[:, where].mean(axis=1).tolist()
    return [Slice(group, name, mean, n) for name, mean in zip(values, means, strict=True)]
