"""Prompt tuning: the epochs of DCMPT's last stage, on one target market."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from cmr_core.errors import TrainingError
from cmr_core.interfaces import MarketView, Run
from cmr_core.models.amrdd import Batch, Weighted
from cmr_core.models.dcmpt_config import DCMPTConfig
from cmr_core.models.distillation import exact_ranks, ranks_needed, sampled_ranks, soft_ranks, wrd, wrd_weights
from cmr_core.models.embedding import inner_product
from cmr_core.models.histories import History
from cmr_core.models.losses import bpr
from cmr_core.models.negatives import Negatives
from cmr_core.models.prompts import Parameters
from cmr_core.models.scores import Scores
from cmr_core.models.student import Propagation, Student
from cmr_core.models.teachers import Teacher
from cmr_core.training.checkpoint import adam
from cmr_core.training.loop import Schedule, Trained, train

Metrics = dict[str, torch.Tensor]


@dataclass
class Adaptation:
    """Everything that a step needs. `teacher` and `amrdd` are None where their losses have no weight.

    One step takes some users: it propagates their prompts, scores the catalogue for them once (users x items x D
    operations), and all losses read from that matrix. Memory: about three matrices of users x items.
    """

    config: DCMPTConfig
    market: MarketView
    student: Student
    run: Run
    teacher: Teacher | None = None
    amrdd: Weighted | None = None
    propagation: Propagation = "fast"
    history: History = field(init=False)
    users: torch.Tensor = field(init=False)  # those who have something to learn from

    def __post_init__(self) -> None:
        device = self.run.device
        self.history = History.of(self.market, device)
        self._negatives = Negatives([self.market], device)
        self.users = ((self.history.length > 0) & (self._negatives.missing > 0)).nonzero()[:, 0]
        if not len(self.users):
            raise TrainingError(
                f"Market {self.market.name!r} has no training pair with an item to compare it with.",
                hint="Choose a market with more interactions, or another split.",
            )
        self._weights = self.config.loss_weights()
        self._lists = self._teacher_lists() if self._weights["wrd"] else None

    def fit(self) -> tuple[Trained, Parameters]:
        """Tune, and return where that ended with the parameters to use. Raises as `training.loop.train`."""
        config = self.config
        generator = torch.Generator(device=self.run.device).manual_seed(self.run.seed)
        model = adam(self.student.initial(generator), config.learning_rate, generator)
        latest = {"loss": float("inf")}

        def epoch() -> Mapping[str, float]:
            metrics = self.epoch(model.parameters, model.optimizer, generator)
            latest["loss"] = metrics["loss"]
            return metrics | self.student.describe(model.parameters)

        rules: dict[str, Callable[[], float]] = {
            "validation": lambda: self.validate(model.parameters),
            "loss": lambda: -latest["loss"],
            "never": lambda: float("nan"),
        }
        schedule = Schedule(config.epochs, config.eval_every, config.patience)
        trained = train("prompts", model, epoch, rules[config.stop_on], self.run.monitor, schedule)
        return trained, trained.best

    def epoch(
        self, parameters: Parameters, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> dict[str, float]:
        """One pass over the users (or `steps_per_epoch` steps); the mean of each metric over the steps."""
        steps = [self.step(users, parameters, optimizer, generator) for users in self._batches(generator)]
        means = torch.stack([torch.stack(list(step.values())) for step in steps]).mean(0).tolist()
        return dict(zip(steps[0], means, strict=True))

    def step(
        self,
        users: torch.Tensor,
        parameters: Parameters,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Metrics:
        """One Adam step on the users (B,) and their training pairs; metrics before the step."""
        optimizer.zero_grad()
        loss, metrics = self.loss(users, parameters, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return metrics

    def loss(
        self, users: torch.Tensor, parameters: Parameters, generator: torch.Generator
    ) -> tuple[torch.Tensor, Metrics]:
        """Weighted sum of BPR, WRD and AMRDD (eq. 16) plus weight decay; and each part as a metric."""
        tables = self.student.tables(parameters, self.propagation)
        ours, items = torch.split(tables, [self.student.n_users, self.market.n_items])
        scores = Scores.of(ours.index_select(0, users), items)
        mask = self.history.mask(users)
        parts = {"bpr": self._bpr(users, scores, generator)}
        extra: Metrics = {}
        if self._lists is not None:
            parts["wrd"] = self._wrd(users, scores, mask, generator)
        if self.amrdd is not None and self._weights["amrdd"]:
            parts["amrdd"], alpha = self.amrdd(Batch(users, scores, mask, parameters, generator))
            extra = {f"weight:{name}": value for name, value in zip(self.amrdd.reading.names, alpha, strict=True)}
        decay = torch.stack([value.square().sum() for value in parameters.values()]).sum()
        loss = torch.stack([self._weights[name] * part for name, part in parts.items()]).sum() + self.config.l2 * decay
        extra["mean |score|"] = scores.table.abs().mean()
        return loss, {"loss": loss.detach()} | {name: part.detach() for name, part in parts.items()} | extra

    @torch.no_grad()
    def validate(self, parameters: Parameters) -> float:
        """The target's validation metric."""
        tables = self.student.tables(parameters).cpu().numpy()
        score = inner_product(tables[: self.student.n_users], tables[self.student.n_users :])
        return self.run.validate(self.market.name, score)

    def _batches(self, generator: torch.Generator) -> list[torch.Tensor]:
        size, total = self.config.batch_users, len(self.users)
        wanted = self.config.steps_per_epoch * size or total
        orders = [
            torch.randperm(total, generator=generator, device=generator.device) for _ in range(-(-wanted // total))
        ]
        return list(torch.split(self.users[torch.cat(orders)[:wanted]], size))

    def _bpr(self, users: torch.Tensor, scores: Scores, generator: torch.Generator) -> torch.Tensor:
        row, positive = self.history.pairs(users)
        if 0 < self.config.pairs_per_step < len(row):
            chosen = torch.randperm(len(row), generator=generator, device=row.device)[: self.config.pairs_per_step]
            chosen = chosen.sort().values
            row, positive = row[chosen], positive[chosen]
        negative = self._negatives.draw(users[row], generator)
        start = torch.searchsorted(row, torch.arange(len(users) + 1, device=row.device))
        above, below = scores.pairs(2 * start, torch.stack([positive, negative], dim=1).flatten()).view(-1, 2).T
        return bpr(above, below)

    def _wrd(self, users: torch.Tensor, scores: Scores, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert self._lists is not None, "lists are made before the first step"
        config = self.config
        chosen, present = self._lists[0][users], self._lists[1][users]
        blocked = torch.zeros_like(mask) if config.wrd_include_train else mask
        if config.wrd_rank == "exact":
            raw = config.wrd_rank_scale == "raw"
            upto = ranks_needed(chosen.shape[1], config.wrd_deviation) if raw else None
            ranks = exact_ranks(scores.table, blocked, chosen, upto)
        elif config.wrd_rank == "soft":
            ranks = soft_ranks(scores.whole(), blocked, chosen)
        else:
            size = (len(users), config.wrd_draws)
            draws = torch.randint(scores.table.shape[1], size, generator=generator, device=users.device)
            ranks = sampled_ranks(scores.table, blocked, chosen, draws)
        weights = wrd_weights(
            ranks,
            present,
            position=config.wrd_position,
            deviation=config.wrd_deviation,
            log_scale=config.wrd_rank_scale == "log",
        )
        return wrd(scores.at(chosen), weights)

    def _teacher_lists(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.teacher is not None, "WRD has a weight, so a teacher was fitted"
        codes, present = [], []
        for users in torch.split(torch.arange(self.market.n_users, device=self.run.device), 1024):
            mask = self.history.mask(users)
            blocked = torch.zeros_like(mask) if self.config.wrd_include_train else mask
            best = self.teacher.top(users, blocked, self.config.wrd_items)
            codes.append(best[0])
            present.append(best[1])
        return torch.cat(codes), torch.cat(present)
