"""DCMPT (Zhang et al., AAAI 2026): frozen cross-market backbone, prompts for the target, a target teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cmr_core.interfaces import Arrays, IntArray, ParameterCount, Recommender, Run, Task
from cmr_core.models.adaptation import Adaptation
from cmr_core.models.amrdd import ProxyUsers, Reading, SourceProfile, SourceStudents, TargetUsers, Weighted
from cmr_core.models.base import Factors
from cmr_core.models.dcmpt_config import DCMPTConfig
from cmr_core.models.embedding import best_details, random_start
from cmr_core.models.graph import CombinedGraph, combined_graph, market_graph
from cmr_core.models.histories import History, pools
from cmr_core.models.lightgcn import backbone, market_nodes, teacher
from cmr_core.models.prompts import Parameters
from cmr_core.models.registry import register
from cmr_core.models.student import Field, Prompted, Student, Unfrozen, layers
from cmr_core.models.teachers import Teacher, fit_teacher

Details = dict[str, float | str]


@register(
    "dcmpt",
    label="DCMPT",
    family="cross-market",
    color="#d62728",
    config=DCMPTConfig,
    published={
        "learning_rate": 1e-4,
        "paper_batch": True,
        "teacher_learning_rate": 1e-3,
        "teacher_l2": 1e-6,
        "backbone_learning_rate": 1e-3,
        "backbone_l2": 1e-6,
    },
)
class DCMPT:
    """Adapts a frozen cross-market LightGCN to one market by a few prompt vectors, taught by a model of that market.

    Zhang et al., AAAI 2026. Stage 1: LightGCN on all markets, frozen and shared by all targets. Stage 2: a teacher
    on the target alone. Stage 3: basis prompts, mixed per node by attention over the frozen features, are
    added to the target's features and trained with BPR, weighted ranking distillation (WRD) and market-aware list
    distillation (AMRDD); only they are trained. Where the paper is silent, each reading is a setting.

    The network is linear in its features, so a step propagates N x M attention weights, not N x D features; that
    would not hold with dropout on edges or a non-linearity between layers, and there is neither.

    Memory: backbone and teacher, the target's N x D features, and about four matrices of users_per_step x items.
    """

    def __init__(self, config: DCMPTConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Take backbone and teacher, tune the prompts, and keep the propagated vectors."""
        frozen = freeze(self.config, task, run)
        student = make_student(self.config, frozen.field)
        count = ParameterCount(frozen=frozen.size)
        details: Details = dict(frozen.details)
        if self.config.ablation == "no-prompt" and self.config.no_prompt_as == "frozen":
            return assemble(frozen.field, student, None, count, details)
        adaptation, found = prepare(self.config, task, run, frozen, student)
        trained, parameters = adaptation.fit()
        trainable = sum(value.numel() for value in parameters.values())
        replaced = trainable if isinstance(student, Unfrozen) else 0
        count = ParameterCount(trainable=trainable, frozen=frozen.size - replaced)
        details |= found | student.describe(parameters) | _final(adaptation, parameters)
        details |= {"prompt epochs": float(trained.epochs)}
        if trained.best_epoch >= 0:
            details |= {"prompt best epoch": float(trained.best_epoch), "prompt best value": trained.best_value}
        return assemble(frozen.field, student, parameters, count, details)


@dataclass(frozen=True)
class Frozen:
    """The backbone as the student sees it; `whole` and `embedding` are None where it covers the target only."""

    field: Field
    size: int  # scalars of the backbone
    details: Details
    whole: CombinedGraph | None = None
    embedding: torch.Tensor | None = None  # (nodes of whole, D)


def freeze(config: DCMPTConfig, task: Task, run: Run) -> Frozen:
    """Stage 1: layer-0 vectors that stay as they are, with the graph that the student propagates on."""
    own, own_nodes = market_graph(task.target, run.device), market_nodes(task.target)
    if config.target_only:
        arrays = teacher(task, run, config.teacher())
        features = torch.from_numpy(arrays["embedding"]).to(run.device)
        return Frozen(
            Field(own, features, *own_nodes, config.layers), features.numel(), best_details("teacher", arrays)
        )
    whole = combined_graph(task, run.device)
    arrays = _backbone(config, task, run, whole.graph.n_nodes)
    embedding = torch.from_numpy(arrays["embedding"]).to(run.device)
    users, items = whole.users(task.target), whole.items(task.target)
    if config.student_graph == "combined":
        field = Field(whole.graph, embedding, users, items, config.layers)
    else:
        rows = torch.from_numpy(np.concatenate([users, items])).to(run.device)
        field = Field(own, embedding[rows], *own_nodes, config.layers)
    return Frozen(field, embedding.numel(), best_details("backbone", arrays), whole, embedding)


def make_student(config: DCMPTConfig, field: Field) -> Student:
    """Prompts, or all target features where the ablation tunes them instead."""
    return Unfrozen(field) if config.ablation == "no-prompt" else Prompted(field, config.shape(), config.prompt_init)


