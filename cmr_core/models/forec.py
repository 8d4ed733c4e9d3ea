"""FOREC (Bonab et al., "Cross-Market Product Recommendation", CIKM 2021): meta-trained NeuMF, forked per market."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field

from cmr_core.interfaces import Arrays, ParameterCount, Recommender, Run, Task
from cmr_core.models.embedding import best_details
from cmr_core.models.maml import MetaConfig, meta_trained
from cmr_core.models.ncf import mlp_hidden, vectors
from cmr_core.models.ncf_training import FOREC_CODE, Plan, Scope
from cmr_core.models.neural import NeuralScorer, Tensors, network
from cmr_core.models.pointwise import Batch, Layout, Rows, Steps, bce, count, cut, fit_steps, judge_by
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_linear, apply_tower, tower

BRANCHES = ("gmf", "mlp")
FROZEN = "tower.0."


class FORECConfig(MetaConfig):
    """Settings of NeuMF on all markets, of its meta-training, and of the target's fork."""

    pretrain_excludes_target: bool = Field(
        False,
        description="Train all but the fork without the target; the fork then trains the target's users, and the "
        "items that no source sells, too",
    )
    fork_learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size for the fork")
    fork_weight_decay: float = Field(1e-3, ge=0, le=1, description="Adam's weight decay on the fork")
    fork_batch: int = Field(1024, ge=2, le=1_000_000, description="Positives and negatives per step of the fork")
    fork_epochs: int = Field(25, ge=1, le=5000, description="Passes over the target's training pairs at most")
    fork_eval_every: int = Field(1, ge=1, le=100, description="Passes between two looks at validation")
    fork_patience: int = Field(5, ge=1, le=1000, description="Looks without improvement before it stops")

    def fork(self) -> Steps:
        """How the fork is trained."""
        return Steps(
            learning_rate=self.fork_learning_rate,
            weight_decay=self.fork_weight_decay,
            batch_size=self.fork_batch,
            epochs=self.fork_epochs,
            eval_every=self.fork_eval_every,
            patience=self.fork_patience,
        )


@network("forec")
def forec(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """NeuMF's [MLP; GMF], a head of two layers with ReLU, and the output layer."""
    own, other = vectors(weights, "gmf", user, item)
    joined = torch.cat([mlp_hidden(weights, user, item), own * other], dim=-1)
    return apply_linear(weights, "out", apply_tower(weights, "head", joined)).squeeze(-1)


@register(
    "forec",
    label="FOREC",
    family="cross-market",
    color="#c25100",
    config=FORECConfig,
    published=FOREC_CODE | {"learning_rate": 0.01, "pretrain": True, "meta_learning_rate": 0.01, "meta_batch": 20},
)
class FOREC:
    """NeuMF meta-trained on all markets, then forked: the target trains the upper layers and a head of its own.

    Bonab et al. (CIKM 2021): NeuMF on all markets, MAML, then per market a fork whose vectors and first layer are
    frozen, with a head of two layers before the output: 3,833 parameters trained at d = 8 and 64 units. All targets
    share the first two stages. Beyond the paper, validation chooses the epoch of each stage; negatives avoid training
    pairs only. By default NeuMF begins from random vectors; published is GMF, then MLP, then both joined (`pretrain`).

    Memory: NeuMF's. An epoch of the fork: some 5,000 products for each pair and negative at d = 8.

    By recall@10 under leave-one-out with sampled-market candidates it is below popularity on ca (XMarket electronics),
    where training stops by NDCG@10 and settings were chosen by it.
    """

    def __init__(self, config: FORECConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Take the meta-trained network and train the target's fork."""
        plan, alone = self.config.plan(), self.config.pretrain_excludes_target
        scope = Scope.everybody(task, without_target=alone)
        arrays = meta_trained(scope, run, plan, self.config.meta())
        base = {name: torch.from_numpy(value).to(run.device) for name, value in arrays.items() if name != "best"}
        fork = Fork(cut(base, scope.layout, task.target), task if alone else None)
        tuned = _train(fork, task, run, plan, self.config.fork())
        trained = {name: torch.from_numpy(value).to(run.device) for name, value in tuned.items() if name != "best"}
        head = sum(value.numel() for name, value in trained.items() if name.startswith("head."))
        return NeuralScorer(
            ParameterCount(trainable=count(tuned), frozen=count(arrays) + head - count(tuned)),
            "forec",
            {name: value.cpu().numpy() for name, value in fork.joined(trained).items()},
            task.target.n_items,
            best_details("fork", tuned),
            run.device,
        )


class Fork:
    """A meta-trained network (the target's rows of the tables), and what one market trains of it.

    `task` where the network has not seen the target: then the target's users, and the items that no source sells, have
    vectors that nobody has trained, and the fork trains them.
    """

    def __init__(self, base: Tensors, task: Task | None) -> None:
        self.base = base
        self._new: torch.Tensor | None = None
        if task is not None:
            known = np.isin(task.target.catalogue, np.concatenate([view.catalogue for view in task.sources]))
            self._new = torch.from_numpy(np.flatnonzero(~known)).to(base["out.bias"].device)

    def start(self, generator: torch.Generator) -> Parameters:
        """Copies of the upper layers, a random head, and the rows that nobody has trained."""
        names = [name for name in self.base if name.startswith(("tower.", "out.")) and not name.startswith(FROZEN)]
        if self._new is not None:
            names += [f"user.{branch}" for branch in BRANCHES]
        found = {name: self.base[name].clone() for name in names}
        if self._new is not None:
            found |= {f"new.{branch}": self.base[f"item.{branch}"][self._new] for branch in BRANCHES}
        joined = self.base["out.weight"].shape[1]
        head = tower("head", (joined, 2 * joined, joined), generator)
        return {name: value.requires_grad_() for name, value in found.items()} | head

    def joined(self, trained: Tensors) -> dict[str, torch.Tensor]:
        """What the network `forec` takes: the frozen part and the trained one."""
        found = {**self.base, **trained}
        if self._new is not None:
            for branch in BRANCHES:
                rows = found.pop(f"new.{branch}")
                found[f"item.{branch}"] = found[f"item.{branch}"].index_copy(0, self._new, rows)
        return found


def _train(fork: Fork, task: Task, run: Run, plan: Plan, steps: Steps) -> Arrays:
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    parameters = fork.start(generator)
    rows = Rows(Layout([task.target]), plan.negatives, run.device)

    def loss(batch: Batch) -> torch.Tensor:
        return bce(forec(fork.joined(parameters), batch.user[:, None], batch.item))

    def validate() -> float:
        now = {name: value.detach() for name, value in fork.joined(parameters).items()}
        return judge_by(run, "forec", lambda _: now, [task.target], plan.valid_users)

    def batches() -> Iterator[Batch]:
        return rows.batches(steps.batch_size, generator)

    return fit_steps("fork", parameters, batches, loss, validate, generator, steps, run)
