"""DTCDR (Zhu et al., CIKM 2019): shared items have one vector, combined from both domains'; each has its NeuMF."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from cmr_core.interfaces import Run, Task
from cmr_core.models.bridge import Bridge, BridgeConfig, Form, Items, fit_form, pick
from cmr_core.models.ncf import inner
from cmr_core.models.neural import NeuralScorer, Tensors, network
from cmr_core.models.registry import register
from cmr_core.models.towers import Parameters, apply_tower, dropout, linear, tower

UNITS = (64, 64)
Combine = Literal["max", "mean", "concat"]


class DTCDRConfig(BridgeConfig):
    """Settings of DTCDR."""

    dimensions: int = Field(64, ge=1, le=4096, description="Length of each user's and item's vector")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's step size")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="Adam's weight decay on all parameters")
    combine: Combine = Field(
        "max",
        description="A shared item's vector from its two: the larger entry, the mean, or both in a row (then users' "
        "vectors are twice as long, and other items have zeros)",
    )
    product: bool = Field(True, description="The product branch (GMF) beside the layers, as in NeuMF")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of hidden units left out in a training step")
    source_weight: float = Field(0.3, ge=0, le=1, description="Weight of the sources' loss; the target's has the rest")


@register(
    "dtcdr",
    label="DTCDR",
    family="cross-domain",
    color="#9467bd",
    config=DTCDRConfig,
    published={"learning_rate": 5e-4, "patience": 10},
)
class DTCDR:
    """A network for the target and one for its sources; items sold in both are known to each by a combined vector.

    DTCDR (Zhu et al., CIKM 2019), with NeuMF in both domains and w * loss_s + (1 - w) * loss_t. The paper's domains
    share users, whose vectors it combines; here items are the bridge, and there are no documents. A target user is
    reached by the sources only through the vectors of shared items. Step size and decay were chosen on validation.

    On XMarket electronics it is above popularity by NDCG@10 under leave-one-out with sampled-market candidates on all
    seven markets, by recall@10 below on ca, fr and uk; its settings were chosen by NDCG@10. Under events with the whole
    catalogue it is below popularity on all seven (three seeds; figures: its page and docs/results.md).

    Parameters: (users + items of the sources + items of the target) * d + 2 networks. Memory: four times that. An
    epoch: for each pair of the leading domain one of the other, for each of both and each negative 64 d + 4,096
    products, and Adam on the whole tables at every step.
    """

    def __init__(self, config: DTCDRConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> NeuralScorer:
        """Train both domains together and keep the target's side."""
        config = self.config
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        bridge = Bridge(task, config, run.device)
        width = config.dimensions * (2 if config.combine == "concat" else 1)
        start = bridge.tables(config.dimensions, generator, user_dimensions=width)
        for side in bridge.layouts:
            start |= tower(side, (2 * width, *UNITS), generator)
            start |= linear(f"{side}.out", UNITS[-1] + width * config.product, 1, generator)
        form = Form(
            "dtcdr",
            users,
            functools.partial(items, combine=config.combine),
            functools.partial(logits, rate=config.dropout),
            loss_weights={"source": config.source_weight, "target": 1 - config.source_weight},
        )
        return fit_form(form, start, bridge, config, run, generator)


def combined(found: Items, combine: Combine) -> torch.Tensor:
    """One vector per item, (..., d), or (..., 2 d) with `concat`. Items of one domain keep their own."""
    if combine == "concat":
        return torch.cat([found.own, found.mate], dim=-1)
    both = torch.maximum(found.own, found.mate) if combine == "max" else (found.own + found.mate) / 2
    return torch.where(found.shared[..., None], both, found.own)


def users(weights: Tensors, vectors: torch.Tensor) -> Parameters:
    """The user's share of the first layer, with the bias, and of the product, with the output's weights."""
    width = vectors.shape[-1]
    first = functional.linear(vectors, weights["own.0.weight"][:, :width], weights["own.0.bias"])
    product = weights["own.out.weight"][:, UNITS[-1] :]
    return {"user.first": first, "user.product": vectors * product if product.numel() else vectors[..., :0]}


def items(weights: Tensors, found: Items, combine: Combine) -> Parameters:
    """The item's share of the first layer, and of the product."""
    vectors = combined(found, combine)
    product = weights["own.out.weight"].shape[1] > UNITS[-1]
    return {
        "item.first": functional.linear(vectors, weights["own.0.weight"][:, vectors.shape[-1] :]),
        "item.product": vectors if product else vectors[..., :0],
    }


def logits(weights: Tensors, generator: torch.Generator | None, rate: float = 0.0) -> torch.Tensor:
    """NeuMF of the domain at hand, from the shares; dropout at `rate` where there is a generator."""
    hidden = dropout(functional.relu(weights["user.first"] + weights["item.first"]), rate, generator)
    hidden = apply_tower(weights, "own", hidden, first=1, rate=rate, generator=generator)
    deep = functional.linear(hidden, weights["own.out.weight"][:, : UNITS[-1]], weights["own.out.bias"])
    return deep[..., 0] + inner(weights["user.product"], weights["item.product"])


@network("dtcdr")
def dtcdr(weights: Tensors, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Weights as `bridge.serve` gives them."""
    return logits(pick(weights, user, item), None)
