"""Settings of CAT-SR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmr_core.models.catsr_network import Context, Network
from cmr_core.models.pointwise import Steps
from cmr_core.models.sequences import SequenceConfig, Softmax
from cmr_core.spec import Frozen


class Pretraining(Frozen):
    """Everything that decides stage 1, beside data, rule, seed and device."""

    network: Network
    context: Context
    vectors: Literal["learned", "svd"]
    weighting: Literal["relative", "count", "none"]
    alpha: float
    beta: float
    softmax: Softmax
    steps: Steps
    valid_users: int


class CatSrConfig(SequenceConfig):
    """Settings of CAT-SR; those of stage 1 begin with `pretrain`."""

    dimensions: int = Field(64, ge=4, le=1024, description="Length of each item's vector")
    heads: int = Field(4, ge=1, le=16, description="Attention heads; they divide the dimensions")
    inner: int = Field(256, ge=1, le=8192, description="Units between the two linear maps after the attention")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of values set to zero in training")
    context: Context = Field(
        "others", description="What a training item is guessed from: the items before it, or all others of its user"
    )
    vectors: Literal["learned", "svd"] = Field(
        "learned", description="Item vectors: learned in stage 1, or singular vectors of all markets' pairs"
    )
    source: str = Field(
        "all",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Where attention is learned: all markets, `sources` (all but the target), or one market's name (as "
        "published)",
    )
    weighting: Literal["relative", "count", "none"] = Field(
        "none", description="Weight less what is popular in stage 1: by share of the mean count, by count, or not"
    )
    alpha: float = Field(1.2, gt=1, le=10, description="Weight of an item of mean popularity in stage 1")
    beta: float = Field(0.99, ge=0, le=100, description="How fast the weight falls with popularity")
    pretrain_softmax: Softmax = Field(
        "market", description="Stage 1 guesses among the items of the history's market, or of all markets"
    )
    pretrain_learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size in stage 1")
    pretrain_weight_decay: float = Field(0.0, ge=0, le=1, description="Adam's weight decay in stage 1")
    pretrain_batch: int = Field(512, ge=2, le=100_000, description="Training pairs per step of stage 1")
    pretrain_epochs: int = Field(24, ge=1, le=5000, description="Passes over all markets' pairs at most")
    pretrain_eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    pretrain_patience: int = Field(3, ge=1, le=1000, description="Looks without improvement before it stops")
    transfer: Literal["attention", "none"] = Field(
        "attention", description="Carry the maps to queries and keys over from stage 1, or start anew"
    )
    freeze_qk: bool = Field(True, description="Keep the carried maps as they are")
    adapter: Literal["residual", "none"] = Field(
        "residual", description="Trained maps after queries and keys, that begin without effect"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size on the target")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Adam's weight decay on the target")
    batch_size: int = Field(256, ge=2, le=100_000, description="Training pairs of the target per step")
    epochs: int = Field(30, ge=1, le=5000, description="Passes over the target's training pairs at most")
    eval_every: int = Field(2, ge=1, le=100, description="Passes between two looks at validation")
    patience: int = Field(4, ge=1, le=1000, description="Looks without improvement before it stops")

    def network(self) -> Network:
        """The network of both stages."""
        return Network(
            dimensions=self.dimensions, heads=self.heads, inner=self.inner, length=self.length, dropout=self.dropout
        )

    def pretraining(self) -> Pretraining:
        """What stage 1 takes."""
        return Pretraining(
            network=self.network(),
            context=self.context,
            vectors=self.vectors,
            weighting=self.weighting,
            alpha=self.alpha,
            beta=self.beta,
            softmax=self.pretrain_softmax,
            steps=Steps(
                learning_rate=self.pretrain_learning_rate,
                weight_decay=self.pretrain_weight_decay,
                batch_size=self.pretrain_batch,
                epochs=self.pretrain_epochs,
                eval_every=self.pretrain_eval_every,
                patience=self.pretrain_patience,
            ),
            valid_users=self.valid_users,
        )
