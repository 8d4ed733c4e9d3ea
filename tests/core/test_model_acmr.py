"""ACMR: the network against a naive one, what histories may hold, the stages, and the attention that is shown."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cmr_core.errors import SpecError, TrainingError
from cmr_core.explain.attention import attend_to
from cmr_core.interfaces import FloatArray, IntArray, MarketView, Run, Task
from cmr_core.models import acmr_network, columns, neural, towers, transformer
from cmr_core.models.acmr import ACMR, ACMRConfig, Stage
from cmr_core.models.acmr_network import NAME, Histories, Reader, Sized, by_length, encode, encode_rows, slots, start
from cmr_core.models.acmr_rows import FixedRows
from cmr_core.models.columns import apply_first_layer, apply_layer, joint
from cmr_core.models.neural import NeuralScorer, score_pairs
from cmr_core.models.pointwise import Layout, Rows, bce
from cmr_core.models.popularity import Popularity, PopularityConfig
from cmr_core.models.towers import Noise
from cmr_core.models.transformer import apply_layer as plain_layer
from cmr_core.models.transformer import apply_norm, layer
from cmr_core.spec import parse
from cmr_core.training.monitor import QuietMonitor
from tests.conformance.board import Blind
from tests.core.tiny_markets import SPLIT, TASK, market, pairs

SMALL: dict[str, Any] = {
    "dimensions": 8, "layers": 2, "heads": 2, "epochs": 2, "finetune_epochs": 2, "alone_epochs": 2, "batch_size": 128,
    "dropout": 0.1,
}  # fmt: skip
VIEW = TASK.target


def settings(**changes: Any) -> ACMRConfig:
    return parse(ACMRConfig, SMALL | changes)


class Silent(Blind):
    """Has no validation rows: every stage runs all its epochs and keeps the last state."""

    def __call__(self, market: str, score: object, *, users: int | None = None) -> float:
        return float("nan")


def start_run(monitor: QuietMonitor | None = None) -> Run:
    return Run(0, "cpu", Silent(), monitor or QuietMonitor())


def fit(task: Task = TASK, monitor: QuietMonitor | None = None, **changes: Any) -> NeuralScorer:
    return ACMR(settings(**changes)).fit(task, start_run(monitor))


def rough(parameters: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """Far from zero everywhere, so that every parameter shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * 0.4 for name, value in parameters.items()}


def naive(w: dict[str, torch.Tensor], history: list[int], item: int, market: int | None, heads: int) -> float:
    """One pair by the layers of `transformer.py`, row by row; -1 is the row beside the items."""
    table = torch.cat([w["item.vectors"], w["empty"]])
    x = table[torch.tensor([*(history or [-1]), item])]
    if market is not None:
        x = x + w["markets"][market]
    x = apply_norm(w, "norm", x)[None]
    at = 0
    while f"layer.{at}.query.weight" in w:
        x = plain_layer(w, f"layer.{at}", x, None, heads)
        at += 1
    user, candidate = x[0, :-1].mean(0), x[0, -1]
    explicit = w["output.weight"].shape[1] == 2 * len(candidate)
    read = torch.cat([user, candidate]) if explicit else candidate
    return float(w["output.weight"][0] @ read + w["output.bias"][0])


def test_parameters_are_those_of_the_formula() -> None:
    def size(**changes: Any) -> int:
        known: dict[str, Any] = {"n_items": 8304, "markets": 7, "dimensions": 32, "layers": 4, "explicit_user": True}
        found = start(torch.Generator(), deviation=0.02, **(known | changes))
        return sum(value.numel() for value in found.values())

    assert size() == 316_929
    assert size(markets=0) == 316_929 - 7 * 32
    assert size(explicit_user=False) == 316_929 - 32
    layout = Layout(TASK.markets)
    d, n_layers = 8, 2
    expected = (layout.n_items + 1) * d + 3 * d + 2 * d + n_layers * (12 * d * d + 13 * d) + 2 * d + 1
    assert fit().parameters.trainable == fit().parameters.total == expected