def prepare(config: DCMPTConfig, task: Task, run: Run, frozen: Frozen, student: Student) -> tuple[Adaptation, Details]:
    """Stage 2, where a loss needs the teacher, and everything that stage 3 needs; with details worth keeping."""
    weights = config.loss_weights()
    details: Details = {f"weight of {name}": weight for name, weight in weights.items()}
    if not weights["wrd"] and not weights["amrdd"]:
        return Adaptation(config, task.target, student, run), details
    fitted = fit_teacher(config.teacher_model, config, task, run, tune=config.teacher_tune)
    taught = Teacher(fitted, task.target.n_users, run.device)
    details["teacher_parameters"] = float(taught.parameters)
    if config.teacher_scale == "matched":
        details["teacher scale"] = taught.scale = _matching_scale(taught, student, frozen.field, run.device)
    amrdd = _amrdd(config, task, run, frozen, student, taught) if weights["amrdd"] else None
    if weights["amrdd"] and amrdd is None:
        details["AMRDD"] = "left out: no source market shares items with the target"
    return Adaptation(config, task.target, student, run, taught, amrdd), details


def assemble(
    field: Field, student: Student, parameters: Parameters | None, count: ParameterCount, details: Details
) -> Factors:
    """Vectors with and without prompts, and the parts that make an exact explanation (see `base.Factors`).

    With z^l = A z^(l-1) + c_l and H the mean of z^0..z^L: a user is (x_u + sum of c_l,u) / (L + 1), plus from each
    neighbour j the sum of z^0_j..z^(L-1)_j / ((L + 1) sqrt(d_u d_j)). O(L E D), twice.
    """
    with torch.no_grad():
        changes = student.changes(parameters) if parameters is not None else []
        prompted, plain = layers(field, changes), layers(field, [])
        share = 1 / len(prompted)
        base = field.features[field.nodes] + sum(changes)
        below = torch.stack(prompted[:-1]).sum(0) if field.layers else torch.zeros_like(field.features)
        final, bare = (torch.stack(part).mean(0).cpu().numpy() for part in (prompted, plain))
        shares = None
        if parameters is not None and isinstance(student, Prompted):
            shares = student.attention(parameters).cpu().numpy()
    degree = np.maximum(field.graph.degree[field.items], 1)[:, None]
    return Factors(
        count,
        user=final[field.users],
        item=final[field.items],
        user_base=(base[: len(field.users)] * share).cpu().numpy(),
        item_message=below.cpu().numpy()[field.items] * share / np.sqrt(degree),
        user_plain=bare[field.users],
        item_plain=bare[field.items],
        user_attention=None if shares is None else shares[: len(field.users)],
        item_attention=None if shares is None else shares[len(field.users) :],
        details=details,
    )


def _backbone(config: DCMPTConfig, task: Task, run: Run, n_nodes: int) -> Arrays:
    if config.ablation == "no-pretrain":
        generator = torch.Generator(device=run.device).manual_seed(run.seed)
        table = random_start(n_nodes, config.dimensions, generator).cpu().numpy()
        return {"embedding": table, "best": np.array([-1.0, np.nan])}
    return backbone(task, run, config.backbone())


def _amrdd(
    config: DCMPTConfig, task: Task, run: Run, frozen: Frozen, student: Student, taught: Teacher
) -> Weighted | None:
    shared, rule = pools(task.target, task.sources, run.device), (config.list_length, config.kd_temperature)
    history = History.of(task.target, run.device)
    reading: Reading
    if not shared:
        return None
    if config.amrdd_reading == "target-users":
        reading = TargetUsers(shared, history, taught, *rule)
    else:
        students = _source_students(task, frozen, student)
        if config.amrdd_reading == "source-profile":
            reading = SourceProfile(task.sources, history, students, taught, *rule)
        else:
            reading = ProxyUsers(task.sources, task.target, shared, students, taught, *rule)
    if not reading.names:
        return None
    return Weighted(reading, config.amrdd_temperature, config.amrdd_weight_gradient, config.kd_temperature)


def _source_students(task: Task, frozen: Frozen, student: Student) -> SourceStudents:
    assert frozen.whole is not None, "the settings forbid source readings without a backbone on all markets"
    assert frozen.embedding is not None, "it comes with `whole`"
    assert isinstance(student, Prompted), "the settings forbid source readings without prompts"
    features = [
        frozen.embedding[torch.from_numpy(_stack(frozen.whole.users(view), frozen.whole.items(view)))]
        for view in task.sources
    ]
    return SourceStudents(task.sources, features, student)


def _matching_scale(taught: Teacher, student: Student, field: Field, device: str) -> float:
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        tables = student.tables(student.initial(generator))
        users = torch.arange(min(student.n_users, 1024), device=device)
        scores = tables[: student.n_users][users] @ tables[student.n_users :].T
        spread = taught.scores(users).std(dim=1).mean()
        return float(scores.std(dim=1).mean() / spread) if spread > 0 else 1.0


def _final(adaptation: Adaptation, parameters: Parameters) -> Details:
    """Losses and market weights of the kept parameters, on one batch of users."""
    generator = torch.Generator(device=adaptation.run.device).manual_seed(0)
    with torch.no_grad():
        _, metrics = adaptation.loss(adaptation.users[:512], parameters, generator)
    return {f"final {name}": float(value) for name, value in metrics.items()}


def _stack(users: IntArray, items: IntArray) -> IntArray:
    return np.concatenate([users, items])
