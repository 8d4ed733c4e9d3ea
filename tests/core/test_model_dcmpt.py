"""DCMPT end to end on two tiny markets: what is trained, what is not, and what its numbers depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import Cancelled, SpecError, TrainingError
from cmr_core.interfaces import FloatArray, IntArray, Pairs, Run, Task
from cmr_core.models import registry
from cmr_core.models.adaptation import Adaptation
from cmr_core.models.base import Factors
from cmr_core.models.dcmpt import DCMPT, freeze, make_student, prepare
from cmr_core.models.dcmpt_config import DCMPTConfig
from cmr_core.spec import SplitSpec, parse
from cmr_core.training.checkpoint import adam
from cmr_core.training.monitor import QuietMonitor

SMALL: dict[str, Any] = {
    "dimensions": 8, "prompts": 3, "epochs": 4, "users_per_step": 5, "amrdd_list": 6, "wrd_items": 4,
    "backbone_epochs": 4, "backbone_batch": 64, "teacher_epochs": 4, "teacher_batch": 64,
    "learning_rate": 0.02, "eval_every": 1,
}  # fmt: skip


def pairs(user: IntArray, item: IntArray) -> Pairs:
    return Pairs(user.astype(np.int32), item.astype(np.int32), np.full(len(user), -1, dtype=np.int32))


def market(name: str, n_users: int, n_items: int, seed: int) -> MarketSplit:
    """Users like items of their own parity; a tenth of that is held out in either part."""
    rng = np.random.default_rng(seed)
    catalogue = np.sort(rng.choice(24, n_items, replace=False)).astype(np.int32)
    likes = catalogue[None] % 2 == np.arange(n_users)[:, None] % 2
    user, item = np.nonzero(likes & (rng.random((n_users, n_items)) < 0.7))
    part = rng.choice(3, len(user), p=[0.8, 0.1, 0.1])
    return MarketSplit(name, n_users, catalogue, *(pairs(user[part == p], item[part == p]) for p in range(3)))


SPLIT = Split(
    SplitSpec(),
    "0" * 64,
    24,
    {name: market(name, *size) for name, size in {"ca": (12, 16, 1), "de": (9, 15, 2), "uk": (13, 14, 3)}.items()},
)
TASK = SPLIT.task("uk", ("ca", "de"))


class Parity:
    """Judges by how much higher the items of the user's own parity score."""

    digest = "parity"

    def __call__(self, name: str, score: Callable[[IntArray], FloatArray]) -> float:
        view = SPLIT.markets[name]
        users = np.arange(view.n_users)
        own = view.catalogue[None] % 2 == users[:, None] % 2
        scores = score(users)
        return float((scores[own].mean() - scores[~own].mean()) / scores.std())


class Blind:
    """Has no validation rows: every stage runs all its epochs."""

    digest = "blind"

    def __call__(self, name: str, score: Callable[[IntArray], FloatArray]) -> float:
        return float("nan")


def settings(**changes: Any) -> DCMPTConfig:
    return parse(DCMPTConfig, SMALL | changes)


def start(monitor: QuietMonitor | None = None, seed: int = 0, judge: Any = None) -> Run:
    return Run(seed, "cpu", judge or Parity(), monitor or QuietMonitor())


def fit(task: Task = TASK, run: Run | None = None, **changes: Any) -> Factors:
    fitted = DCMPT(settings(**changes)).fit(task, run or start())
    assert isinstance(fitted, Factors)
    return fitted


def ready(way: str = "fast", **changes: Any) -> tuple[Adaptation, torch.Tensor]:
    config, run = settings(**changes), start()
    frozen = freeze(config, TASK, run)
    student = make_student(config, frozen.field)
    adaptation, _ = prepare(config, TASK, run, frozen, student)
    adaptation.propagation = way  # type: ignore[assignment]
    return adaptation, frozen.field.features


def losses(adaptation: Adaptation, epochs: int = 4) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    model = adam(adaptation.student.initial(generator), 0.02, generator)
    return [adaptation.epoch(model.parameters, model.optimizer, generator)["loss"] for _ in range(epochs)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"student_graph": "combined"}, {"prompt_layers": "all", "prompt_sets": 2}, {"prompts": 20}],
    ids=["default", "combined", "all-layers", "wide"],
)
def test_fast_and_naive_propagation_draw_the_same_loss_curve(changes: dict[str, Any]) -> None:
    fast, naive = (losses(ready(way, **changes)[0]) for way in ("fast", "naive"))
    assert fast == pytest.approx(naive, abs=1e-5)
    assert fast[-1] < fast[0]


def test_frozen_features_are_bit_identical_after_tuning() -> None:
    adaptation, features = ready()
    before = features.clone()
    trained, parameters = adaptation.fit()
    assert trained.epochs > 0
    assert any(value.abs().sum() > 0 for value in parameters.values())
    assert torch.equal(features, before)
    assert not features.requires_grad