def test_layers_can_start_as_those_of_torch_do() -> None:
    torch.manual_seed(0)
    size = 256
    block = torch.nn.TransformerEncoderLayer(size, 8, 4 * size, batch_first=True)
    theirs = block.state_dict()
    theirs |= {f"out.{part}": torch.nn.Linear(2 * size, 1).state_dict()[part] for part in ("weight", "bias")}
    joined = theirs.pop("self_attn.in_proj_weight").chunk(3)
    ours = start(torch.Generator().manual_seed(1), 5, 2, size, 3, explicit_user=True, deviation=1.0, torch_layers=True)
    names = {
        "self_attn.out_proj": "layer.0.out", "linear1": "layer.0.up", "linear2": "layer.0.down", "out": "output",
        "norm1": "layer.0.norm1", "norm2": "layer.0.norm2",
    }  # fmt: skip
    pairs_ = [
        (ours[f"layer.0.{part}.weight"], one) for part, one in zip(("query", "key", "value"), joined, strict=True)
    ]
    for name, mine in names.items():
        kinds = ("scale", "shift") if "norm" in name else ("weight", "bias")
        pairs_ += [
            (ours[f"{mine}.{kind}"], theirs[f"{name}.{part}"])
            for kind, part in zip(kinds, ("weight", "bias"), strict=True)
        ]
    for mine, other in pairs_:
        assert mine.shape == other.shape
        assert mine.requires_grad
        assert mine.is_leaf
        if mine.numel() > 1:
            torch.testing.assert_close(mine.abs().max(), other.abs().max(), rtol=0.02, atol=0)
            torch.testing.assert_close(mine.abs().mean(), other.abs().mean(), rtol=0.2, atol=0)
    for name, value in ours.items():
        if name.startswith("layer."):
            assert torch.equal(value, ours["layer.0." + name.split(".", 2)[2]]), name


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Noise:
    """Noise whose dropout doubles every entry: where it falls shows, and it does not matter who shares a draw."""

    def factors(x: torch.Tensor, rate: float, generator: torch.Generator | None) -> torch.Tensor | None:
        return None if generator is None or rate == 0 else torch.full_like(x, 2.0)

    monkeypatch.setattr(towers, "kept", factors)
    monkeypatch.setattr(columns, "kept", factors)
    return Noise(0.5, torch.Generator())


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_layers_in_columns_are_the_plain_layers_and_so_are_their_gradients(
    hidden: bool, noisy: bool, doubled: Noise
) -> None:
    noise = doubled if noisy else Noise()
    generator = torch.Generator().manual_seed(4)
    d, heads, n, users, candidates = 8, 2, 5, 3, 4
    weights = {k: v for at in range(2) for k, v in layer(f"l{at}", d, 4 * d, generator).items()}
    for value in weights.values():
        value.data.add_(torch.randn(value.shape, generator=generator) * 0.2)
    shared = torch.randn(d, n, 1, users, generator=generator, requires_grad=True)
    last = torch.randn(d, candidates, users, generator=generator, requires_grad=True)
    gone = torch.zeros(n, 1, users, dtype=torch.bool)
    gone[3:, 0, 1] = hidden
    whole = torch.cat([gone.expand(n, candidates, users), gone.new_zeros(1, candidates, users)]).reshape(n + 1, -1)
    joined = joint(weights)
    x = apply_first_layer(joined, "l0", shared, last, gone if hidden else None, heads, noise, noise)
    ours = apply_layer(joined, "l1", x, whole if hidden else None, heads, noise, noise)
    rows = torch.cat([shared.expand(d, n, candidates, users), last[:, None]], 1).reshape(d, n + 1, -1).permute(2, 1, 0)
    for at in range(2):
        rows = plain_layer(weights, f"l{at}", rows, whole.t(), heads, rate=noise.rate, generator=noise.generator)
    theirs = rows.permute(2, 1, 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    only = apply_layer(joined, "l1", x, whole if hidden else None, heads, noise, noise, last_only=True)
    torch.testing.assert_close(only, theirs[:, -1:], rtol=1e-4, atol=1e-5)
    upstream = torch.randn(ours.shape, generator=generator) * ~whole
    leaves = [shared, last, *weights.values()]
    one = torch.autograd.grad((ours * upstream).sum(), leaves, retain_graph=True)
    other = torch.autograd.grad((theirs * upstream).sum(), leaves, retain_graph=True)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    one = torch.autograd.grad((only * upstream[:, -1:]).sum(), [shared, last])
    other = torch.autograd.grad((theirs[:, -1:] * upstream[:, -1:]).sum(), [shared, last])
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("last_only", [False, True])
def test_dropout_on_attention_is_what_autograd_makes_of_it(last_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    heads, e, n, many = 2, 3, 4, 5
    joined = torch.randn(3, heads, e, n, many, generator=generator, requires_grad=True)
    drawn = (torch.rand(heads, 1 if last_only else n, n, many, generator=generator) < 0.5) / 0.5
    monkeypatch.setattr(columns, "kept", lambda x, rate, generator: drawn)
    ours = columns._Attend.apply(joined, None, last_only, Noise(0.5, generator))
    query, key, value = joined
    scores = torch.einsum("helb,hemb->hlmb", query[:, :, -1:] if last_only else query, key) / e**0.5
    theirs = torch.einsum("hlmb,hemb->helb", torch.softmax(scores, 2) * drawn, value)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=generator)
    torch.testing.assert_close(
        torch.autograd.grad((ours * upstream).sum(), joined, retain_graph=True),
        torch.autograd.grad((theirs * upstream).sum(), joined),
    )


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
def test_what_a_gpu_computes_is_the_same_and_so_are_its_gradients(
    hidden: bool, explicit: bool, noisy: bool, doubled: Noise
) -> None:
    noise = doubled if noisy else Noise()
    generator = torch.Generator().manual_seed(5)
    d, n, users, candidates = 8, 5, 3, 4
    found = start(generator, 10, 0, d, 2, explicit_user=explicit, deviation=1.0)
    weights = {name: value.requires_grad_() for name, value in rough(found).items()}
    joined = joint(weights)
    history = torch.randn(d, n, 1, users, generator=generator, requires_grad=True)
    candidate = torch.randn(d, candidates, users, generator=generator, requires_grad=True)
    absent = torch.zeros(n, 1, users, dtype=torch.bool)
    absent[3:, 0, 1] = True
    gone = absent if hidden else None
    one = encode(joined, history, candidate, gone, 2, noise, noise)
    other = encode_rows(joined, history, candidate, gone, 2, noise, noise)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    upstream = torch.randn(one.shape, generator=generator)
    leaves = [history, candidate, *(value for name, value in weights.items() if name.startswith(("layer", "output")))]
    torch.testing.assert_close(
        torch.autograd.grad((one * upstream).sum(), leaves),
        torch.autograd.grad((other * upstream).sum(), leaves),
        rtol=1e-3,
        atol=1e-4,
    )


class Asking(TorchDispatchMode):
    """Refuses what makes a processor wait for a GPU, and what cannot be recorded there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.overloadpacket.__name__ not in {"_local_scalar_dense", "nonzero", "equal", "masked_select"}
        return function(*args, **(kwargs or {}))


def test_a_step_on_a_gpu_is_the_same_and_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    view, generator = big_market(), torch.Generator().manual_seed(0)
    layout = Layout([view])
    weights = rough(start(generator, layout.n_items, 1, 8, 2, explicit_user=True, deviation=0.02))
    histories = Histories.of(layout, 50, generator)
    silent, noisy = (Reader(histories, 2, Noise(rate, generator), with_candidate=False) for rate in (0.0, 0.5))
    batch = Sized(*next(Rows(layout, 3, "cpu").batches(400, generator)), width=28)  # 29 items less the one left out
    assert acmr_network._width(torch.tensor([1, 28])) == 28
    grouped = silent.logits(weights, batch)
    monkeypatch.setattr(acmr_network, "_on_gpu", lambda near: True)
    torch.testing.assert_close(silent.logits(weights, batch), grouped, rtol=1e-3, atol=1e-4)
    leaves = [value.requires_grad_() for value in weights.values()]
    with Asking():
        torch.autograd.grad(bce(noisy.logits(weights, batch)), leaves)
    seen: list[int] = []
    monkeypatch.setattr(transformer, "dropout", lambda x, rate, _: seen.append(x.shape[-1] if rate else 0) or x)
    noisy.logits(weights, batch)
    assert seen == [8, 0, 8] * 2  # on the outputs of the sublayers, not on the inner maps' 32


def big_market() -> MarketView:
    """Histories of 0, 1, 2, ... 29 items, so that some groups are padded and one user has nothing."""
    user, item = np.nonzero(np.arange(30)[:, None] > np.arange(40)[None])
    return MarketView("xx", 30, np.arange(40, dtype=np.int32), pairs(user, (item * 7 + user) % 40))


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("with_market", [True, False])
def test_scores_are_those_of_the_naive_network(explicit: bool, with_market: bool) -> None:
    view = big_market()
    task = replace(TASK, target=view)
    stage = Stage(settings(explicit_user=explicit, market_embeddings=with_market), task, start_run())
    weights = rough(stage.initial(torch.Generator().manual_seed(0)))
    served = stage.served(weights, view)
    users = np.array([29, 0, 1, 17, 20, 21, 0])
    scores = score_pairs(NAME, served, users, np.arange(40)[None], "cpu")
    rows = stage.layout.items(view)
    place = [one.name for one in stage.layout.views].index("xx")
    for row, user in enumerate(users):
        history = sorted(rows[view.train.item[view.train.user == user]].tolist())
        for item in (0, 13, 39):
            expected = naive(weights, history, int(rows[item]), place if with_market else None, 2)
            assert scores[row, item] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    listed = np.array([[3, 8], [1, 1], [0, 39], [5, 6], [7, 8], [9, 10], [11, 12]])
    found = score_pairs(NAME, served, users, listed, "cpu")
    np.testing.assert_allclose(found, np.take_along_axis(scores, listed, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [False, True])
def test_in_training_a_history_leaves_out_its_positive_unless_it_is_asked_to_keep_it(kept: bool) -> None:
    view = big_market()
    layout = Layout((*TASK.markets, view))
    generator = torch.Generator().manual_seed(0)
    histories = Histories.of(layout, 50, generator)
    weights = rough(start(generator, layout.n_items, 4, 8, 2, explicit_user=True, deviation=0.02))
    reader = Reader(histories, 2, Noise(), with_candidate=kept)
    batch = next(Rows(layout, 3, "cpu", views=[view, TASK.target]).batches(400, generator))
    logits = reader.logits(weights, Sized(*batch, width=29))
    assert logits.shape == (100, 4)
    for row in range(0, 100, 7):
        user, positive = int(batch.user[row]), int(batch.item[row, 0])
        begin, stop = histories.start[user : user + 2].tolist()
        history = histories.items[begin:stop].tolist()
        assert positive in history
        if not kept:
            history.remove(positive)
        for column in range(4):
            item, where = int(batch.item[row, column]), int(batch.market[row])
            assert logits[row, column].item() == pytest.approx(
                naive(weights, history, item, where, 2), rel=1e-3, abs=1e-4
            )


def test_the_slots_of_a_history_hold_it_without_the_positive() -> None:
    items, begin, count = torch.tensor([5, 6, 7, 2, 3, 9]), torch.tensor([0, 3, 5]), torch.tensor([2, 2, 0])
    found = slots(items, begin, count, torch.tensor([1, -1, 0]), 3, 99)
    assert found.items.t().tolist() == [[5, 7, 99], [2, 3, 99], [99, 99, 99]]
    assert found.absent is not None
    assert found.absent.t().tolist() == [[False, False, True], [False, False, True], [False, True, True]]
    assert slots(items, begin[:2], count[:2], None, 2, 99).absent is None


def test_groups_are_of_one_length_as_far_as_possible_and_lose_nobody() -> None:
    count = torch.randint(0, 60, (500,), generator=torch.Generator().manual_seed(2))
    seen = []
    for rows, width in by_length(count, 200):
        seen += rows.tolist()
        most = count[rows].clamp(min=1)
        assert bool((most <= width).all())
        assert bool((width <= torch.where(most > 12, most * 7 // 6 + 1, most)).all())
        assert len(rows) == 1 or len(rows) * (width + 1) <= 200
    assert sorted(seen) == list(range(500))


def test_arranged_batches_are_the_same_pairs_with_like_histories() -> None:
    view = big_market()
    layout, generator = Layout([view]), torch.Generator().manual_seed(0)
    reader = Reader(Histories.of(layout, 50, generator), 2, Noise(), with_candidate=False)
    large = list(Rows(layout, 3, "cpu").batches(100_000, generator))
    small = list(reader.arrange(iter(large), 80, generator))
    assert {len(batch.user) for batch in small} <= {20, len(large[0].user) % 20}
    for at in range(3):
        joined = torch.cat([batch[at].reshape(len(batch.user), -1) for batch in small]).tolist()
        assert sorted(joined) == sorted(large[0][at].reshape(len(large[0].user), -1).tolist())
    spans = sorted((int(batch.user.min()), int(batch.user.max())) for batch in small)  # user u has u items
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    for batch in small:
        longest = int(batch.user.max()) - 1  # without the positive
        assert longest <= batch.width <= max(acmr_network.EXACT, longest * 7 / 6 + 1)


def test_long_histories_are_cut_at_random_and_always_alike() -> None:
    view = big_market()
    layout = Layout([view])
    whole, one, again, other = (
        Histories.of(layout, length, torch.Generator().manual_seed(seed))
        for length, seed in ((50, 0), (6, 0), (6, 0), (6, 1))
    )
    assert torch.equal(one.items, again.items)
    assert not torch.equal(one.items, other.items)
    sizes = (one.start[1:] - one.start[:-1]).tolist()
    assert sizes == [min(user, 6) for user in range(30)]
    for user in range(30):
        own = set(whole.items[whole.start[user] : whole.start[user + 1]].tolist())
        assert set(one.items[one.start[user] : one.start[user + 1]].tolist()) <= own


def test_the_order_of_a_history_changes_nothing_but_rounding() -> None:
    fitted = fit()
    stored = dict(fitted.weights)
    begin = stored["history.start"]
    stored["history.items"] = np.concatenate([stored["history.items"][a:b][::-1] for a, b in pairwise(begin)])
    assert not np.array_equal(stored["history.items"], fitted.weights["history.items"])
    users = np.arange(VIEW.n_users)
    np.testing.assert_allclose(replace(fitted, weights=stored).score(users), fitted.score(users), rtol=1e-4, atol=1e-5)


def test_fixed_negatives_come_from_everywhere_and_stay() -> None:
    layout, generator = Layout(TASK.markets), torch.Generator()
    rows = FixedRows(layout, 2, torch.Generator().manual_seed(0), views=[VIEW])
    epochs = [torch.cat([torch.cat([b.user[:, None], b.item], 1) for b in rows.batches(30, generator)]) for _ in "ab"]
    one, other = (sorted(map(tuple, epoch.tolist())) for epoch in epochs)
    assert one == other
    assert [row[:2] for row in one] == sorted(
        zip(layout.users(VIEW)[VIEW.train.user].tolist(), layout.items(VIEW)[VIEW.train.item].tolist(), strict=True)
    )
    drawn = {item for row in one for item in row[2:]}
    assert drawn - set(layout.items(VIEW).tolist()), "items that the market does not sell are negatives too"
    for user in range(VIEW.n_users):
        mine = [row for row in one if row[0] == layout.users(VIEW)[user]]
        negatives = [item for row in mine for item in row[2:]]
        assert not set(negatives) & {row[1] for row in mine}
        free = layout.n_items - len(mine)
        assert len(set(negatives)) == min(len(negatives), free)
    full = MarketView("yy", 1, np.arange(3, dtype=np.int32), pairs(np.zeros(3, int), np.arange(3)))
    with pytest.raises(TrainingError, match="yy"):
        FixedRows(Layout([full]), 2, generator, views=[full])


def test_one_pretraining_serves_all_targets_unless_it_stops_on_the_target() -> None:
    def built(**changes: Any) -> int:
        monitor = QuietMonitor()
        for name in ("uk", "de"):
            monitor.checkpoints.clear()
            fit(SPLIT.task(name, sorted({"ca", "de", "uk"} - {name})), monitor, **changes)
        return len(monitor.store)

    assert built() == 1
    assert built(finetune_epochs=1) == 1
    assert built(pretrain="without-target") == 2


def test_targets_that_stop_on_their_own_share_the_passes_up_to_there() -> None:
    monitor = QuietMonitor()
    shared = {"epochs": 4, "eval_every": 1, "pretrain_stop": "target", "finetune": False, "patience": 50}
    one, two = (fit(SPLIT.task(name, sorted({"ca", "de", "uk"} - {name})), monitor, **shared) for name in ("uk", "de"))
    fit(monitor=monitor, **{**shared, "patience": 40, "valid_users": 20, "epochs": 3})  # when to stop is its own affair
    assert len(monitor.store) == 4
    np.testing.assert_array_equal(one.weights["layer.0.up.weight"], two.weights["layer.0.up.weight"])
    together = fit(**{**shared, "pretrain_stop": "mean"})
    np.testing.assert_array_equal(one.weights["layer.0.up.weight"], together.weights["layer.0.up.weight"])


def test_stages_are_those_that_the_settings_name() -> None:
    def stages(**changes: Any) -> list[str]:
        monitor = QuietMonitor()
        fit(monitor=monitor, **changes)
        return list(dict.fromkeys(report.stage for report in monitor.progress))

    assert stages() == ["pretraining", "fine-tuning"]
    assert stages(finetune=False) == ["pretraining"]
    assert stages(pretrain="target-only") == ["pretraining"]
    assert stages(pretrain="without-target") == ["pretraining", "fine-tuning"]


def test_the_target_alone_means_that_sources_do_not_matter() -> None:
    other = SPLIT.task("uk", ["ca"])
    one, two = fit(pretrain="target-only"), fit(other, pretrain="target-only")
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, two.arrays()[name], err_msg=name)


def test_pretraining_without_the_target_does_not_learn_from_its_pairs() -> None:
    changed = market("uk", 13, 14, 99)
    target = replace(VIEW, train=changed.train, catalogue=VIEW.catalogue)
    other = replace(TASK, target=target, digest="1" * 64)
    one, two = (fit(task, pretrain="without-target", finetune=False).weights for task in (TASK, other))
    assert not np.array_equal(one["history.items"], two["history.items"])
    for name, value in one.items():
        if not name.startswith("history"):
            np.testing.assert_array_equal(value, two[name], err_msg=name)


def test_switches_of_the_authors_code_change_what_is_learned() -> None:
    plain = fit().weights["item.vectors"]
    for change in (
        {"acmr_neg": "static_global"},
        {"history_includes_candidate": True},
        {"market_embeddings": False},
        {"start_deviation": 1.0},
        {"layer_start": "torch"},
        {"inner_dropout": "same"},
    ):
        assert not np.array_equal(fit(**change).weights["item.vectors"], plain), change


def test_patience_counts_all_looks_without_improvement_where_it_is_never_reset() -> None:
    class Sawtooth(Blind):
        def __call__(self, market: str, score: object, *, users: int | None = None) -> float:
            self.calls += 1
            return self.calls if self.calls % 3 else 0.0  # every third look is worse

    def looks(reset: bool) -> int:
        monitor = QuietMonitor()
        config = settings(pretrain="target-only", alone_epochs=30, patience=2, patience_reset=reset, eval_every=1)
        ACMR(config).fit(TASK, Run(0, "cpu", Sawtooth(), monitor))
        return max(report.done for report in monitor.progress)

    assert looks(True) == 30
    assert looks(False) == 5


def test_training_lowers_the_loss_and_dropout_only_disturbs_training() -> None:
    monitor = QuietMonitor()
    fit(monitor=monitor, epochs=25, finetune=False, learning_rate=0.01)
    losses = [report.metrics["loss"] for report in monitor.progress if "loss" in report.metrics]
    assert losses[-1] < 0.8 * losses[0]
    generator = torch.Generator().manual_seed(0)
    layout = Layout(TASK.markets)
    weights = rough(start(generator, layout.n_items, 3, 8, 2, explicit_user=True, deviation=0.02))
    histories = Histories.of(layout, 50, generator)
    quiet, noisy = (Reader(histories, 2, noise, with_candidate=False) for noise in (Noise(0.5), Noise(0.5, generator)))
    batch = Sized(*next(Rows(layout, 3, "cpu").batches(100, generator)), width=24)
    assert torch.equal(quiet.logits(weights, batch), quiet.logits(weights, batch))
    assert not torch.equal(noisy.logits(weights, batch), noisy.logits(weights, batch))
    assert torch.isfinite(bce(noisy.logits(weights, batch)))


def test_the_attention_shown_is_that_of_the_score() -> None:
    fitted = fit()
    user = int(np.bincount(VIEW.train.user).argmax())
    history = np.unique(VIEW.train.item[VIEW.train.user == user])
    shown = attend_to(fitted, user, 1)
    np.testing.assert_array_equal(shown.items, [*history, 1])
    assert shown.weights.shape == (2, 2, len(history) + 1, len(history) + 1)
    np.testing.assert_allclose(shown.weights.sum(3), 1, rtol=1e-5)
    assert shown.weights.min() > 0
    w = {name: torch.from_numpy(array) for name, array in fitted.weights.items()}
    x = apply_norm(w, "norm", w["item.vectors"][torch.from_numpy(shown.items)] + w["market"])
    for at in range(2):
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            query, key = (
                x @ w[f"layer.{at}.{part}.weight"][rows].t() + w[f"layer.{at}.{part}.bias"][rows]
                for part in ("query", "key")
            )
            expected = torch.softmax(query @ key.t() / 2, 1)
            np.testing.assert_allclose(shown.weights[at, head], expected.numpy(), rtol=1e-4, atol=1e-6)
        x = plain_layer(w, f"layer.{at}", x[None], None, 2)[0]
    logit = w["output.weight"][0] @ torch.cat([x[:-1].mean(0), x[-1]]) + w["output.bias"][0]
    assert fitted.score(np.array([user]))[0, 1] == pytest.approx(logit.item(), rel=1e-4, abs=1e-5)


def test_the_attention_of_a_user_without_history_and_what_is_refused() -> None:
    view = replace(VIEW, n_users=VIEW.n_users + 1)
    fitted = fit(replace(TASK, target=view))
    shown = attend_to(fitted, view.n_users - 1, 2)
    assert shown.items.tolist() == [-1, 2]
    assert np.isfinite(fitted.score(np.array([view.n_users - 1]))).all()
    for user, item in ((view.n_users, 0), (0, view.n_items), (-1, 0)):
        with pytest.raises(SpecError, match=r"no user number|no item number"):
            attend_to(fitted, user, item)
    other = Popularity(PopularityConfig()).fit(TASK, start_run())
    with pytest.raises(SpecError, match="no attention"):
        attend_to(other, 0, 0)


def test_catalogue_scores_are_made_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit()
    asked: list[int] = []

    def noting(name: str, weights: object, users: IntArray, items: IntArray, device: str) -> FloatArray:
        asked.extend(users.tolist())
        return score_pairs(name, weights, users, items, device)  # type: ignore[arg-type]

    expected = fit().score(np.array([5, 2, 2, 9, 0]))
    monkeypatch.setattr(neural, "score_pairs", noting)
    monkeypatch.setattr(neural, "KEPT", 3 * VIEW.n_items)
    fitted.score(np.array([2, 5]))
    np.testing.assert_allclose(fitted.score(np.array([5, 2, 2, 9, 0])), expected, rtol=1e-5, atol=1e-6)
    assert asked == [2, 5, 0, 9]
    fitted.score(np.array([0, 9]))
    assert asked == [2, 5, 0, 9, 9], "there was room for three users"


def test_heads_must_divide_the_dimensions() -> None:
    with pytest.raises(SpecError, match="3 heads do not divide 32 dimensions"):
        parse(ACMRConfig, {"heads": 3})
