"""Wide & Deep (Cheng et al., 2016) on ids, on one market or on all: memorised pairs beside a tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Arrays, IntArray, MarketView, ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import best_details
from cmr_core.models.neural import Tensors, network
from cmr_core.models.pointwise import Batch, Layout, PointwiseConfig, Rows, bce, count, fit_steps, fitted, judge
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_pair, apply_tower, dropout, table, tower
from cmr_core.training.monitor import device_kind, shared_key

BUCKETS = 1 << 18
LONGEST = 50  # items of a user's history that are crossed with a candidate, the latest ones


class WideDeepConfig(PointwiseConfig):
    """Settings of Wide & Deep."""

    dimensions: int = Field(32, ge=1, le=1024, description="Length of each user's and item's vector")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of the tower's units that are left out in training")
    crosses: bool = Field(True, description="Memorise which items go with which; without it the wide part has ids only")
    wide_l2: float = Field(
        1e-5, ge=0, le=1, description="Weight decay on the wide weights of each batch's users and items"
    )


@network("wide-deep")
def logits(
    weights: Tensors,
    user: torch.Tensor,
    item: torch.Tensor,
    rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Wide part + deep part. A user's own candidate never counts as history."""
    own, other = weights["user.deep"][user], weights["item.deep"][item]
    hidden = dropout(functional.relu(apply_pair(weights, "tower.0", own, other)), rate, generator)
    deep = apply_tower(weights, "tower", hidden, first=1, rate=rate, generator=generator, last_relu=False).squeeze(-1)
    return deep + wide(weights, user, item)


