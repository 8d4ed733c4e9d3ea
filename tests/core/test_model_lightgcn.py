"""LightGCN and what stands on it: sharing, determinism, resuming, explanations, frozen rows, z-scored sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cmr_core.errors import Cancelled
from cmr_core.interfaces import FloatArray, IntArray, MarketView, Method, Pairs, ParameterCount, Run, Task
from cmr_core.models.backbone_teacher_sum import BackboneTeacherSum, BackboneTeacherSumConfig, standardised_sum
from cmr_core.models.base import Factors
from cmr_core.models.finetune import Finetune, FinetuneConfig
from cmr_core.models.lightgcn import BackboneConfig, LightGCN, LightGCNAll, TeacherConfig, backbone, teacher
from cmr_core.training.monitor import QuietMonitor, Recorder

SMALL = {"dimensions": 8, "backbone_epochs": 6, "backbone_batch": 64, "backbone_eval_every": 2}
SMALL_TEACHER = {"dimensions": 8, "teacher_epochs": 6, "teacher_batch": 64, "teacher_eval_every": 2}


def view(name: str, n_users: int, n_items: int, seed: int) -> MarketView:
    """A market whose users keep to the items of their own parity."""
    rng = np.random.default_rng(seed)
    catalogue = np.sort(rng.choice(24, n_items, replace=False)).astype(np.int32)
    parity = catalogue[None] % 2 == np.arange(n_users)[:, None] % 2
    user, item = np.nonzero(parity & (rng.random((n_users, n_items)) < 0.6))
    day = np.full(len(user), -1, dtype=np.int32)
    return MarketView(name, n_users, catalogue, Pairs(user.astype(np.int32), item.astype(np.int32), day))


DE, UK = view("de", 12, 16, 1), view("uk", 9, 12, 2)
TASK = Task(UK, (DE,), 24, "digest", "uk digest")
CATALOGUES = {"de": DE, "uk": UK}


class Parity:
    """Judges by how much higher the items of the user's own parity score."""

    digest = "parity"

    def __call__(self, market: str, score: Callable[[IntArray], FloatArray]) -> float:
        users = np.arange(CATALOGUES[market].n_users)
        own = CATALOGUES[market].catalogue[None] % 2 == users[:, None] % 2
        scores = score(users)
        return float(scores[own].mean() - scores[~own].mean())


class Blind:
    """Has no validation rows."""

    digest = "blind"

    def __call__(self, market: str, score: Callable[[IntArray], FloatArray]) -> float:
        return float("nan")


def start(monitor: QuietMonitor | None = None, seed: int = 0) -> Run:
    return Run(seed, "cpu", Parity(), monitor or QuietMonitor())


def methods() -> list[Method]:
    return [
        LightGCN(TeacherConfig(**SMALL_TEACHER)),
        LightGCNAll(BackboneConfig(**SMALL)),
        Finetune(FinetuneConfig(**SMALL, epochs=6)),
        Finetune(FinetuneConfig(**SMALL, epochs=6, graph="combined")),
        BackboneTeacherSum(BackboneTeacherSumConfig(**(SMALL | SMALL_TEACHER))),
    ]


def fitted(method: Method, run: Run | None = None, task: Task = TASK) -> Factors:
    result = method.fit(task, run or start())
    assert isinstance(result, Factors)
    return result


def same(one: Factors, other: Factors) -> bool:
    left, right = one.arrays(), other.arrays()
    return left.keys() == right.keys() and all(left[key].tobytes() == right[key].tobytes() for key in left)


