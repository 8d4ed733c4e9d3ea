"""Cross-Stitch networks (Misra et al., CVPR 2016) on users and items."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Arrays, Recommender, Run, Task
from cmr_core.models.multitask import MultitaskConfig, fit_tasks
from cmr_core.models.neural import Tensors, network
from cmr_core.models.pointwise import Layout
from cmr_core.models.registry import register
from cmr_core.models.towers import SILENT, Noise, Parameters, apply_linear, apply_pair, dropout, table, tower

HIDDEN = (128, 64, 32)
OWN = 0.9  # of a tower's input comes from itself at the start


class CrossStitchConfig(MultitaskConfig):
    """Settings of Cross-Stitch."""

    per_channel: bool = Field(False, description="One mixing weight per unit, not one per pair of towers")
    stitch_rate: float = Field(10.0, gt=0, le=1000, description="Step size of the mixing weights, in learning rates")


@network("cross-stitch")
def logits(
    weights: Tensors, user: torch.Tensor, item: torch.Tensor, task: int | None = None, noise: Noise = SILENT
) -> torch.Tensor:
    """All towers see the same pair; after each hidden layer tower a goes on with Σ_b α_ab x_b (eq. 1)."""
    read = int(weights["task"][0]) if task is None else task
    towers = range(weights["stitch.0"].shape[0])
    own, other = weights["user.shared"][user], weights["item.shared"][item]
    outputs = [apply_pair(weights, f"tower{a}.0", own, other) for a in towers]
    for layer in range(len(HIDDEN)):
        if layer:
            outputs = [apply_linear(weights, f"tower{a}.{layer}", x) for a, x in zip(towers, outputs, strict=True)]
        outputs = [dropout(functional.relu(x), *noise) for x in outputs]
        # of the last layer only the task's own mixture is read
        mixed = towers if layer + 1 < len(HIDDEN) else (read,)
        stitch = weights[f"stitch.{layer}"]
        outputs = [sum((stitch[a, b] * x for b, x in enumerate(outputs)), torch.zeros(())) for a in mixed]
    return apply_linear(weights, f"tower{read}.{len(HIDDEN)}", outputs[0]).squeeze(-1)


@register(
    "cross-stitch", label="Cross-Stitch", family="multi-task", color="#b15928", config=CrossStitchConfig, revision=2
)
class CrossStitch:
    """One tower for the target, one for the sources; after each layer the towers mix what they found.

    Cross-Stitch (Misra et al., CVPR 2016) as the ACMR paper uses it: tasks are the target and the other markets, tables
    of users and items are shared, towers 2d-128-64-32-1. Memory: (U + I) d, three times for Adam. An epoch costs, for
    each pair, as many passes of a tower as there are tasks.
    An item has one row for all markets; a row per market, averaged, cannot be chosen.

    On XMarket electronics under leave-one-out with sampled-market candidates it is above popularity by NDCG@10 on all
    seven markets; by recall@10 it is below on ca, in and jp (three seeds; figures: its page and docs/results.md). Step
    size and weight decay were chosen on ca's validation by NDCG@10; with 1e-3 and 1e-6 it was below on ca and uk.
    """

    def __init__(self, config: CrossStitchConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Train both tasks together and keep the target's."""

        def rates(parameters: Parameters) -> dict[str, float]:
            return {name: self.config.stitch_rate for name in parameters if name.startswith("stitch")}

        return fit_tasks("cross-stitch", self.config, self._start, logits, task, run, rates=rates, details=_mixing)

    def _start(self, layout: Layout, tasks: int, generator: torch.Generator) -> Parameters:
        """(U + I) d + T (8,320 + 8,256 + 2,080 + 33) + 3 T^2 scalars at d = 32."""
        found: Parameters = {
            "user.shared": table(layout.n_users, self.config.dimensions, generator, deviation=0.1),
            "item.shared": table(layout.n_items, self.config.dimensions, generator, deviation=0.1),
        }
        for a in range(tasks):
            found |= tower(f"tower{a}", (2 * self.config.dimensions, *HIDDEN, 1), generator)
        for layer, width in enumerate(HIDDEN):
            alpha = torch.full((tasks, tasks), (1 - OWN) / max(tasks - 1, 1), device=generator.device)
            alpha.fill_diagonal_(OWN)
            stitched = alpha[..., None].repeat(1, 1, width) if self.config.per_channel else alpha
            found[f"stitch.{layer}"] = stitched.requires_grad_()
        return found


def _mixing(arrays: Arrays, layout: Layout) -> dict[str, float | str]:
    """How much of the target's tower comes from the others, layer by layer."""
    return {
        f"layer {layer + 1} from others": round(float(alpha[0, 1:].mean()) * (len(alpha) - 1), 4)
        for layer in range(len(HIDDEN))
        for alpha in [arrays[f"stitch.{layer}"]]
    }
