"""Teachers of DCMPT's student: any fitted method that scores the target's catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from cmr_core.errors import SpecError
from cmr_core.interfaces import Arrays, ParameterCount, Recommender, Run, Task
from cmr_core.models.base import Factors, ItemItem, rebuild
from cmr_core.models.ease import WeightedEASE, WeightedEASEConfig
from cmr_core.models.embedding import factors_from_embedding
from cmr_core.models.graph import market_graph
from cmr_core.models.lightgcn import TeacherConfig, market_nodes, teacher
from cmr_core.training.monitor import shared_key

TeacherName = Literal["lightgcn", "ease-weighted"]
_TABLE_BYTES = 256 * 2**20


class Teacher:
    """A fitted recommender as tensors. Scores of all users are kept where they take at most 256 MiB."""

    def __init__(self, fitted: Recommender, n_users: int, device: str, scale: float = 1.0) -> None:
        self.fitted, self._device, self.scale = fitted, device, scale
        first = fitted.score(np.zeros(1, dtype=np.int64))
        small = n_users * first.size * 4 <= _TABLE_BYTES
        self._table = self._score(np.arange(n_users)) if small else None

    @property
    def parameters(self) -> int:
        """Scalars that the teacher consists of; none of them is needed after training."""
        return self.fitted.parameters.total

    def scores(self, users: torch.Tensor) -> torch.Tensor:
        """(B, n_items) times `scale`, on the device."""
        table = self._score(users.cpu().numpy()) if self._table is None else self._table[users]
        return table * self.scale

    def at(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Of `items` (B, K) only: (B, K)."""
        if self._table is None:
            return self.scores(users).gather(1, items)
        places = users[:, None] * self._table.shape[1] + items
        return self._table.view(-1).index_select(0, places.flatten()).view(items.shape) * self.scale

    def by_history(self, profile: torch.Tensor) -> torch.Tensor:
        """Scores (B, n_items) of users who are known only by weights (B, n_items) on items that they had.

        Factors: the weighted mean of item vectors serves as the user's vector. Item-item: its own rule, averaged.
        """
        if isinstance(self.fitted, Factors):
            item = torch.from_numpy(self.fitted.item).to(self._device)
            return (profile @ item) @ item.T * self.scale
        if isinstance(self.fitted, ItemItem):
            return profile @ torch.from_numpy(self.fitted.weight).to(self._device) * self.scale
        raise SpecError(f"A teacher of type {type(self.fitted).__name__} cannot score users of other markets.")

    def top(self, user: torch.Tensor, blocked: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best items per user that are not `blocked` (B, n_items): codes (B, k) and whether they exist."""
        allowed = self.scores(user).masked_fill(blocked, -torch.inf)
        best = allowed.topk(min(k, allowed.shape[1]), dim=1)
        return best.indices, best.values > -torch.inf

    def _score(self, users: np.ndarray) -> torch.Tensor:
        blocks = [self.fitted.score(users[start : start + 1024]) for start in range(0, len(users), 1024)]
        return torch.from_numpy(np.concatenate(blocks).astype(np.float32)).to(self._device)


def fit_teacher(name: TeacherName, config: TeacherConfig, task: Task, run: Run, *, tune: bool = True) -> Recommender:
    """The teacher, trained once for all runs that share its data, rule, settings and seed.

    Raises Cancelled and TrainingError as its training does.
    """
    if name == "ease-weighted":
        return _ease(task, run, WeightedEASEConfig(tune=tune))
    arrays = teacher(task, run, config.teacher())
    graph, nodes = market_graph(task.target, run.device), market_nodes(task.target)
    count = ParameterCount(trainable=arrays["embedding"].size)
    return factors_from_embedding(graph, arrays["embedding"], config.layers, *nodes, count)


def _ease(task: Task, run: Run, config: WeightedEASEConfig) -> ItemItem:
    key = shared_key("ease-teacher", task.digest, task.target.name, run.validate.digest, config.digest())

    def build() -> Arrays:
        return WeightedEASE(config).fit(task, run).arrays()

    arrays = run.monitor.shared(key, build)
    details: Mapping[str, float | str] = {}
    count = ParameterCount(closed_form=arrays["weight"].size)
    fitted = rebuild("item-item", arrays, count, details)
    assert isinstance(fitted, ItemItem), "EASE has the shape item-item"
    return fitted
