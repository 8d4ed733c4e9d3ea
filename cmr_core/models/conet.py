"""CoNet (Hu et al., CIKM 2018): two towers side by side, with connections across for items that both domains sell."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Run, Task
from cmr_core.models.bridge import Bridge, BridgeConfig, Form, Items, fit_form, pick
from cmr_core.models.neural import NeuralScorer, Tensors, network
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_linear, apply_tower, linear, tower


class CoNetConfig(BridgeConfig):
    """Settings of CoNet. The towers' layers have d, d/2 and d/4 units."""

    dimensions: int = Field(32, ge=4, le=4096, multiple_of=4, description="Length of each user's and item's vector")
    epoch_by: Literal["target", "source"] = Field(
        "source", description="The domain whose training pairs make one pass; the other one keeps step with it"
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's step size")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Adam's weight decay on all parameters")
    epochs: int = Field(15, ge=1, le=5000, description="Passes over the leading domain's training pairs at most")
    eval_every: int = Field(1, ge=1, le=100, description="Passes between two looks at validation")
    sparsity: float = Field(
        0.0, ge=0, le=10, description="Weight of the absolute values of the connections across; above 0 it is SCoNet"
    )
    clip: float = Field(10.0, gt=0, le=1e6, description="Largest norm of a step's gradient")


@register(
    "conet",
    label="CoNet",
    family="cross-domain",
    color="#6a3d9a",
    config=CoNetConfig,
    published={"learning_rate": 1e-3, "batch_size": 128, "negatives": 1, "epochs": 50},
)
class CoNet:
    """Two networks, one for the target and one for its sources, that exchange hidden units for items sold in both.

    CoNet (Hu et al., CIKM 2018): layer l of a tower is ReLU(W_l a_l + b_l + H_l a'_l), a' being the other tower's units
    and H_l, on the first two layers, the same both ways. The paper's domains share users; here items are the
    bridge, so that both towers see the same user with the item's two vectors, and H acts on shared items only. Trained
    with cross-entropy in both domains. A pass is one over the sources' pairs (`epoch_by`), as few of them would be read
    beside a small target's; step size, decay and passes were chosen on validation.

    On XMarket electronics it is above popularity by NDCG@10 under leave-one-out with sampled-market candidates on all
    seven markets, on ca hardly, and by recall@10 below on ca and uk among others; its settings were chosen by NDCG@10
    (figures: its page and docs/results.md).

    Parameters: (users + items of the sources + items of the target) * d + 2 towers + H. Memory: four times that. An
    epoch: for each pair of the leading domain one of the other, for each of both and each negative about 5 d^2
    products, and Adam on the whole tables at every step.
    """

    def __init__(self, config: CoNetConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> NeuralScorer:
        """Train both domains together and keep the target's side."""
        config, d = self.config, self.config.dimensions
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        bridge = Bridge(task, config, run.device)
        sizes = (2 * d, d, d // 2, d // 4, 1)
        start = bridge.tables(d, generator) | tower("source", sizes, generator) | tower("target", sizes, generator)
        for layer in range(2):
            start |= linear(f"cross.{layer}", sizes[layer], sizes[layer + 1], generator, bias=False)

        def penalty(weights: Tensors, _: Items) -> torch.Tensor:
            connections = [weights[f"cross.{layer}.weight"].flatten() for layer in range(2)]
            return config.sparsity * torch.cat(connections).abs().sum()

        form = Form("conet", users, items, logits, penalty=penalty if config.sparsity else None, clip=config.clip)
        return fit_form(form, start, bridge, config, run, generator)


def users(weights: Tensors, vectors: torch.Tensor) -> Parameters:
    """The first layer's share of the user (..., d): in both towers with their biases, and across."""
    d = vectors.shape[-1]
    across = functional.linear(vectors, weights["cross.0.weight"][:, :d])
    own, other = (
        functional.linear(vectors, weights[f"{side}.0.weight"][:, :d], weights[f"{side}.0.bias"])
        for side in ("own", "other")
    )
    return {"user.own": own, "user.other": other + across, "user.across": across}


def items(weights: Tensors, found: Items) -> Parameters:
    """The first layer's share of the item in both towers, what comes across included."""
    d = found.own.shape[-1]
    shared = found.shared[..., None].to(found.own.dtype)
    own, other = (
        functional.linear(vectors, weights[f"{side}.0.weight"][:, d:])
        for side, vectors in (("own", found.own), ("other", found.mate))
    )
    to_own, to_other = (functional.linear(v, weights["cross.0.weight"][:, d:]) for v in (found.mate, found.own))
    return {"item.own": own + to_own, "item.other": other + to_other, "item.shared": shared}


def logits(weights: Tensors, generator: torch.Generator | None) -> torch.Tensor:
    """From the first layer's shares. The other tower's second layer reaches nothing and is left out."""
    shared = weights["item.shared"]
    own = functional.relu(weights["user.own"] + weights["item.own"] + shared * weights["user.across"])
    other = functional.relu(weights["user.other"] + weights["item.other"])
    across = functional.linear(other, weights["cross.1.weight"]) * shared
    own = functional.relu(apply_linear(weights, "own.1", own) + across)
    return apply_tower(weights, "own", own, first=2, last_relu=False)[..., 0]


@network("conet")
def conet(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Weights as `bridge.serve` gives them."""
    return logits(pick(weights, user, item), None)