def wide(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """b + w_u + w_i + w_m + the sum of c[hash(j, i)] over the user's history without i."""
    plain = weights["bias"] + weights["user.wide"][user] + weights["market"][weights["user.market"][user]]
    total = plain + weights["item.wide"][item]
    if "cross" not in weights:
        return total
    history = weights["user.history"][user]  # (..., LONGEST) item codes, -1 behind them
    longest = max(1, int((history >= 0).sum(-1).max()))
    past, code = history[..., :longest], weights["item.code"][item][..., None]
    known = (past >= 0) & (past != code)
    pair = torch.repeat_interleave(known.sum(-1).flatten())  # which of the pairs each crossed item belongs to
    buckets = _bucket(past.expand_as(known)[known], code.expand_as(known)[known])
    crossed = functional.embedding(buckets, weights["cross"])[:, 0]
    return total + torch.zeros_like(total).flatten().index_add(0, pair, crossed).view_as(total)


def constants(layout: Layout) -> Arrays:
    """What the wide part looks up and never trains: each user's history and market, each item's code."""
    histories, markets = [], []
    for at, view in enumerate(layout.views):
        histories.append(_histories(view, layout.items(view)))
        markets.append(np.full(view.n_users, at, dtype=np.int64))
    return {
        "user.history": np.concatenate(histories),
        "user.market": np.concatenate(markets),
        "item.code": np.arange(layout.n_items),
    }


def train(stage: str, config: WideDeepConfig, views: Sequence[MarketView], run: Run) -> Arrays:
    """The best parameters over the markets of `views`, and the constants beside them (O(users * 50))."""
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    layout = Layout(views)
    fixed = constants(layout)
    known = {name: torch.from_numpy(value).to(run.device) for name, value in fixed.items()}
    parameters = _start(config, layout, generator)
    rows = Rows(layout, config.negatives, run.device)

    def loss(batch: Batch) -> torch.Tensor:
        weights = parameters | known
        found = bce(logits(weights, batch.user[:, None], batch.item, config.dropout, generator))
        looked_up = weights["user.wide"][batch.user].square().sum() + weights["item.wide"][batch.item].square().sum()
        return found + config.wide_l2 * looked_up / batch.item.numel()

    def validate() -> float:
        return judge(run, "wide-deep", parameters | known, layout, views, config.valid_users)

    def batches() -> Iterator[Batch]:
        return rows.batches(config.batch_size, generator)

    return fit_steps(stage, parameters, batches, loss, validate, generator, config.steps(), run) | fixed


@register(
    "wide-deep",
    label="Wide&Deep, target only",
    family="single-market",
    color="#b2df8a",
    config=WideDeepConfig,
    uses_sources=False,
)
class WideDeep:
    """Remembers which items are bought together, and lets a network generalise beside it.

    Wide & Deep (Cheng et al., 2016) on ids: weights of user, item and market, hashed pairs of a history item and the
    candidate (262,144 buckets), and a tower 2d-128-64-32-1. `wide_l2` decays the wide weights of users and items; the
    memorised pairs have `weight_decay` alone. Of a history longer than 50 the latest items are crossed; where the cut
    falls among items of one day, those with lower numbers stay: the order of a day is not drawn.

    Memory: (U + I)(d + 1) + 2^18, three times for Adam. An epoch: for each pair and each negative 128 d + 10,300
    products and up to 50 crosses, and Adam on all tables and buckets at every step.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: WideDeepConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        return _fitted(train("wide-deep", self.config, [task.target], run), Layout([task.target]), task.target, run)


@register(
    "wide-deep-all",
    label="Wide&Deep, all markets",
    family="cross-market",
    color="#33a02c",
    config=WideDeepConfig,
)
class WideDeepAll:
    """Wide&Deep on the pairs of all markets: items and what goes together are shared, users are not.

    As `wide-deep`, with negatives from each pair's own market; targets share one model, judged by the mean validation
    metric. Memory and an epoch as there, for the users, items and pairs of all markets.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: WideDeepConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets and keep the target's rows."""
        kind = device_kind(run.device)
        key = shared_key("wide-deep-all", task.digest, run.validate.digest, self.config.digest(), run.seed, kind)
        arrays = run.monitor.shared(key, lambda: train("wide-deep-all", self.config, task.markets, run))
        return _fitted(arrays, Layout(task.markets), task.target, run)


def _fitted(arrays: Arrays, layout: Layout, target: MarketView, run: Run) -> Recommender:
    fixed = ("user.history", "user.market", "item.code")
    size = count({name: value for name, value in arrays.items() if name not in fixed})
    details = best_details("wide-deep", arrays)
    return fitted("wide-deep", arrays, layout, target, ParameterCount(trainable=size), run, details)


def _start(config: WideDeepConfig, layout: Layout, generator: torch.Generator) -> Parameters:
    """(U + I) d + U + I + markets + 1 + 2^18 + 18,689 scalars at d = 32."""
    zeros = {"user.wide": layout.n_users, "item.wide": layout.n_items, "market": len(layout.views), "bias": 1}
    flat: Parameters = {n: torch.zeros(k, device=generator.device, requires_grad=True) for n, k in zeros.items()}
    if config.crosses:
        flat["cross"] = torch.zeros((BUCKETS, 1), device=generator.device, requires_grad=True)
    return {
        "user.deep": table(layout.n_users, config.dimensions, generator),
        "item.deep": table(layout.n_items, config.dimensions, generator),
        **tower("tower", (2 * config.dimensions, 128, 64, 32, 1), generator),
        **flat,
    }


def _histories(view: MarketView, codes: IntArray) -> IntArray:
    """(n_users, LONGEST) item codes of each user's latest training items, -1 behind them."""
    order = np.lexsort((view.train.item, -view.train.day, view.train.user))
    user, item = view.train.user[order], codes[view.train.item[order]]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    kept = place < LONGEST
    result = np.full((view.n_users, LONGEST), -1, dtype=np.int64)
    result[user[kept], place[kept]] = item[kept]
    return result


def _bucket(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    # multiplicative hashing with two odd constants (Knuth); the upper bits are the mixed ones
    mixed = (one + 1) * 2654435761 + (other + 1) * 2246822519
    return ((mixed ^ (mixed >> 15)) * 3266489917 >> 13) & (BUCKETS - 1)
