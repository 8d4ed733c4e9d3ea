"""Settings of DCMPT. Where the paper (Zhang et al., AAAI 2026) is silent or unclear, each reading is a setting."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cmr_core.models.lightgcn import BackboneConfig, TeacherConfig
from cmr_core.models.prompts import PromptShape

Ablation = Literal["none", "no-pretrain", "no-prompt", "no-distillation", "no-wrd", "no-amrdd"]


class PromptSettings(BackboneConfig, TeacherConfig):
    """Backbone, teacher, and what the prompts look like."""

    prompts: int = Field(20, ge=1, le=1024, description="Number of basis prompts")
    prompt_sets: Literal[1, 2] = Field(1, description="1: users and items share the prompts; 2: each has its own")
    prompt_layers: Literal["first", "all"] = Field(
        "first", description="Prompts on the input features only, or at the input of every propagation step"
    )
    prompt_init: Literal["zero", "glorot"] = Field(
        "zero", description="zero: tuning starts exactly at the backbone; glorot: at random prompts"
    )
    attention_bias: bool = Field(False, description="A bias per prompt in the attention")
    student_graph: Literal["target", "combined"] = Field(
        "target", description="Graph that carries the prompted features: the target's alone, or all markets together"
    )
    teacher_model: Literal["lightgcn", "ease-weighted"] = Field(
        "lightgcn", description="Who teaches: LightGCN on the target alone, or EASE on weighted markets"
    )
    teacher_tune: bool = Field(
        True, description="EASE as teacher: choose its penalty and source weights on validation, or take its defaults"
    )

    def shape(self) -> PromptShape:
        """The prompts' shape."""
        layers = max(self.layers, 1) if self.prompt_layers == "all" else 1
        return PromptShape(self.prompts, self.dimensions, self.prompt_sets, layers, self.attention_bias)


class DistillationSettings(PromptSettings):
    """The three losses."""

    weight_bpr: float = Field(0.5, ge=0, le=1000, description="Weight of the ranking loss on training pairs (BPR)")
    weight_wrd: float = Field(0.5, ge=0, le=1000, description="Weight of weighted ranking distillation (WRD)")
    weight_amrdd: float = Field(0.5, ge=0, le=1000, description="Weight of market-aware list distillation (AMRDD)")
    alpha_role: Literal["none", "ranking", "distillation"] = Field(
        "none",
        description="none: the three weights above. ranking: BPR gets alpha, WRD and AMRDD 1 - alpha. "
        "distillation: the other way round",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="Share alpha; only where alpha_role is not none")
    wrd_items: int = Field(20, ge=1, le=1000, description="WRD: length of the teacher's list per user")
    wrd_position: float = Field(10.0, gt=0, le=1e6, description="WRD: lambda, larger spreads weight down the list")
    wrd_deviation: float = Field(0.1, ge=0, le=1000, description="WRD: mu, sensitivity to rank differences")
    wrd_rank: Literal["exact", "sampled", "soft"] = Field(
        "exact",
        description="WRD: the student's rank among all items, estimated from a sample, or differentiable "
        "(soft; needs users_per_step x items x wrd_items numbers of memory)",
    )
    wrd_draws: int = Field(100, ge=1, le=10_000, description="WRD: sample size; only where wrd_rank is sampled")
    wrd_rank_scale: Literal["raw", "log"] = Field("raw", description="WRD: compare ranks or their logarithms")
    wrd_include_train: bool = Field(False, description="WRD: let training items into the teacher's list")
    amrdd_reading: Literal["target-users", "source-profile", "proxy-users"] = Field(
        "target-users",
        description="AMRDD: whose lists of source m are compared. target-users: target users, negatives that m sells "
        "too. source-profile: average shape of lists of m's users. proxy-users: m's users, whom the teacher "
        "knows by their items",
    )
    amrdd_list: int = Field(50, ge=2, le=1000, description="AMRDD: items per list, one of them a training item")
    amrdd_temperature: float = Field(1.0, gt=0, le=1000, description="AMRDD: smaller spreads the market weights more")
    amrdd_weight_gradient: bool = Field(False, description="AMRDD: let gradients flow through the market weights")
    kd_temperature: float = Field(1.0, gt=0, le=100, description="AMRDD: softens both models' preferences")
    teacher_scale: Literal["raw", "matched"] = Field(
        "raw", description="raw: the teacher's scores as they are; matched: stretched to the spread of the backbone's"
    )


