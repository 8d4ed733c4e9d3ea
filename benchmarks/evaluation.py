"""Evaluation of all markets as the project does it against loops per user, in one run.

    python benchmarks/evaluation.py [--data FILE ...] [--repeats 3] [--cornac PYTHON]

Test part (for the judge: validation part) of the split `ratio`, whole catalogue, factors of 64
dimensions that know the held-out items.
Without files: synthetic markets. Three tasks, each with the same values on both sides:
  ready     scores lie in memory; mask, top 50, six metrics at three cutoffs
  scored    the same, and the scores are computed from the factors (ours: a block of users, loop: one user)
  judged    scores lie in memory; the one number that early stopping asks for
The loops are numpy and Python per user. `selected` takes the top 50 with argpartition, the best that numpy has;
`sorted_whole` sorts all items. `ready` and `scored` also give ranks of all held-out items, groups and
beyond-accuracy metrics on the project's side only.

With `--cornac` (a Python in which Cornac 3.0 is installed) task `scored` is also done by Cornac's `ranking_eval`, which
is a loop over users. `cornac_at_cutoffs` computes NDCG, recall, precision and hit rate at three cutoffs. `cornac_all`
also computes its MRR and MAP, which have no cutoff: its MAP is compared with average precision from our ranks, and its
MRR only where the first hit is within the largest cutoff, as Cornac leaves what is behind in no order.

Prints JSON: processor seconds over all markets (best of the repeats, one thread), loop over ours, and the largest
difference between values.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.split import MarketSplit, Split, make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.evaluation.evaluate import Evaluation, Judge, evaluate
from cmr_core.interfaces import FloatArray, IntArray, Pairs
from cmr_core.spec import EvalSpec, SplitSpec

PEER = Path(__file__).parent / "peers" / "cornac_evaluation.py"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SPEC = EvalSpec()
LISTED = 50
Row = dict[str, float | int | str]
Values = dict[str, list[float]]
Score = Callable[[int], FloatArray]
Select = Callable[[FloatArray, int], list[int]]
T = TypeVar("T")


def selected(row: FloatArray, k: int) -> list[int]:
    """The best k items of one user, by partial sort."""
    best = np.argpartition(-row, k)[:k]
    top: list[int] = best[np.argsort(-row[best])].tolist()
    return top


def sorted_whole(row: FloatArray, k: int) -> list[int]:
    """The best k items of one user, by sorting all."""
    top: list[int] = np.argsort(-row)[:k].tolist()
    return top


def loop(score: Score, past: tuple[Pairs, ...], part: Pairs, best: Select, judge: bool = False) -> Values:
    """Metrics of every user of `part`, one after the other; with `judge` only NDCG@10."""
    had, held = _sets(*past), _sets(part)
    values: Values = {}
    for user in sorted(held):
        row = score(user).copy()
        row[list(had.get(user, ()))] = -np.inf
        if judge:
            values.setdefault("ndcg@10", []).append(_ndcg(_hits(best(row, 10), held[user]), len(held[user]), 10))
            continue
        top = best(row, LISTED)
        for k in SPEC.cutoffs:
            for name, value in _all(_hits(top[:k], held[user]), len(held[user]), k).items():
                values.setdefault(f"{name}@{k}", []).append(value)
    return values


def rows(split: Split, market: MarketSplit, repeats: int, cornac: str | None) -> list[Row]:
    """The three tasks on one market."""
    users, items = _factors(market)
    scores, turned, past = users @ items.T, np.ascontiguousarray(items.T), (market.train, market.valid)
    judge = Judge(split, SPEC)
    ours: dict[str, Callable[[], Values]] = {
        "ready": lambda: _values(lambda u: scores[u], market),
        "scored": lambda: _values(lambda u: users[u] @ turned, market),
        "judged": lambda: {"ndcg@10": [judge(market.name, lambda u: scores[u])]},
    }
    result: list[Row] = []
    for task, work in ours.items():
        took, found = _best(work, repeats)
        for select in (selected, sorted_whole):
            theirs, expected = _best(partial(_loop, task, select, scores, users, turned, market, past), repeats)
            far = max(_far(found[name], expected[name]) for name in expected)
            result.append(_row(task, select.__name__, took, theirs, far))
        if cornac and task == "scored":
            result += _cornac(market, users, items, took, repeats, cornac)
    return result


def _row(task: str, way: str, ours: float, theirs: float, far: float) -> Row:
    return {"task": task, "loop": way, "ours_s": ours, "loop_s": theirs, "largest_difference": far}


def _factors(market: MarketSplit) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    items = rng.standard_normal((market.n_items, 64), dtype=np.float32)
    users = rng.standard_normal((market.n_users, 64), dtype=np.float32)
    np.add.at(users, market.test.user, items[market.test.item])  # or hardly anybody had a hit to compare
    np.add.at(users, market.valid.user, items[market.valid.item])
    return users, items


def _cornac(
    market: MarketSplit, users: FloatArray, items: FloatArray, took: float, repeats: int, python: str
) -> list[Row]:
    """Cornac on the same parts and factors, in its own process; ours took `took` seconds."""
    parts = {"train": market.train, "valid": market.valid, "test": market.test}
    pairs = {f"{name}_{side}": getattr(part, side) for name, part in parts.items() for side in ("user", "item")}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "job.npz", users=users, items=items, cutoffs=SPEC.cutoffs, **pairs)
        call = [python, str(PEER.resolve()), folder, str(repeats)]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env=os.environ | ONE_THREAD)
        theirs = dict(np.load(Path(folder) / "result.npz"))
    found = evaluate(lambda u: users[u] @ items.T, market, "test", SPEC, None)
    at_cutoffs = max(float(np.abs(found.values[n] - v).max()) for n, v in theirs.items() if "@" in n)
    first, precision = _without_cutoff(found)
    near = first <= SPEC.cutoffs[-1]
    far = max(np.abs(1 / first - theirs["mrr"])[near].max(), np.abs(precision - theirs["map"]).max(), at_cutoffs)
    return [
        _row("scored", "cornac_at_cutoffs", took, float(theirs["seconds_at_cutoffs"]), at_cutoffs),
        _row("scored", "cornac_all", took, float(theirs["seconds_all"]), float(far)),
    ]


def _without_cutoff(found: Evaluation) -> tuple[IntArray, FloatArray]:
    """Rank of the first hit and average precision of every user, however far down."""
    row = np.searchsorted(found.users, found.held_user)
    count = np.bincount(row)
    start = np.cumsum(count) - count
    nth = np.arange(len(row)) - start[row] + 1
    return found.held_rank[start], np.bincount(row, weights=nth / found.held_rank) / count


def summary(table: list[Row]) -> list[Row]:
    """All markets together, for each task and loop."""
    result: list[Row] = []
    for task, way in dict.fromkeys((r["task"], r["loop"]) for r in table):
        mine = [r for r in table if (r["task"], r["loop"]) == (task, way)]
        ours, theirs = (sum(float(r[name]) for r in mine) for name in ("ours_s", "loop_s"))
        far = max(float(r["largest_difference"]) for r in mine)
        times: Row = {"ours_s": round(ours, 3), "loop_s": round(theirs, 3), "ratio": round(theirs / ours, 2)}
        result.append({"task": task, "loop": way, **times, "largest_difference": far})
    return result


def main() -> None:
    """Measure every market with one thread, and all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", help="XMarket files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cornac", metavar="PYTHON", help="Python of an environment in which Cornac is installed")
    options = parser.parse_args()
    files = options.data
    corpus = read_corpus(files, name="files", layout=Layout(kind="xmarket")) if files else synthetic(seed=0)
    with threadpool_limits(1):
        split = make_split(corpus, SplitSpec(kind="ratio"))
        table = [
            row for market in split.markets.values() for row in rows(split, market, options.repeats, options.cornac)
        ]
    print(json.dumps(summary(table), indent=2))


