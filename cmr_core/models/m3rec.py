"""M3Rec: similarities of items over all markets as a prior, adapted to the target (Cao et al., SIGIR 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field

from cmr_core.errors import Cancelled
from cmr_core.interfaces import Arrays, FloatArray, IntArray, MarketView, ParameterCount, Progress, Run, Task
from cmr_core.models.base import Factors, ItemItem
from cmr_core.models.cooccurrence import Choice, Search, counts, fit_once, histories
from cmr_core.models.ease import item_weights
from cmr_core.models.embedding import Training, best_details, fit_embedding
from cmr_core.models.inverse import inverse
from cmr_core.models.lightgcn import market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.models.node2vec import STAGE, Walking, node2vec
from cmr_core.models.registry import Config, register
from cmr_core.training.monitor import device_kind, shared_key

INTRA, INTER = "intra-market", "inter-market"
GLOBAL_PENALTIES = (50.0, 200.0, 500.0)
PENALTIES = (50.0, 150.0, 500.0, 2000.0)
INTRA_WEIGHTS = (0.5, 1.0)
INTER_WEIGHTS = (0.0, 0.1, 0.5)


class M3RecConfig(Config):
    """Settings of M3Rec: the two similarities that all targets share, and the target's adaptation."""

    variant: Literal["closed-form", "gradient"] = Field(
        "closed-form",
        description="Item weights solved for; or vectors that begin at those of the walks, trained with BPR (bpr_*)",
    )
    global_penalty: float = Field(
        200.0, ge=0.1, le=1e6, description="L2 penalty of the EASE over all markets (lambda 1)"
    )
    penalty: float = Field(
        500.0, ge=0.1, le=1e6, description="How firmly the target's item weights are held to the prior (lambda 2)"
    )
    intra_weight: float = Field(1.0, ge=0, le=10, description="Weight in the prior of the EASE over all markets (a)")
    inter_weight: float = Field(0.1, ge=0, le=10, description="Weight in the prior of the walks' similarity (b)")
    tune: bool = Field(
        True, description="Choose the target's penalty, then both weights, on validation; the given ones come first"
    )
    tune_global: bool = Field(
        False, description="With `tune`, choose lambda 1 among 50, 200, 500 and the given one on validation, last"
    )
    neighbours: int = Field(100, ge=1, le=100_000, description="Most similar items kept for each item by the walks")
    walk_dimensions: int = Field(64, ge=2, le=1024, description="Length of node2vec's item vectors")
    walks: int = Field(10, ge=1, le=1000, description="Random walks that start at each item")
    walk_length: int = Field(40, ge=2, le=1000, description="Items per walk")
    walk_window: int = Field(5, ge=1, le=100, description="Steps before and after an item that its vector predicts")
    walk_negatives: int = Field(5, ge=1, le=100, description="Weight of random items against each predicted one")
    walk_batch: int = Field(256, ge=1, le=100_000, description="Walks per step of node2vec")
    walk_learning_rate: float = Field(0.03, gt=0, le=1, description="Adam's step size for node2vec")
    walk_epochs: int = Field(5, ge=1, le=1000, description="Passes of node2vec over all walks")
    bpr_learning_rate: float = Field(1e-2, gt=0, le=1, description="gradient: Adam's step size")
    bpr_l2: float = Field(3e-3, ge=0, le=1, description="gradient: weight decay on the vectors of each batch")
    bpr_batch: int = Field(512, ge=16, le=1_000_000, description="gradient: training pairs of the target per step")
    bpr_epochs: int = Field(100, ge=1, le=5000, description="gradient: passes over the target's pairs at most")
    bpr_eval_every: int = Field(2, ge=1, le=100, description="gradient: passes between two looks at validation")
    bpr_patience: int = Field(8, ge=1, le=1000, description="gradient: looks without improvement before it stops")

    def walking(self) -> Walking:
        """What `node2vec` takes."""
        return Walking(
            dimensions=self.walk_dimensions,
            walks=self.walks,
            length=self.walk_length,
            window=self.walk_window,
            negatives=self.walk_negatives,
            batch=self.walk_batch,
            learning_rate=self.walk_learning_rate,
            epochs=self.walk_epochs,
        )

    def training(self) -> Training:
        """What `fit_embedding` takes; there is no graph to propagate on."""
        return Training(
            dimensions=self.walk_dimensions,
            layers=0,
            learning_rate=self.bpr_learning_rate,
            l2=self.bpr_l2,
            batch_size=self.bpr_batch,
            epochs=self.bpr_epochs,
            eval_every=self.bpr_eval_every,
            patience=self.bpr_patience,
        )


