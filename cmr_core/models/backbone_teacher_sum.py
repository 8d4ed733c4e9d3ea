"""The two models that DCMPT starts from, simply added: the reference that adaptation has to beat."""

from __future__ import annotations

import numpy as np

from cmr_core.interfaces import FloatArray, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors
from cmr_core.models.embedding import best_details, factors_from_embedding
from cmr_core.models.graph import combined_graph, market_graph
from cmr_core.models.lightgcn import BackboneConfig, TeacherConfig, backbone, market_nodes, teacher
from cmr_core.models.registry import register


class BackboneTeacherSumConfig(BackboneConfig, TeacherConfig):
    """The settings of both parts; the sum itself has none."""


@register(
    "backbone-teacher-sum",
    label="Backbone + teacher",
    family="cross-market",
    color="#b279a2",
    config=BackboneTeacherSumConfig,
)
class BackboneTeacherSum:
    """Adds the scores of a LightGCN on all markets and of one on the target alone; nothing is tuned.

    Per user, each model's scores are brought to mean 0 and deviation 1 over the target's catalogue (z-scores), then
    added. It knows exactly what DCMPT (Zhang et al., AAAI 2026) starts from. Memory: both models.
    """

    def __init__(self, config: BackboneTeacherSumConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Take both stages and add their standardised scores."""
        target, layers = task.target, self.config.layers
        general = backbone(task, run, self.config.backbone())
        special = teacher(task, run, self.config.teacher())
        whole, own = combined_graph(task, run.device), market_graph(target, run.device)
        count = ParameterCount(frozen=general["embedding"].size + special["embedding"].size)
        parts = [
            factors_from_embedding(
                whole.graph, general["embedding"], layers, whole.users(target), whole.items(target), count
            ),
            factors_from_embedding(own, special["embedding"], layers, *market_nodes(target), count),
        ]
        return standardised_sum(parts, count, best_details("backbone", general) | best_details("teacher", special))


def standardised_sum(parts: list[Factors], parameters: ParameterCount, details: dict[str, float | str]) -> Factors:
    """Factors whose scores are the sum of the parts' per-user z-scores over the catalogue, exactly.

    With item vectors centred, s(u, i) - mean(s(u, .)) = user[u] · item[i], and the variance is user[u]' C user[u]
    for the items' covariance C. So each part's users are divided by their deviation and the parts stand side by
    side. A part that scores all items alike for a user adds nothing for that user. The deviations become
    `user_scale`, so that the sum is explained as exactly as its parts. O((users + items) D^2).
    """
    items = [part.item.astype(np.float64) - part.item.mean(0, dtype=np.float64) for part in parts]
    scales = [_one_over_deviation(part.user, item) for part, item in zip(parts, items, strict=True)]
    explained = [(part.user_base, part.item_message) for part in parts]
    bases = [base for base, _ in explained if base is not None]
    messages = [message for _, message in explained if message is not None]
    complete = len(bases) == len(messages) == len(parts)
    return Factors(
        parameters,
        user=_side_by_side([part.user * scale for part, scale in zip(parts, scales, strict=True)]),
        item=_side_by_side(items),
        user_base=_side_by_side(bases) if complete else None,
        item_message=_side_by_side(messages) if complete else None,
        user_scale=_side_by_side([np.broadcast_to(s, p.user.shape) for p, s in zip(parts, scales, strict=True)]),
        details=details,
    )


def _one_over_deviation(user: FloatArray, item: FloatArray) -> FloatArray:
    covariance = item.T @ item / len(item)
    variance = np.einsum("ud,de,ue->u", user.astype(np.float64), covariance, user.astype(np.float64), optimize=True)
    known = variance > 1e-20
    return np.where(known, 1 / np.sqrt(np.where(known, variance, 1)), 0)[:, None]


def _side_by_side(arrays: list[FloatArray]) -> FloatArray:
    return np.concatenate(arrays, axis=1).astype(np.float32)