def test_bpr_falls_when_a_positive_rises() -> None:
    adaptation, _ = ready(ablation="no-distillation")
    users = adaptation.users[:5]
    mask = adaptation.history.mask(users).float()
    low, high = (adaptation._bpr(users, mask * gap, torch.Generator().manual_seed(0)) for gap in (0.1, 2.0))
    assert high < low < np.log(2)


def test_zero_prompts_score_like_the_frozen_backbone() -> None:
    for graph in ("target", "combined"):
        frozen = fit(ablation="no-prompt", student_graph=graph)
        untuned = fit(learning_rate=1e-30, student_graph=graph)
        assert np.allclose(frozen.user, untuned.user, atol=1e-6)
        assert np.allclose(frozen.item, untuned.item, atol=1e-6)
        assert untuned.user_plain is not None
        assert np.allclose(untuned.user_plain, untuned.user, atol=1e-6)


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others() -> None:
    first, again, other = fit(), fit(), fit(run=start(seed=1))
    for name, array in first.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    assert not np.allclose(first.user, other.user)


@pytest.mark.parametrize("judge", [Parity(), Blind()], ids=["judged", "unjudged"])
def test_a_resumed_run_ends_in_the_same_arrays(judge: Any) -> None:
    class Interrupted(QuietMonitor):
        def checkpoint(self, stage: str, arrays: dict[str, np.ndarray]) -> None:
            super().checkpoint(stage, arrays)
            if stage == "prompts" and len(self.checkpoints) and int(arrays["position"][0]) == 2:
                raise KeyboardInterrupt

    whole = fit(run=start(judge=judge), **{"prompt_init": "glorot"})
    monitor = Interrupted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmr_core.training.loop.time.monotonic", _hurried())
        with pytest.raises(KeyboardInterrupt):
            fit(run=start(monitor, judge=judge), prompt_init="glorot")
    rest = QuietMonitor()
    rest.checkpoints, rest.store = monitor.checkpoints, monitor.store
    resumed = fit(run=start(rest, judge=judge), prompt_init="glorot")
    assert [p.done for p in rest.progress if p.stage == "prompts"] == [3, 4]
    for name, array in whole.arrays().items():
        assert np.array_equal(array, resumed.arrays()[name]), name