@register(
    "m3rec",
    label="M³Rec",
    family="cross-market",
    color="#e7298a",
    config=M3RecConfig,
)
class M3Rec:
    """Learns from all markets which items speak for each other, then adapts that to the target's own histories.

    Cao et al., SIGIR 2022, of which neither code nor full text is public: our reconstruction from the abstract. (a)
    EASE over the users of all markets; (b) node2vec on the graph of their co-occurrences, cosines above zero, the
    nearest 100 of each item, rows adding up to 1; (c) the prior S, `intra_weight` times what (a) found plus
    `inter_weight` times what (b) found, and in the target the B without diagonal that is least in |X - X B|^2 +
    `penalty` |B - S|^2. With S = 0 that is EASE.

    The variant `gradient` takes (b) alone: item vectors begin at node2vec's, user vectors at the mean of their training
    items' vectors, and BPR on the target's pairs trains both; no epoch at all is a choice of validation's.

    On XMarket electronics with one item held out among 100 it is above popularity by NDCG@10 on all seven markets, by
    recall@10 below on ca, where settings are chosen by NDCG@10. With events split and the whole catalogue its NDCG@10
    is above on in and below on the six others (three seeds; figures: its page and docs/results.md). `gradient` was
    measured on in, jp and mx only (NDCG@10, one seed, settings from their validation): with one item held out it is
    below the closed form (.577, .461, .709 against .593, .513, .727) and above popularity; with events split it is
    above popularity on in and mx (.055 and .051), below on jp (.047).

    Cost: stages (a), some seconds, and (b), some twenty seconds on one core, once for all targets; for the target up
    to ten candidates of one product of n x n matrices each. Memory: 16 I² bytes for the I items of all markets in (a),
    4 I² kept; 36 n² bytes for n items of the target. `tune_global` repeats (a) twice and adds two candidates. Memory of
    `gradient`: the vectors of (b), and (users + items) x D of the target, twice for Adam.
    """

    def __init__(self, config: M3RecConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> ItemItem | Factors:
        """Both similarities, then the target. Raises Cancelled between two steps, TrainingError on a fault."""
        return (_gradient if self.config.variant == "gradient" else _closed_form)(self.config, task, run)


def _closed_form(config: M3RecConfig, task: Task, run: Run) -> ItemItem:
    codes = task.target.catalogue

    @lru_cache(maxsize=1)
    def intra(penalty: float) -> FloatArray:
        weight: FloatArray = intra_market(task, run, penalty)["weight"][np.ix_(codes, codes)]
        return weight

    intra(config.global_penalty)  # the walks come after it
    vectors = inter_market(task, run, config.walking())["vectors"]
    local = Local(counts(task.target, codes).astype(np.float64), nearest(vectors, codes, config.neighbours))
    fitted, choice, judged = _choose(
        config, task, run, lambda choice: local.weights(choice, intra(choice.global_strength))
    )
    count = ParameterCount(frozen=vectors.size, closed_form=task.n_items**2 + len(codes) ** 2)
    return replace(fitted, parameters=count, details={**choice.details("penalty"), **judged})


def _gradient(config: M3RecConfig, task: Task, run: Run) -> Factors:
    target = task.target
    start = start_vectors(target, inter_market(task, run, config.walking())["vectors"])
    arrays = fit_embedding(
        "bpr",
        torch.from_numpy(start).to(run.device),
        lambda table: table,
        Triples([target], run.device, catalogues=False),
        torch.Generator(device=run.device).manual_seed(run.seed),
        config.training(),
        run,
        {target.name: market_nodes(target)},
    )
    user, item = np.split(arrays["embedding"], [target.n_users])
    return Factors(
        ParameterCount(trainable=start.size), user, item, user_base=user, details=best_details("bpr", arrays)
    )


def start_vectors(target: MarketView, vectors: FloatArray) -> FloatArray:
    """(users + items, D) float32: each user the mean of its training items' vectors, then the items' own.

    `vectors` (I, D) are in global codes. Users without a training item get zeros.
    """
    items, had = vectors[target.catalogue], histories(target)
    length = np.maximum(np.diff(had.indptr), 1)[:, None]
    found: FloatArray = np.concatenate([(had @ items) / length, items]).astype(np.float32)
    return found


def intra_market(task: Task, run: Run, penalty: float) -> Arrays:
    """`weight`: EASE over the users of all markets, float32 (I, I) in global item codes. All targets share it."""

    def build() -> Arrays:
        if run.monitor.cancelled():
            raise Cancelled("The run was stopped on request.")
        weight = item_weights(co_occurrences(task), penalty)
        run.monitor.report(Progress("ease-all", 1, 1))
        return {"weight": weight}

    return run.monitor.shared(shared_key("ease-all", task.digest, penalty), build)


def inter_market(task: Task, run: Run, walking: Walking) -> Arrays:
    """`vectors`: node2vec on the items' co-occurrences in all markets, float32 (I, D). All targets share it."""
    key = shared_key(STAGE, task.digest, walking.digest(), run.seed, device_kind(run.device))

    def build() -> Arrays:
        graph = co_occurrences(task)
        graph.setdiag(0)
        graph.eliminate_zeros()
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        return {"vectors": node2vec(graph, walking, generator, run.monitor)}

    return run.monitor.shared(key, build)


def co_occurrences(task: Task) -> sp.csr_array:
    """How many users of all markets had both items, in training: float64 (I, I) in global codes."""
    everything = np.arange(task.n_items)
    total = sp.csr_array((task.n_items, task.n_items))
    for view in task.markets:
        total = total + counts(view, everything).astype(np.float64)
    return sp.csr_array(total)


def nearest(vectors: FloatArray, codes: IntArray, neighbours: int) -> FloatArray:
    """Cosines above zero of items `codes` (n,) with their nearest among all items, (n, n) float32, the part in `codes`.

    Each row of all items adds up to 1, or to 0 where an item has no vector; no item is its own neighbour. Of equal
    cosines at the limit all are kept.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    cosine = np.maximum(unit[codes] @ unit.T, 0)
    cosine[np.arange(len(codes)), codes] = 0
    if neighbours < cosine.shape[1]:
        limit = np.partition(cosine, -neighbours, axis=1)[:, -neighbours, None]
        cosine[cosine < limit] = 0
    total = cosine.sum(axis=1, keepdims=True)
    share = np.divide(cosine, total, out=np.zeros_like(cosine), where=total > 0)
    return np.ascontiguousarray(share[:, codes])


class Local:
    """Item weights of the target for any penalty and weights of the two parts of the prior."""

    def __init__(self, gram: sp.csr_array, inter: FloatArray) -> None:
        """`gram` is the target's X'X (n, n), float64; `inter` (n, n) the walks' part, in its item codes."""
        self._gram, self._inter = gram, inter
        self._last: tuple[float, FloatArray] | None = None

    def weights(self, choice: Choice, intra: FloatArray) -> FloatArray:
        """argmin |X - X B|^2 + l |B - S|^2 over B without diagonal, float32 (n, n), with `intra` (n, n) in S.

        With P = (X'X + l I)^-1 and T = l P S that is -P diag(1 / diag P) off the diagonal, which is EASE, plus
        T - P diag(diag T / diag P). Raises TrainingError where there is no inverse.
        """
        penalty, a, b = choice.strength, choice.weights[INTRA], choice.weights[INTER]
        p = self._inverse(penalty)
        single = p.astype(np.float32)
        moved = single @ (np.float32(a * penalty) * intra + np.float32(b * penalty) * self._inter)
        weight: FloatArray = moved - single * ((1 + moved.diagonal()) / p.diagonal()).astype(np.float32)
        np.fill_diagonal(weight, 0.0)
        return weight

    def _inverse(self, penalty: float) -> FloatArray:
        if self._last is None or self._last[0] != penalty:
            self._last = None  # two inverses at once would be the peak of memory
            self._last = penalty, inverse(sp.csr_array(self._gram + penalty * sp.eye_array(self._gram.shape[0])))
        return self._last[1]


def _choose(
    config: M3RecConfig, task: Task, run: Run, solve: Callable[[Choice], FloatArray]
) -> tuple[ItemItem, Choice, dict[str, float | str]]:
    """The given settings; with `tune` the best penalty beside the given weights, then the best weights beside it.

    Last, with `tune_global`, the best penalty of the EASE over all markets beside these.
    """
    weights_given = {INTRA: config.intra_weight, INTER: config.inter_weight}
    given = Choice(config.penalty, weights_given, config.global_penalty)
    if not config.tune:
        return fit_once(task, run, solve, given), given, {}
    penalties = [penalty for penalty in PENALTIES if penalty != config.penalty]
    weights = [{INTRA: a, INTER: b} for a in INTRA_WEIGHTS for b in INTER_WEIGHTS]
    others = [penalty for penalty in GLOBAL_PENALTIES if config.tune_global and penalty != config.global_penalty]
    search = Search(task, run, solve, 1 + len(penalties) + len(weights) + len(others))
    for penalty in (config.penalty, *penalties):
        search.consider(replace(given, strength=penalty))
    assert search.best is not None, "a search without candidates"
    firm = search.best[1]
    for pair in weights:
        search.consider(replace(firm, weights=pair))
    weighted = search.best[1]
    for penalty in others:
        search.consider(replace(weighted, global_strength=penalty))
    value, choice, fitted = search.best
    return fitted, choice, {"validation": value}
