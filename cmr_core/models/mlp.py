"""MLP: a tower of layers over user and item (He et al., "Neural Collaborative Filtering", WWW 2017, equation 10)."""

from __future__ import annotations

from cmr_core.interfaces import Recommender, Run, Task
from cmr_core.models.ncf_training import FOREC_CODE, MLPConfig, OrderConfig, Scope, served, trained
from cmr_core.models.registry import register


class MLPAllConfig(MLPConfig, OrderConfig):
    """Settings of MLP on all markets."""


@register(
    "mlp",
    label="MLP, target only",
    family="single-market",
    color="#c7a76c",
    config=MLPConfig,
    uses_sources=False,
    published=FOREC_CODE | {"learning_rate": 0.01},
)
class MLP:
    """A network reads the vectors of a user and an item of the target market and scores the pair.

    He et al. (WWW 2017): four layers over [p; q], trained on pairs and sampled negatives with binary cross-entropy.

    Parameters: (users + items) * d + 128 d + 2,817 with 64 units. Memory: six times that, for the gradient, Adam's two
    moments, the start and the best state. An epoch: 64 d + 2,700 products for each pair and each negative, and Adam on
    the whole tables at every step; scoring: 2,700 products a pair.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it; by NDCG@10 it is below on jp.
    """

    def __init__(self, config: MLPConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the target's own pairs."""
        scope = Scope.alone(task)
        return served("mlp", trained("mlp", scope, run, self.config.plan()), scope.layout, task, run)


@register(
    "mlp-all",
    label="MLP, all markets",
    family="cross-market",
    color="#8f7337",
    config=MLPAllConfig,
    published=FOREC_CODE | {"learning_rate": 0.01},
)
class MLPAll:
    """MLP on the pairs of all markets: items have one vector everywhere, users belong to one market.

    He et al. (WWW 2017); negatives come from each pair's own market. Size and cost as MLP's, over all markets.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: MLPAllConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train on the pairs of all markets and keep the target's part."""
        scope = Scope.everybody(task)
        return served("mlp", trained("mlp", scope, run, self.config.plan()), scope.layout, task, run)
