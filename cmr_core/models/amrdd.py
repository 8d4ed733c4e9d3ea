"""AMRDD (Zhang et al., AAAI 2026, eq. 10 to 15) in three readings of "a batch of data from source market m".

Each returns the divergence per source market and the student's and the teacher's mean preference for the positive
item; `Weighted` turns them into the loss. Shapes: B users, S source markets, L items per list, I target items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from cmr_core.interfaces import IntArray, MarketView
from cmr_core.models.distillation import decoupled_kl, list_kl, log_preferences, market_weights
from cmr_core.models.graph import build_graph
from cmr_core.models.histories import History, Pool, absent_entries, draw_lists, draw_windows
from cmr_core.models.prompts import Parameters
from cmr_core.models.scores import Scores
from cmr_core.models.student import Field, Prompted
from cmr_core.models.teachers import Teacher


@dataclass(frozen=True)
class Batch:
    """One step's users and what is known of them."""

    users: torch.Tensor  # (B,) target users with training items
    scores: Scores  # the student's, B x I
    mask: torch.Tensor  # (B, I) bool: what the user has in training
    parameters: Parameters
    generator: torch.Generator


@dataclass(frozen=True)
class Compared:
    """Per source market, (S,) each."""

    divergence: torch.Tensor
    student: torch.Tensor  # mean preference for the positive item
    teacher: torch.Tensor


class Reading(Protocol):
    """One reading of eq. 15."""

    names: list[str]

    def __call__(self, batch: Batch) -> Compared:
        """Draw lists and compare student and teacher on them."""


@dataclass(frozen=True)
class Weighted:
    """The loss: divergences weighted by how alike student and teacher are on each market (eq. 14 and 15)."""

    reading: Reading
    temperature: float
    gradient: bool
    kd_temperature: float

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the market weights (S,). The squared temperature keeps gradients in proportion."""
        found = self.reading(batch)
        alpha = market_weights(found.student, found.teacher, temperature=self.temperature, gradient=self.gradient)
        return (alpha * found.divergence).sum() * self.kd_temperature**2, alpha.detach()


class TargetUsers:
    """Target users; the negatives of source m's list are items that m sells too. Reads B x S x L scores of each."""

    def __init__(
        self, pools: Sequence[Pool], history: History, teacher: Teacher, length: int, temperature: float
    ) -> None:
        self.names = [pool.market for pool in pools]
        self._pools, self._history, self._teacher = pools, history, teacher
        self._length, self._temperature = length, temperature
        self._sizes = torch.tensor([len(pool.items) for pool in pools], device=history.items.device)

    def __call__(self, batch: Batch) -> Compared:
        """Lists (B, S, L), the same for both models."""
        drawn = []
        for pool in self._pools:
            drawn.append(self._history.any_one(batch.users, batch.generator)[:, None])
            drawn.append(draw_windows(pool.items, len(batch.users), self._length - 1, batch.generator))
        items, shape = torch.cat(drawn, dim=1), (len(batch.users), len(self._pools), self._length)
        absent = absent_entries(items, batch.mask, self._sizes).view(shape)
        teacher, student = (
            log_preferences(scores.view(shape), absent, self._temperature)
            for scores in (self._teacher.at(batch.users, items), batch.scores.at(items))
        )
        first = (student[..., 0].exp().mean(0), teacher[..., 0].exp().mean(0))
        return Compared(list_kl(teacher, student, absent).mean(0), *first)


class SourceStudents:
    """Prompted features of all source markets, each propagated on its own graph (one block-diagonal product)."""

    def __init__(self, sources: Sequence[MarketView], features: Sequence[torch.Tensor], prompted: Prompted) -> None:
        self.user_start = np.cumsum([0, *(view.n_users for view in sources)])
        items = np.cumsum([0, *(view.n_items for view in sources)])
        n_users, n_items = int(self.user_start[-1]), int(items[-1])
        self.item_start = items + n_users
        user = np.concatenate(
            [v.train.user.astype(np.int64) + o for v, o in zip(sources, self.user_start, strict=False)]
        )
        item = np.concatenate(
            [v.train.item.astype(np.int64) + o for v, o in zip(sources, self.item_start, strict=False)]
        )
        device = prompted.field.features.device
        graph = build_graph(user, item, n_users + n_items, device)
        whole = np.arange(n_users), np.arange(n_users, n_users + n_items)
        ordered = torch.cat(
            [part[: v.n_users] for part, v in zip(features, sources, strict=True)]
            + [part[v.n_users :] for part, v in zip(features, sources, strict=True)]
        )
        self._students = Prompted(Field(graph, ordered, *whole, prompted.field.layers), prompted.shape, "zero")

    def tables(self, parameters: Parameters) -> torch.Tensor:
        """(users + items of all sources, D)."""
        return self._students.tables(parameters)


