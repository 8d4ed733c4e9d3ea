"""LightGCN on all markets with very long vectors, the best single model of a WSDM Cup 2022 entry on such data."""

from __future__ import annotations

from pydantic import Field

from cmr_core.models.lightgcn import BackboneConfig, LightGCNAll
from cmr_core.models.registry import register


class WideConfig(BackboneConfig):
    """The backbone's settings with the entry's values; the step size and the number of passes are ours."""

    dimensions: int = Field(
        2048, ge=2, le=4096, description="Length of each user's and item's vector; time and memory grow with it"
    )
    layers: int = Field(4, ge=0, le=8, description="Propagation steps on the graph; 0 is plain matrix factorisation")
    backbone_l2: float = Field(6e-5, ge=0, le=1, description="Weight decay on the vectors of each batch")
    backbone_learning_rate: float = Field(5e-3, gt=0, le=1, description="Adam's step size")
    backbone_epochs: int = Field(10, ge=1, le=5000, description="Passes over all markets' training pairs at most")
    backbone_eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    backbone_patience: int = Field(3, ge=1, le=1000, description="Looks without improvement before it stops")


@register(
    "lightgcn-wide",
    label="LightGCN wide, all markets",
    family="cross-market",
    color="#1f3b73",
    config=WideConfig,
)
class LightGCNWide(LightGCNAll):
    """Graph neighbours of all markets together, with vectors of 2,048 numbers.

    LightGCN (He et al., SIGIR 2020) as the third place of WSDM Cup 2022 trained it on XMarket: 4 layers, 2,048
    dimensions, batch 8,192, L2 6e-5. One training serves all targets.
    Under leave-one-out with sampled-market candidates it is above popularity on all seven markets, by NDCG@10 and by
    recall@10, and has the best recall@10 of all methods on six. With events split and the whole catalogue its NDCG@10
    is below popularity on ca, de, jp and mx (three seeds; figures: its page and docs/results.md).
    Validation was still rising after the ten passes, and step size and passes are untuned. Cost on XMarket electronics:
    the ten passes took 727 processor seconds on one busy core and 20 seconds on an H200. Memory: (users + items of all
    markets) x D, twice for Adam, and several times in a step; a whole process took 4.1 GB.
    """

    config: WideConfig