def _loop(
    task: str,
    select: Select,
    scores: FloatArray,
    users: FloatArray,
    turned: FloatArray,
    market: MarketSplit,
    past: tuple[Pairs, ...],
) -> Values:
    if task == "judged":
        return loop(lambda u: scores[u], (market.train,), market.valid, select, judge=True)
    if task == "scored":
        return loop(lambda u: users[u] @ turned, past, market.test, select)
    return loop(lambda u: scores[u], past, market.test, select)


def _far(found: list[float], expected: list[float]) -> float:
    """Largest difference of a user; of the mean, where only that is known."""
    if len(found) == len(expected):
        return float(np.abs(np.subtract(found, expected)).max())
    return abs(float(np.mean(found)) - float(np.mean(expected)))


def _values(score: Callable[[IntArray], FloatArray], market: MarketSplit) -> Values:
    found = evaluate(score, market, "test", SPEC, None, lists=LISTED)
    return {name: values.tolist() for name, values in found.values.items()}


def _ndcg(hits: list[int], n: int, k: int) -> float:
    return sum(1 / math.log2(r + 1) for r in hits) / sum(1 / math.log2(r + 1) for r in range(1, min(n, k) + 1))


def _all(hits: list[int], n: int, k: int) -> dict[str, float]:
    return {
        "recall": len(hits) / n,
        "precision": len(hits) / k,
        "hit": float(bool(hits)),
        "mrr": 1 / hits[0] if hits else 0.0,
        "map": sum(i / r for i, r in enumerate(hits, 1)) / n,
        "ndcg": _ndcg(hits, n, k),
    }


def _hits(top: list[int], held: set[int]) -> list[int]:
    return [r for r, item in enumerate(top, 1) if item in held]


def _sets(*parts: Pairs) -> dict[int, set[int]]:
    result: dict[int, set[int]] = {}
    for part in parts:
        for user, item in zip(part.user.tolist(), part.item.tolist(), strict=True):
            result.setdefault(user, set()).add(item)
    return result


def _best(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Best processor time of the repeats, and the last result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


if __name__ == "__main__":
    main()
