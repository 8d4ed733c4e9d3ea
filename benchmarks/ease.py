"""EASE's item weights as the project solves for them against a general inverse, in one run.

    python benchmarks/ease.py [--data FILE ...] [--target ca] [--repeats 3]

All interactions of the target market, with and without the other markets' co-occurrences (weight 0.3). Without files:
synthetic markets. Prints JSON: processor seconds of each (best of the repeats, one
thread), their ratio, and how far the item weights differ.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.market import Corpus, Market
from cmr_core.data.synthetic import synthetic
from cmr_core.interfaces import FloatArray, MarketView, Pairs, Task
from cmr_core.models.cooccurrence import Counts
from cmr_core.models.ease import item_weights
from cmr_core.models.inverse import cholesky_inverse

REGULARISATION = 30.0
Solve = Callable[[sp.csr_array], FloatArray]


def general_inverse(gram: sp.csr_array) -> FloatArray:
    """The formula as it stands in the paper, with numpy's general inverse."""
    return _weights(np.linalg.inv(_regular(gram)))


def cholesky(gram: sp.csr_array) -> FloatArray:
    """The formula with a Cholesky inverse of the whole matrix."""
    return _weights(cholesky_inverse(np.asfortranarray(_regular(gram))))


def ours(gram: sp.csr_array) -> FloatArray:
    """As the project solves it: rare items eliminated first, Cholesky for the rest."""
    return item_weights(gram, REGULARISATION)


def seconds(solve: Solve, gram: sp.csr_array, repeats: int) -> float:
    """Best processor time, which other programs on the machine disturb less than the clock's."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        solve(gram)
        times.append(time.process_time() - start)
    return min(times)


def row(name: str, gram: sp.csr_array, repeats: int) -> dict[str, float | int | str]:
    """One line of the table."""
    took = {solve.__name__: seconds(solve, gram, repeats) for solve in (ours, cholesky, general_inverse)}
    return {
        "counts": name,
        "items": gram.shape[0],
        **{f"{solve}_s": round(value, 3) for solve, value in took.items()},
        "ratio": round(took["general_inverse"] / took["ours"], 2),
        "largest_difference": float(np.abs(ours(gram) - general_inverse(gram)).max()),
    }


def main() -> None:
    """Measure both matrices with one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", help="XMarket files")
    parser.add_argument("--target", default="ca")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    files, target = options.data, options.target
    corpus = read_corpus(files, name="files", layout=Layout(kind="xmarket")) if files else synthetic(seed=0)
    counts = Counts(_task(corpus, target), use_sources=True)
    with threadpool_limits(1):
        rows = [row(f"{target} alone", counts.weighted({}), options.repeats)]
        weights = dict.fromkeys(counts.sources, 0.3)
        rows.append(row(f"{target} and {len(weights)} sources", counts.weighted(weights), options.repeats))
    print(json.dumps(rows, indent=2))


def _regular(gram: sp.csr_array) -> FloatArray:
    return np.asarray(gram.toarray() + REGULARISATION * np.eye(gram.shape[0]))


def _weights(inverse: FloatArray) -> FloatArray:
    weight = inverse / -np.diag(inverse)
    np.fill_diagonal(weight, 0.0)
    return weight.astype(np.float32)


def _task(corpus: Corpus, target: str) -> Task:
    views = {name: _view(market) for name, market in corpus.markets.items()}
    sources = tuple(view for name, view in sorted(views.items()) if name != target)
    return Task(views[target], sources, len(corpus.items), "", "")


def _view(market: Market) -> MarketView:
    item = np.searchsorted(market.catalogue, market.item).astype(np.int32)
    return MarketView(market.name, len(market.users), market.catalogue, Pairs(market.user, item, market.day))


if __name__ == "__main__":
    main()
