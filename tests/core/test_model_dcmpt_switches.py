"""Every switch and every ablation of DCMPT on tiny markets, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cmr_core.data.split import Split
from cmr_core.errors import SpecError, TrainingError
from cmr_core.models import registry
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import SPLIT, Blind, fit, pairs, start

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