def _hurried() -> Callable[[], float]:
    """A clock on which every look is a minute later, so that each epoch leaves a checkpoint."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 60
        return now

    return monotonic


def test_a_cancel_stops_within_an_epoch_of_tuning() -> None:
    warm = QuietMonitor()
    fit(run=start(warm))
    before = sum(p.stage != "prompts" for p in warm.progress)
    monitor = QuietMonitor(cancel_after=before + 2)
    with pytest.raises(Cancelled):
        fit(run=start(monitor))
    assert [p.done for p in monitor.progress if p.stage == "prompts"] == [0, 1]


def test_validation_and_test_labels_reach_no_trained_weight() -> None:
    uk, rng = SPLIT.markets["uk"], np.random.default_rng(0)
    moved = {
        part: pairs(rng.permutation(rows.user), rows.item) for part, rows in (("valid", uk.valid), ("test", uk.test))
    }
    assert any(not np.array_equal(moved[part].user, getattr(uk, part).user) for part in moved)
    other = Split(SPLIT.spec, SPLIT.corpus_digest, SPLIT.n_items, SPLIT.markets | {"uk": replace(uk, **moved)})
    found = [fit(split.task("uk", ("ca", "de")), start(judge=Blind())) for split in (SPLIT, other)]
    for name, array in found[0].arrays().items():
        assert np.array_equal(array, found[1].arrays()[name]), name


def test_no_held_out_pair_is_an_edge_or_a_training_pair() -> None:
    adaptation, _ = ready()
    uk = SPLIT.markets["uk"]
    matrix = market_edges(adaptation)
    for part in (uk.valid, uk.test):
        held = set(zip(part.user.tolist(), part.item.tolist(), strict=True))
        assert held
        assert not held & matrix
        row, item = adaptation.history.pairs(torch.arange(uk.n_users))
        assert not held & set(zip(row.tolist(), item.tolist(), strict=True))


def market_edges(adaptation: Adaptation) -> set[tuple[int, int]]:
    row, column = adaptation.student.field.graph.matrix.to_dense().nonzero().T.tolist()  # type: ignore[attr-defined]
    n_users = adaptation.student.n_users
    return {(u, i - n_users) for u, i in zip(row, column, strict=True) if u < n_users <= i}


def test_counts_and_details() -> None:
    fitted = fit()
    nodes = sum(m.n_users for m in SPLIT.markets.values()) + SPLIT.n_items
    assert fitted.parameters.trainable == 2 * 3 * 8
    assert fitted.parameters.frozen == nodes * 8
    assert fitted.details["teacher_parameters"] == (13 + 14) * 8
    shares = [fitted.details[f"final weight:{name}"] for name in ("ca", "de")]
    assert sum(float(share) for share in shares) == pytest.approx(1)
    tuned = fit(ablation="no-prompt", no_prompt_as="fine-tuned")
    assert tuned.parameters.trainable == (13 + 14) * 8
    assert tuned.parameters.total == nodes * 8


def test_curves_of_every_loss_and_market_weight_are_reported() -> None:
    monitor = QuietMonitor()
    fit(run=start(monitor))
    curve = [p for p in monitor.progress if p.stage == "prompts"]
    assert [p.done for p in curve] == list(range(len(curve)))
    wanted = {"loss", "bpr", "wrd", "amrdd", "weight:ca", "weight:de", "mean |score|"}
    assert wanted | {"attention entropy", "centred prompt norm", "valid"} <= set(curve[-1].metrics)


SWITCHES: list[dict[str, Any]] = [
    {"prompt_sets": 2, "attention_bias": True, "prompt_layers": "all", "prompt_init": "glorot"},
    {"student_graph": "combined", "layers": 0},
    {"teacher_model": "ease-weighted", "teacher_scale": "matched", "teacher_tune": False},
    {"alpha_role": "distillation", "alpha": 0.9},
    {"wrd_rank": "sampled", "wrd_draws": 7, "wrd_rank_scale": "log"},
    {"wrd_rank": "soft", "wrd_include_train": True, "wrd_items": 100},
    {"amrdd_reading": "source-profile", "amrdd_weight_gradient": True, "amrdd_temperature": 0.1},
    {"amrdd_reading": "proxy-users", "kd_temperature": 3.0},
    {"amrdd_reading": "proxy-users", "teacher_model": "ease-weighted", "teacher_tune": False},
    {"paper_batch": True, "steps_per_epoch": 3, "pairs_per_step": 4},
    {"stop_on": "loss"},
    {"stop_on": "never"},
]


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda changes: "-".join(map(str, changes)))
def test_every_switch_fits_and_moves_the_prompts(changes: dict[str, Any]) -> None:
    fitted = fit(**changes)
    assert np.isfinite(fitted.score(np.arange(13))).all()
    changed = fit(run=start(judge=Blind()), **changes)
    assert changed.user_plain is not None
    assert not np.allclose(changed.user, changed.user_plain, atol=1e-5)


@pytest.mark.parametrize("ablation", ["no-pretrain", "no-prompt", "no-distillation", "no-wrd", "no-amrdd"])
def test_each_ablation_leaves_out_what_it_says(ablation: str) -> None:
    monitor = QuietMonitor()
    fit(run=start(monitor), ablation=ablation)
    stages = {p.stage for p in monitor.progress}
    last = monitor.progress[-1].metrics
    assert ("backbone" in stages) == (ablation != "no-pretrain")
    assert ("prompts" in stages) == (ablation != "no-prompt")
    assert ("teacher" in stages) == (ablation not in ("no-prompt", "no-distillation"))
    assert ("wrd" in last) == (ablation in ("no-pretrain", "no-amrdd"))
    assert ("amrdd" in last) == (ablation in ("no-pretrain", "no-wrd"))


def test_random_features_may_stand_in_for_pretraining() -> None:
    monitor = QuietMonitor()
    fit(run=start(monitor), ablation="no-pretrain", no_pretrain_backbone="random")
    assert "backbone" not in {p.stage for p in monitor.progress}


@pytest.mark.parametrize(
    "changes",
    [
        {"ablation": "no-pretrain", "student_graph": "combined"},
        {"ablation": "no-prompt", "amrdd_reading": "proxy-users"},
        {"weight_bpr": 0, "weight_wrd": 0, "weight_amrdd": 0},
        {"prompts": 0},
        {"prompt_sets": 3},
        {"momentum": 0.9},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        registry.get("dcmpt").configure(changes)


def test_without_sources_amrdd_is_left_out_and_said_so() -> None:
    fitted = fit(SPLIT.task("uk", ()))
    assert "no source market" in str(fitted.details["AMRDD"])


def test_a_market_with_nothing_to_learn_from_is_an_error() -> None:
    none = pairs(np.array([], dtype=np.int32), np.array([], dtype=np.int32))
    empty = replace(SPLIT.markets["uk"], train=none)
    split = Split(SPLIT.spec, SPLIT.corpus_digest, SPLIT.n_items, SPLIT.markets | {"uk": empty})
    with pytest.raises(TrainingError, match="uk"):
        fit(split.task("uk", ("ca", "de")), ablation="no-distillation")
