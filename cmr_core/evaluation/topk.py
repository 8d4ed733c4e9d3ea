"""Top lists and ranks with ties broken at random: never by item code, and alike wherever the same pair is asked about.

Every pair of user and item has a tie key that follows from the seed alone. Of equal scores the smaller key comes
first. Keys of one user are all different, so a rank is never shared and does not depend on the block of users, nor
on whether it is read from a list or counted.

Measured on one thread for 87 rows of 5,735 scores (float32), in ns per score: comparison with one number per row
0.06, counting what passed 0.08 as words of bits and 0.32 with `count_nonzero(axis=1)`, `partition` 1.2. So a row is
folded before it is partitioned: the k-th best of the maxima of disjoint groups is a bound that k scores of the row
reach, and hardly more than k do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cmr_core.interfaces import FloatArray, IntArray

CELLS = 500_000  # scores held at once: 2 MB of float32, which the processor cache holds
FOLDED = 4  # a folded row keeps at least so many groups for each item that is asked for
CROWDED = 2  # rows of which more than so many times `k` items reach the bound are full of ties
UINT = npt.NDArray[np.uint32]


def tie_keys(seed: int, users: IntArray, items: IntArray) -> UINT:
    """The order among equal scores: uint32 of the broadcast shape of `users` and `items`, smaller comes first.

    A bijection of the item code per user (two rounds of C. Wellons' 32-bit mixer `lowbias32`, salted by the user), so
    two items of a user never share a key. O(cells), about 20 ns each.
    """
    user = np.asarray(users).astype(np.uint32)
    base = np.array([seed & 0xFFFFFFFF], dtype=np.uint32)
    first = _mix(user ^ _mix(base))
    second = _mix(first + np.uint32(0x9E3779B9))
    return _mix(_mix(np.asarray(items).astype(np.uint32) + first) ^ second)


def top_k(scores: FloatArray, users: IntArray, k: int, seed: int) -> tuple[IntArray, FloatArray]:
    """The best `k` items of each row, best first: codes int32 and scores, both (B, min(k, I)).

    `scores` (B, I) holds -inf where an item is no candidate; where fewer than `k` are left the row ends in -1 and
    -inf. `users` (B,) salt the ties. Only rows with many ties around their last place take a slower path.
    """
    width = min(k, scores.shape[1])
    chosen = _reaching(scores, users, width, seed)
    value = np.where(chosen < 0, -np.inf, scores[np.arange(len(scores))[:, None], chosen])
    chosen, value = _ordered(chosen, value, users, seed)
    chosen, value = chosen[:, :width], value[:, :width]
    return np.where(value > -np.inf, chosen, -1).astype(np.int32), value


def ranks(
    scores: FloatArray, users: IntArray, rows: IntArray, items: IntArray, seed: int, listed: IntArray | None = None
) -> IntArray:
    """1-based rank of item `items[h]` among the candidates of row `rows[h]`: (H,) int64.

    `scores` (B, C) holds -inf where there is no candidate; column c is item c, or item `listed[b, c]` where a list is
    given. Each item must itself be a candidate of its row with a finite score. `users` (B,) salt the ties.
    O(H * C) comparisons; tie keys are made only where scores are equal.
    """
    result = np.empty(len(rows), dtype=np.int64)
    for part, others in _turns(scores, rows):
        row, item = rows[part], items[part]
        own_list = None if listed is None else listed[row]
        column = item if own_list is None else (own_list == item[:, None]).argmax(axis=1)
        own = others[np.arange(len(part)), column]
        better = _compare(np.greater, others, own)[1]
        tied = np.flatnonzero(_compare(np.greater_equal, others, own)[1] > better + 1)  # each item equals itself
        result[part] = better + 1
        if len(tied):
            equal = others[tied] == own[tied, None]
            result[part[tied]] += _first_of_equals(
                equal, users[row[tied]], item[tied], seed, None if own_list is None else own_list[tied]
            )
    return result


def _first_of_equals(
    equal: npt.NDArray[np.bool_], users: IntArray, items: IntArray, seed: int, listed: IntArray | None
) -> IntArray:
    """(T,) how many of the columns that are `equal` (T, C) to the score of `items` (T,) come before it."""
    place, column = np.nonzero(equal)
    rival = column if listed is None else listed[place, column]
    wins = tie_keys(seed, users[place], rival) < tie_keys(seed, users, items)[place]
    return np.bincount(place[wins], minlength=len(equal))


def _turns(scores: FloatArray, rows: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Positions in `rows` and their scores: one held-out item of every row without a copy, then the others."""
    rest = np.arange(len(rows))
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    if np.array_equal(rows[first], np.arange(len(scores))):
        yield first, scores
        rest = np.delete(rest, first)
    step = max(1, CELLS // max(1, scores.shape[1]))
    for start in range(0, len(rest), step):
        part = rest[start : start + step]
        yield part, scores[rows[part]]


def _compare(compare: np.ufunc, scores: FloatArray, bound: FloatArray) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Which scores of each row compare so with its `bound`, in rows padded with False to whole words; and how many."""
    n = scores.shape[1]
    passed = np.empty((len(scores), -(-n // 8) * 8), dtype=bool)
    passed[:, n:] = False
    compare(scores, bound[:, None], out=passed[:, :n])
    return passed, np.bitwise_count(passed.view(np.uint64)).sum(axis=1, dtype=np.int64)


def _bound(scores: FloatArray, k: int) -> FloatArray:
    """(B,) a score that at least `k` items of the row reach: the k-th best maximum of disjoint groups of items."""
    folded = scores
    while folded.shape[1] >= 2 * FOLDED * k:
        half = -(-folded.shape[1] // 2)
        left = folded[:, :half].copy()
        right = folded[:, half:]
        np.maximum(left[:, : right.shape[1]], right, out=left[:, : right.shape[1]])
        folded = left
    last = folded.shape[1] - k
    bound: FloatArray = np.partition(folded, last, axis=1)[:, last]
    return bound


def _reaching(scores: FloatArray, users: IntArray, width: int, seed: int) -> IntArray:
    """(B, at least `width`) the best `width` items of each row and some more, in any order; -1 behind them."""
    passed, count = _compare(np.greater_equal, scores, _bound(scores, width))
    crowded = count > CROWDED * width
    passed[crowded], count[crowded] = False, 0
    row = np.repeat(np.arange(len(scores)), count)
    place = np.arange(len(row)) - (np.cumsum(count) - count)[row]
    chosen = np.full((len(scores), max(width, int(count.max(initial=0)))), -1, dtype=np.int64)
    chosen[row, place] = np.flatnonzero(passed) - row * passed.shape[1]
    if crowded.any():
        chosen[crowded, :width] = _settle(scores[crowded], users[crowded], width, seed)
    return chosen


def _settle(scores: FloatArray, users: IntArray, width: int, seed: int) -> IntArray:
    """(B, width) the best items: all above the last place's score, and of those that equal it the smallest keys."""
    last = np.partition(scores, -width, axis=1)[:, -width]
    place = np.where(scores > last[:, None], np.int64(-1), np.int64(2**32))
    row, column = np.nonzero(scores == last[:, None])
    place[row, column] = tie_keys(seed, users[row], column)
    return np.argpartition(place, width - 1, axis=1)[:, :width]


def _ordered(chosen: IntArray, value: FloatArray, users: IntArray, seed: int) -> tuple[IntArray, FloatArray]:
    """Both (B, K) by descending value; in rows with equal values also by tie key."""
    order = np.argsort(-value, axis=1)
    by_value = np.take_along_axis(value, order, axis=1)
    tied = ((by_value[:, 1:] == by_value[:, :-1]) & (by_value[:, 1:] > -np.inf)).any(axis=1)
    if tied.any():
        order[tied] = np.lexsort((tie_keys(seed, users[tied, None], chosen[tied]), -value[tied]), axis=1)
    return np.take_along_axis(chosen, order, axis=1), by_value


def _mix(x: UINT) -> UINT:
    x = x ^ (x >> np.uint32(16))
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x