class SourceProfile:
    """Users of source m and of the target on lists of their own; only the average shape of preferences is compared.

    Literal in the indices of eq. 15; as the items differ, negatives are put in order of preference before averaging.
    """

    def __init__(
        self, sources: Sequence[MarketView], target: History, students: SourceStudents, teacher: Teacher,
        length: int, temperature: float,
    ) -> None:  # fmt: skip
        self.names = [view.name for view in sources]
        device = str(target.items.device)
        self._histories = [History.of(view, device) for view in sources]
        self._target, self._students, self._teacher = target, students, teacher
        self._length, self._temperature = length, temperature

    def __call__(self, batch: Batch) -> Compared:
        """As many users of each source as of the target, where it has so many."""
        tables = self._students.tables(batch.parameters)
        teacher = self._profile(self._target, batch.users, self._teacher.scores(batch.users), batch)
        profiles = []
        for at, history in enumerate(self._histories):
            users = pick((history.length > 0).nonzero()[:, 0], len(batch.users), batch.generator)
            start = int(self._students.item_start[at])
            rows = tables[users + int(self._students.user_start[at])]
            scores = rows @ tables[start : start + history.n_items].T
            profiles.append(self._profile(history, users, scores, batch))
        student = torch.stack(profiles)
        both = teacher.expand_as(student)
        return Compared(decoupled_kl(both, student), student[:, 0], both[:, 0])

    def _profile(self, history: History, users: torch.Tensor, scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean preference for the positive, then the mean ordered preferences among the others: sums to 1. (L,)."""
        pool = torch.arange(history.n_items, device=scores.device)
        positive = history.any_one(users, batch.generator)
        items, absent = draw_lists(pool, positive, self._length, history.mask(users), batch.generator)
        chosen = scores.gather(1, items)
        positive_mean = log_preferences(chosen, absent, self._temperature)[:, 0].exp().mean()
        compared = ~absent[:, 1:].all(1)
        fine = log_preferences(chosen[compared, 1:], absent[compared, 1:], self._temperature).exp()
        ordered = fine.sort(dim=1, descending=True).values.mean(0)
        return torch.cat([positive_mean[None], (1 - positive_mean) * ordered])


class ProxyUsers:
    """Users of source m with two items that the target sells; the teacher knows them by their other such items."""

    def __init__(
        self, sources: Sequence[MarketView], target: MarketView, pools: Sequence[Pool], students: SourceStudents,
        teacher: Teacher, length: int, temperature: float,
    ) -> None:  # fmt: skip
        self._students, self._teacher = students, teacher
        self._length, self._temperature = length, temperature
        self._parts: list[tuple[int, Pool, History, torch.Tensor, torch.Tensor]] = []
        shared = {pool.market: pool for pool in pools}
        for at, view in enumerate(sources):
            if view.name in shared:
                history, code = in_target_codes(view, target, shared[view.name].items.device.type)
                users = (history.length >= 2).nonzero()[:, 0]
                if len(users):
                    self._parts.append((at, shared[view.name], history, users, code + int(students.item_start[at])))
        self.names = [pool.market for _, pool, *_ in self._parts]

    def __call__(self, batch: Batch) -> Compared:
        """Lists over the items that both markets sell, the same for both models."""
        tables = self._students.tables(batch.parameters)
        divergence, first = [], []
        for at, pool, history, eligible, row_of in self._parts:
            users = pick(eligible, len(batch.users), batch.generator)
            positive, mask = history.any_one(users, batch.generator), history.mask(users)
            items, absent = draw_lists(pool.items, positive, self._length, mask, batch.generator)
            profile = mask.float().scatter(1, positive[:, None], 0)
            taught = self._teacher.by_history(profile / profile.sum(1, keepdim=True)).gather(1, items)
            rows = tables[users + int(self._students.user_start[at])]
            scored = (rows[:, None] * tables[row_of[items]]).sum(-1)
            teacher, student = (log_preferences(scores, absent, self._temperature) for scores in (taught, scored))
            divergence.append(list_kl(teacher, student, absent).mean())
            first.append(torch.stack([student[:, 0].exp().mean(), teacher[:, 0].exp().mean()]))
        means = torch.stack(first)
        return Compared(torch.stack(divergence), means[:, 0], means[:, 1])


def in_target_codes(view: MarketView, target: MarketView, device: str) -> tuple[History, torch.Tensor]:
    """The market's histories over items that the target sells, in the target's codes; and the market's own code of
    each target item (-1 where it does not sell it)."""
    _, there, here = np.intersect1d(target.catalogue, view.catalogue, assume_unique=True, return_indices=True)
    own = np.full(target.n_items, -1, dtype=np.int64)
    own[there] = here
    back: IntArray = np.full(view.n_items, -1, dtype=np.int64)
    back[here] = there
    item = back[view.train.item]
    history = History(view.train.user[item >= 0], item[item >= 0], view.n_users, target.n_items, device)
    return history, torch.from_numpy(own).to(device)


def pick(users: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Up to `count` different users at random."""
    return users[torch.randperm(len(users), generator=generator, device=users.device)[:count]]
