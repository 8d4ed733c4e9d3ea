"""GMF: generalised matrix factorisation (He et al., "Neural Collaborative Filtering", WWW 2017, equation 9)."""

from __future__ import annotations

from cmr_core.interfaces import Recommender, Run, Task
from cmr_core.models.ncf_training import FOREC_CODE, GMFConfig, OrderConfig, Scope, served, trained
from cmr_core.models.registry import register


class GMFAllConfig(GMFConfig, OrderConfig):
    """Settings of GMF on all markets."""


@register(
    "gmf",
    label="GMF, target only",
    family="single-market",
    color="#8c564b",
    config=GMFConfig,
    uses_sources=False,
    published=FOREC_CODE | {"learning_rate": 0.005},
)
class GMF:
    """One vector per user and item of the target market, compared dimension by dimension with learned weights.

    He et al. (WWW 2017): w · (p ⊙ q) + b, trained on pairs and sampled negatives with binary cross-entropy.
    Against whole catalogues it stays below popularity on ca (events, three seeds: NDCG@10 .029 and .031).

    Parameters: (users + items) * d + d + 1. Memory: six times that, for the gradient, Adam's two moments, the start and
    the best state. An epoch: pairs * (1 + negatives) * d products, and Adam on the whole tables at every step.
    """

    def __init__(self, config: GMFConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        scope = Scope.alone(task)
        return served("gmf", trained("gmf", scope, run, self.config.plan()), scope.layout, task, run)


@register(
    "gmf-all",
    label="GMF, all markets",
    family="cross-market",
    color="#c49c94",
    config=GMFAllConfig,
    published=FOREC_CODE | {"learning_rate": 0.005},
)
class GMFAll:
    """GMF on the pairs of all markets: items have one vector everywhere, users belong to one market.

    He et al. (WWW 2017); negatives come from each pair's own market. Size and cost as GMF's, over all markets.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: GMFAllConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets and keep the target's part."""
        scope = Scope.everybody(task)
        return served("gmf", trained("gmf", scope, run, self.config.plan()), scope.layout, task, run)
