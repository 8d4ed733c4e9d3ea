"""The same numbers as ranx, a metric library used in information retrieval, on runs without ties."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from cmr_core.data.split import MarketSplit
from cmr_core.evaluation.evaluate import evaluate
from cmr_core.interfaces import Pairs
from cmr_core.spec import EvalSpec

with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    warnings.simplefilter("ignore")  # numba and its kin warn about themselves on import
    patch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute and a half, computing in plain Python a second
    ranx = pytest.importorskip("ranx", reason="ranx is in the extra `test`, which is not installed")

NAMES = {"recall": "recall", "ndcg": "ndcg", "hit": "hit_rate", "mrr": "mrr", "map": "map", "precision": "precision"}
USERS, ITEMS = 60, 90


def some_market() -> MarketSplit:
    draw = np.random.default_rng(0).random((USERS, ITEMS))
    parts = [np.argwhere((draw >= lo) & (draw < hi)) for lo, hi in ((0, 0.1), (0.1, 0.13), (0.13, 0.2))]
    train, valid, test = (Pairs(p[:, 0], p[:, 1], np.zeros(len(p), dtype=np.int32)) for p in parts)
    return MarketSplit("xx", USERS, np.arange(ITEMS, dtype=np.int32), train, valid, test)


@pytest.mark.filterwarnings("ignore")
def test_equal_to_ranx() -> None:
    market, spec = some_market(), EvalSpec(cutoffs=(1, 5, 10, 20))
    scores = np.random.default_rng(1).permutation(USERS * ITEMS).reshape(USERS, ITEMS).astype(np.float64)
    found = evaluate(lambda users: scores[users], market, "test", spec, None)
    past = {(int(u), int(i)) for p in (market.train, market.valid) for u, i in zip(p.user, p.item, strict=True)}
    run = {
        f"u{u}": {f"i{i}": float(scores[u, i]) for i in range(ITEMS) if (int(u), i) not in past} for u in found.users
    }
    qrels: dict[str, dict[str, int]] = {}
    for user, item in zip(market.test.user, market.test.item, strict=True):
        qrels.setdefault(f"u{user}", {})[f"i{item}"] = 1
    metrics = [f"{theirs}@{k}" for theirs in NAMES.values() for k in spec.cutoffs]
    judged, ranked = ranx.Qrels(qrels), ranx.Run(run)
    ranx.evaluate(judged, ranked, metrics, make_comparable=True)
    assert len(found.values) == len(metrics)
    for name, values in found.values.items():
        metric, k = name.split("@")
        theirs = [ranked.scores[f"{NAMES[metric]}@{k}"][f"u{u}"] for u in found.users]
        assert values.tolist() == pytest.approx(theirs, abs=1e-9), name
