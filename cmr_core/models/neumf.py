"""NeuMF: GMF and MLP side by side (He et al., "Neural Collaborative Filtering", WWW 2017, equation 12)."""

from __future__ import annotations

from cmr_core.interfaces import Recommender, Run, Task
from cmr_core.models.ncf_training import FOREC_CODE, OrderConfig, Scope, TowerConfig, served, trained
from cmr_core.models.registry import register


class NeuMFAllConfig(TowerConfig, OrderConfig):
    """Settings of NeuMF on all markets."""


@register(
    "neumf",
    label="NeuMF, target only",
    family="single-market",
    color="#e377c2",
    config=TowerConfig,
    uses_sources=False,
    published=FOREC_CODE | {"learning_rate": 0.01, "pretrain": True},
)
class NeuMF:
    """GMF and MLP side by side under one output layer, on the target market alone.

    He et al. (WWW 2017): each branch has vectors of its own. Pairs, sampled negatives, binary cross-entropy.

    Parameters: 2 (users + items) * d + 129 d + 2,817 with 64 units. Memory: six times that, for the gradient, Adam's
    two moments, the start and the best state. An epoch: 65 d + 2,700 products for each pair and each negative, and Adam
    on the whole tables at every step; scoring: d + 2,700 products a pair.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: TowerConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        scope = Scope.alone(task)
        return served("neumf", trained("neumf", scope, run, self.config.plan()), scope.layout, task, run)


@register(
    "neumf-all",
    label="NeuMF, all markets",
    family="cross-market",
    color="#a3387f",
    config=NeuMFAllConfig,
    published=FOREC_CODE | {"learning_rate": 0.01, "pretrain": True},
)
class NeuMFAll:
    """NeuMF on the pairs of all markets: items have one vector everywhere, users belong to one market.

    He et al. (WWW 2017); negatives come from each pair's own market. Size and cost as NeuMF's, over all markets.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: NeuMFAllConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets and keep the target's part."""
        scope = Scope.everybody(task)
        return served("neumf", trained("neumf", scope, run, self.config.plan()), scope.layout, task, run)
