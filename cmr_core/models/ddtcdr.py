"""DDTCDR (Li and Tuzhilin, WSDM 2020): each domain also asks the other one's network, across an orthogonal map."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Run, Task
from cmr_core.models.bridge import Bridge, BridgeConfig, Form, Items, fit_form, pick
from cmr_core.models.neural import NeuralScorer, Tensors, network
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_tower, tower

UNITS = (64, 8, 1)


class DDTCDRConfig(BridgeConfig):
    """Settings of DDTCDR."""

    epoch_by: Literal["target", "source"] = Field(
        "source", description="The domain whose training pairs make one pass; the other one keeps step with it"
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's step size")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="Adam's weight decay on all parameters")
    epochs: int = Field(15, ge=1, le=5000, description="Passes over the leading domain's training pairs at most")
    eval_every: int = Field(1, ge=1, le=100, description="Passes between two looks at validation")
    mix: float = Field(0.03, ge=0, le=1, description="Share of the other domain's network in a score")
    orthogonality: float = Field(1e-6, ge=0, le=100, description="Weight of the map's distance from an orthogonal one")
    alignment: float = Field(
        0.0, ge=0, le=100, description="Weight of the distance between a shared item's vector, mapped, and its mate"
    )


@register(
    "ddtcdr",
    label="DDTCDR",
    family="cross-domain",
    color="#cab2d6",
    config=DDTCDRConfig,
    published={"dimensions": 8, "epochs": 100},
)
class DDTCDR:
    """A network for the target and one for its sources; each score is a mixture of both, items being mapped across.

    DDTCDR (Li and Tuzhilin, WSDM 2020): s_t = (1 - a) f_t(p, q) + a f_s(p, W q), in the sources with W',
    trained with cross-entropy in both domains and |W W' - I|_1. The paper's domains share users, and its W
    maps them; here items are the bridge. Vectors are learned, where the paper has autoencoders of features. The mixture
    is of logits, its gradient reaches both networks and W, and scoring uses it too. A pass is one over the sources'
    pairs (`epoch_by`), as few of them would be read beside a small target's; step size, decay and passes were chosen on
    validation. Published is plain gradient descent.

    On XMarket electronics it is above popularity by NDCG@10 under leave-one-out with sampled-market candidates on all
    seven markets, on ca hardly, and by recall@10 below on ca and uk among others; its settings were chosen by NDCG@10
    (figures: its page and docs/results.md).

    Parameters: (users + items of the sources + items of the target) * d + 2 networks + d^2. Memory: four times that. An
    epoch: for each pair of the leading domain one of the other, for each of both and each negative d^2 + 128 d + 1,040
    products, and Adam on the whole tables at every step.
    """

    def __init__(self, config: DDTCDRConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> NeuralScorer:
        """Train both domains together and keep the target's side."""
        config, d = self.config, self.config.dimensions
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        bridge = Bridge(task, config, run.device)
        start = bridge.tables(d, generator)
        for side in bridge.layouts:
            start |= tower(side, (2 * d, *UNITS), generator)
        drawn = torch.randn((d, d), generator=generator, device=run.device)
        start["target.map"] = torch.linalg.qr(drawn).Q.contiguous().requires_grad_()

        def penalty(weights: Tensors, found: Items) -> torch.Tensor:
            return config.orthogonality * distance(weights["own.map"]) + config.alignment * apart(weights, found)

        form = Form(
            "ddtcdr", users, items, logits, penalty=penalty, fixed={"mix": torch.tensor(config.mix, device=run.device)}
        )
        return fit_form(form, start, bridge, config, run, generator)


def distance(weight: torch.Tensor) -> torch.Tensor:
    """Sum of the absolute values of W W' - I."""
    return (weight @ weight.T - torch.eye(len(weight), device=weight.device)).abs().sum()


def apart(weights: Tensors, found: Items) -> torch.Tensor:
    """Mean squared distance of W q_t and q_s over the shared items of a batch of the target; 0 where it has none."""
    gap = (mapped(weights, found.own) - found.mate).square().sum(-1) * found.shared
    return gap.sum() / found.shared.sum().clamp(min=1)


def mapped(weights: Tensors, vectors: torch.Tensor) -> torch.Tensor:
    """Item vectors (..., d) in the other domain: W for items of the target, its transpose for those of the sources."""
    return functional.linear(vectors, weights["own.map"] if "own.map" in weights else weights["other.map"].T)


def users(weights: Tensors, vectors: torch.Tensor) -> Parameters:
    """The user's share of both networks' first layers, with the biases."""
    d = vectors.shape[-1]
    return {
        f"user.{side}": functional.linear(vectors, weights[f"{side}.0.weight"][:, :d], weights[f"{side}.0.bias"])
        for side in ("own", "other")
    }


def items(weights: Tensors, found: Items) -> Parameters:
    """The item's share of both networks' first layers, mapped for the other one's."""
    d = found.own.shape[-1]
    own = functional.linear(found.own, weights["own.0.weight"][:, d:])
    return {
        "item.own": own,
        "item.other": functional.linear(mapped(weights, found.own), weights["other.0.weight"][:, d:]),
    }


def logits(weights: Tensors, generator: torch.Generator | None) -> torch.Tensor:
    """The mixture, from the first layers' shares."""
    own, other = (
        apply_tower(
            weights, side, functional.relu(weights[f"user.{side}"] + weights[f"item.{side}"]), first=1, last_relu=False
        )
        for side in ("own", "other")
    )
    return torch.lerp(own, other, weights["mix"])[..., 0]


@network("ddtcdr")
def ddtcdr(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Weights as `bridge.serve` gives them."""
    return logits(pick(weights, user, item), None)