@pytest.mark.parametrize("method", methods())
def test_equal_seeds_give_equal_arrays_and_other_seeds_others(method: Method) -> None:
    one, two, other = (fitted(method, start(seed=seed)) for seed in (0, 0, 1))
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("reports", [1, 3, 7, 9])
def test_a_run_stopped_anywhere_resumes_to_the_same_arrays(
    method: Method, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmr_core.training.loop.CHECKPOINT_SECONDS", 0.0)
    monitor = QuietMonitor(cancel_after=reports)
    try:
        fitted(method, start(monitor))
    except Cancelled:
        assert len(monitor.progress) == reports
        assert monitor.checkpoints or reports == 1
    monitor.cancel_after = None
    assert same(fitted(method, start(monitor)), fitted(method))


@pytest.mark.parametrize("method", methods())
def test_training_learns_what_users_like(method: Method) -> None:
    factors = fitted(method)
    assert Parity()("uk", factors.score) > Parity()("uk", lambda users: np.zeros((len(users), UK.n_items)))
    assert factors.user.shape[0] == UK.n_users
    assert factors.item.shape[0] == UK.n_items


@pytest.mark.parametrize("method", methods()[:4])
def test_user_vectors_are_their_own_part_plus_their_items_messages(method: Method) -> None:
    factors = fitted(method)
    assert factors.user_base is not None
    assert factors.item_message is not None
    for user in range(UK.n_users):
        history = UK.train.item[UK.train.user == user]
        rebuilt = factors.user_base[user] + factors.item_message[history].sum(0) / np.sqrt(max(len(history), 1))
        np.testing.assert_allclose(rebuilt, factors.user[user], atol=1e-6)


def test_targets_share_one_backbone() -> None:
    monitor = QuietMonitor()
    other = replace(TASK, target=DE, sources=(UK,), target_digest="de digest")
    training = BackboneConfig(**SMALL).backbone()
    assert backbone(TASK, start(monitor), training) is backbone(other, start(monitor), training)


def test_at_default_settings_everybody_shares_backbone_and_teacher() -> None:
    expected = BackboneConfig().backbone()
    assert FinetuneConfig().backbone() == BackboneTeacherSumConfig().backbone() == expected
    assert BackboneTeacherSumConfig().teacher() == TeacherConfig().teacher()


def test_a_stage_is_built_anew_for_other_data_rule_settings_seed_or_device() -> None:
    keys = []

    class Keys(QuietMonitor):
        def shared(self, key: str, build: object) -> dict[str, np.ndarray]:
            keys.append(key)
            return {}

    base = start(Keys())
    training, other_training = BackboneConfig(**SMALL).backbone(), BackboneConfig(dimensions=9).backbone()
    for task, run, settings in (
        (TASK, base, training),
        (replace(TASK, digest="other"), base, training),
        (TASK, replace(base, validate=Blind()), training),
        (TASK, base, other_training),
        (TASK, replace(base, seed=1), training),
        (TASK, replace(base, device="cuda:0"), training),
    ):
        backbone(task, run, settings)
    backbone(replace(TASK, target_digest="other"), base, training)
    assert len(set(keys[:6])) == 6
    assert keys[6] == keys[0]
    teacher(TASK, base, training)
    teacher(replace(TASK, digest="other"), base, training)
    teacher(replace(TASK, target_digest="other"), base, training)
    assert keys[7] == keys[8] != keys[9]
    backbone(TASK, replace(base, device="cuda:1"), training)
    assert keys[10] == keys[5]


def test_the_single_market_method_sees_no_source() -> None:
    alone = replace(TASK, sources=(), digest="alone")
    assert same(
        fitted(LightGCN(TeacherConfig(**SMALL_TEACHER)), task=alone), fitted(LightGCN(TeacherConfig(**SMALL_TEACHER)))
    )


def test_the_backbone_s_vectors_are_those_of_the_target_s_nodes() -> None:
    monitor = QuietMonitor()
    factors = fitted(LightGCNAll(BackboneConfig(**SMALL, layers=0)), start(monitor))
    (embedding,) = (arrays["embedding"] for arrays in monitor.store.values())
    np.testing.assert_array_equal(factors.user, embedding[12:21])
    np.testing.assert_array_equal(factors.item, embedding[21 + UK.catalogue])
    assert factors.parameters == ParameterCount(trainable=(12 + 9 + 24) * 8)


@pytest.mark.parametrize("graph", ["target", "combined"])
def test_fine_tuning_trains_the_target_s_rows_and_leaves_the_backbone_alone(graph: str) -> None:
    monitor = QuietMonitor()
    run = start(monitor)
    config = FinetuneConfig(**SMALL, epochs=6, graph=graph)
    before = backbone(TASK, run, config.backbone())["embedding"].copy()
    factors = fitted(Finetune(config), run)
    after = backbone(TASK, run, config.backbone())["embedding"]
    assert before.tobytes() == after.tobytes()
    assert factors.parameters == ParameterCount(trainable=(9 + 12) * 8, frozen=(12 + 9 + 24 - 9 - 12) * 8)
    assert factors.details["finetune best epoch"] > 0


def test_fine_tuning_on_the_combined_graph_starts_from_the_backbone_s_scores() -> None:
    monitor = QuietMonitor(cancel_after=None)
    config = FinetuneConfig(**SMALL, epochs=1, learning_rate=1e-12, graph="combined")
    tuned = fitted(Finetune(config), start(monitor))
    plain = fitted(LightGCNAll(BackboneConfig(**SMALL)), start(monitor))
    np.testing.assert_allclose(tuned.user, plain.user, atol=1e-6)
    np.testing.assert_allclose(tuned.item, plain.item, atol=1e-6)


def test_the_sum_adds_z_scores() -> None:
    monitor = QuietMonitor()
    both = fitted(methods()[4], start(monitor)).score(np.arange(UK.n_users))
    expected = np.zeros_like(both)
    for method in (methods()[0], methods()[1]):
        scores = fitted(method, start(monitor)).score(np.arange(UK.n_users)).astype(np.float64)
        expected += (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
    np.testing.assert_allclose(both, expected, atol=1e-4)


def test_a_part_that_scores_everything_alike_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 3)), rng.normal(size=(5, 3))
    silent = user.copy()
    silent[0] = 0
    parts = [Factors(ParameterCount(), u, item) for u in (user, silent)]
    scores = standardised_sum(parts, ParameterCount(), {}).score(np.arange(2))
    np.testing.assert_allclose(scores.std(1), [1, 2], rtol=1e-6)


def test_without_validation_rows_training_runs_to_its_end() -> None:
    monitor = QuietMonitor()
    factors = fitted(LightGCN(TeacherConfig(**SMALL_TEACHER)), replace(start(monitor), validate=Blind()))
    assert monitor.progress[-1].done == 6
    assert factors.details == {}


def test_stages_and_curves_reach_the_recorder() -> None:
    inner = QuietMonitor()
    for cached in (False, True):
        recorder = Recorder(inner)
        fitted(methods()[4], Run(0, "cpu", Parity(), recorder))
        assert [(s.name, s.cached) for s in recorder.stages] == [("backbone", cached), ("teacher", cached)]
        assert bool(recorder.curves) != cached