class DCMPTConfig(DistillationSettings):
    """Settings of DCMPT."""

    learning_rate: float = Field(
        1e-2, gt=0, le=1, description="Adam's step size for the prompts (paper: 1e-4 with many more, smaller steps)"
    )
    l2: float = Field(1e-6, ge=0, le=1, description="Weight decay on the prompts")
    users_per_step: int = Field(512, ge=1, le=100_000, description="Target users per step, with their training pairs")
    pairs_per_step: int = Field(
        0, ge=0, le=1_000_000, description="Training pairs per step; 0: all pairs of the step's users"
    )
    paper_batch: bool = Field(False, description="As the paper may mean it: 16 users per step, lists of 50")
    steps_per_epoch: int = Field(0, ge=0, le=100_000, description="Steps per epoch; 0: one pass over the users")
    epochs: int = Field(200, ge=1, le=5000, description="Epochs of prompt tuning at most")
    eval_every: int = Field(5, ge=1, le=100, description="Epochs between two looks at validation")
    patience: int = Field(10, ge=1, le=1000, description="Looks without improvement before tuning stops")
    stop_on: Literal["validation", "loss", "never"] = Field(
        "validation",
        description="What decides when to stop and which state is kept: the validation metric, the training loss, "
        "or nothing (all epochs, last state)",
    )
    ablation: Ablation = Field("none", description="Leave one component out")
    no_pretrain_backbone: Literal["target-only", "random"] = Field(
        "target-only", description="Without pretraining, the frozen features are a target-only LightGCN's, or random"
    )
    no_prompt_as: Literal["frozen", "fine-tuned"] = Field(
        "frozen", description="Without prompts, the backbone is used as it is, or all its target features are tuned"
    )

    @property
    def target_only(self) -> bool:
        """Whether the frozen features cover the target's nodes only."""
        return self.ablation == "no-pretrain" and self.no_pretrain_backbone == "target-only"

    @property
    def batch_users(self) -> int:
        """Users per step."""
        return 16 if self.paper_batch else self.users_per_step

    @property
    def list_length(self) -> int:
        """Items per AMRDD list."""
        return 50 if self.paper_batch else self.amrdd_list

    def loss_weights(self) -> dict[str, float]:
        """Of `bpr`, `wrd` and `amrdd`, after alpha_role and ablation."""
        weights = {"bpr": self.weight_bpr, "wrd": self.weight_wrd, "amrdd": self.weight_amrdd}
        if self.alpha_role != "none":
            ranking = self.alpha if self.alpha_role == "ranking" else 1 - self.alpha
            weights = {"bpr": ranking, "wrd": 1 - ranking, "amrdd": 1 - ranking}
        gone = {"no-distillation": ("wrd", "amrdd"), "no-wrd": ("wrd",), "no-amrdd": ("amrdd",)}
        return weights | dict.fromkeys(gone.get(self.ablation, ()), 0.0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        sources_prompted = self.amrdd_reading != "target-users" and self.loss_weights()["amrdd"] > 0
        if self.target_only and self.student_graph == "combined":
            raise ValueError("without pretraining on all markets, student_graph must be 'target'")
        if sources_prompted and (self.target_only or self.ablation == "no-prompt"):
            raise ValueError(f"ablation {self.ablation!r} needs amrdd_reading 'target-users'")
        if not any(self.loss_weights().values()):
            raise ValueError("all three losses have weight 0: there is nothing to train on")
        return self
