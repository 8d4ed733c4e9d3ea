"""DCCDR: the two domains in one graph, samples in step, the bridge, the contrast, resuming and reasons."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cmr_core.data.split import MarketSplit, Split
from cmr_core.errors import SpecError
from cmr_core.interfaces import ParameterCount, Task
from cmr_core.models.base import Factors
from cmr_core.models.dccdr import DCCDR, DCCDRConfig, Domains, JointTriples, bridge_of_batch, contrast
from cmr_core.spec import SplitSpec, parse
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import TASK, Blind, Parity, pairs, start

SMALL: dict[str, Any] = {"dimensions": 8, "epochs": 8, "batch_size": 32, "eval_every": 2, "learning_rate": 0.02}
UK, (CA, DE) = TASK.target, TASK.sources
SOLD = sorted({*CA.catalogue.tolist(), *DE.catalogue.tolist()})
SHARED = sorted({*SOLD} & {*UK.catalogue.tolist()})
N_USERS = CA.n_users + DE.n_users + UK.n_users


def fitted(monitor: QuietMonitor | None = None, task: Task = TASK, judge: Any = None, **changes: Any) -> Factors:
    result = DCCDR(parse(DCCDRConfig, SMALL | changes)).fit(task, start(monitor, judge=judge))
    assert isinstance(result, Factors)
    return result


def draws(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def name_of(node: int) -> tuple[str, str, int]:
    """Domain or market, kind and code of a node, counted out by hand."""
    for market in (CA, DE, UK):
        if node < market.n_users:
            return market.name, "user", node
        node -= market.n_users
    if node < len(SOLD):
        return "source", "item", SOLD[node]
    return "uk", "item", int(UK.catalogue[node - len(SOLD)])


def training_pairs() -> set[tuple[tuple[str, str, int], tuple[str, str, int]]]:
    return {
        ((market.name, "user", int(user)), ("uk" if market is UK else "source", "item", int(market.catalogue[item])))
        for market in (CA, DE, UK)
        for user, item in zip(market.train.user, market.train.item, strict=True)
    }


def test_the_graph_holds_the_training_pairs_of_both_domains_and_no_edge_between_them() -> None:
    domains = Domains(TASK, "cpu")
    assert domains.n_nodes == N_USERS + len(SOLD) + UK.n_items
    row, column = domains.graph.matrix.to_dense().nonzero().T.tolist()
    found = {(name_of(r), name_of(c)) for r, c in zip(row, column, strict=True) if r < N_USERS}
    assert found == training_pairs()
    assert [name_of(int(node)) for node in domains.users] == [("uk", "user", u) for u in range(UK.n_users)]
    assert [name_of(int(node)) for node in domains.items] == [("uk", "item", int(i)) for i in UK.catalogue]


def test_the_bridge_joins_the_two_nodes_of_every_shared_item() -> None:
    domains = Domains(TASK, "cpu")
    assert 0 < len(SHARED) < len(SOLD)
    for side, domain in enumerate(("source", "uk")):
        assert [name_of(int(node)) for node in domains.bridge[side]] == [(domain, "item", item) for item in SHARED]
        assert domains.bridge_number[domains.bridge[side]].tolist() == list(range(len(SHARED)))
    assert int((domains.bridge_number >= 0).sum()) == 2 * len(SHARED)


@pytest.mark.parametrize("epoch_by", ["target", "source"])
def test_domains_take_turns_and_one_of_them_leads(epoch_by: Any) -> None:
    domains = Domains(TASK, "cpu")
    triples = JointTriples(TASK, domains, "cpu", epoch_by)
    known, sizes = training_pairs(), {"source": len(CA.train) + len(DE.train), "target": len(UK.train)}
    assert len(triples) == 2 * sizes[epoch_by]
    user, positive, negative = (part.tolist() for part in triples.epoch(draws()))
    assert len(user) == len(triples)
    for u, p, n in zip(user, positive, negative, strict=True):
        assert (name_of(u), name_of(p)) in known
        assert (name_of(u), name_of(n)) not in known
        assert name_of(n)[:2] == name_of(p)[:2]
    assert [name_of(u)[0] == "uk" for u in user] == [False, True] * sizes[epoch_by]
    leader = slice(1, None, 2) if epoch_by == "target" else slice(0, None, 2)
    assert len(set(zip(user[leader], positive[leader], strict=True))) == sizes[epoch_by], "each pair once"


def test_the_shorter_domain_starts_again_and_is_used_evenly() -> None:
    triples = JointTriples(TASK, Domains(TASK, "cpu"), "cpu", "source")
    user, positive, _ = (part[1::2].tolist() for part in triples.epoch(draws()))
    counts = np.unique(np.array([user, positive]), axis=1, return_counts=True)[1]
    assert len(user) > len(UK.train)
    assert counts.max() - counts.min() <= 1


def test_shared_items_of_the_batch_s_positives_are_the_bridge() -> None:
    domains = Domains(TASK, "cpu")
    source, target = domains.bridge
    alone = [int(node) for node in domains.items if domains.bridge_number[node] < 0]
    positives = torch.tensor([source[2], target[2], source[0], target[3], *alone])
    batch = torch.stack([positives * 0, positives, source[5].expand(len(positives))])
    assert sorted(bridge_of_batch(domains, batch, 100, draws()).tolist()) == [0, 2, 3]
    assert len(bridge_of_batch(domains, batch, 2, draws()).tolist()) == 2
    batch[1] = batch[1].new_full((len(positives),), int(domains.users[0]))
    assert bridge_of_batch(domains, batch, 100, draws()).tolist() == []


def test_the_contrast_against_a_loop() -> None:
    source, target = torch.randn(2, 4, 6, generator=draws(), dtype=torch.float64)

    def similar(one: torch.Tensor, two: torch.Tensor) -> float:
        return math.exp(float(one @ two / (one.norm() * two.norm())) / 0.4)

    losses = []
    for i in range(4):
        inv_s, spec_s, inv_t, spec_t = source[i, :3], source[i, 3:], target[i, :3], target[i, 3:]
        positive = similar(inv_s, inv_t)
        negatives = similar(inv_s, spec_s) + similar(inv_t, spec_t) + similar(spec_s, spec_t)
        negatives += sum(similar(inv_s, target[j, :3]) for j in range(4) if j != i)
        losses.append(-math.log(positive / (positive + negatives)))
    assert float(contrast(source, target, 0.4)) == pytest.approx(sum(losses) / 4, rel=1e-12)
    assert float(contrast(source[:0], target[:0], 0.4)) == 0


def test_a_step_sees_the_mean_of_all_layers_and_contrasts_the_last() -> None:
    domains = Domains(TASK, "cpu")
    method = DCCDR(DCCDRConfig(**SMALL, layers=2, contrast_weight=0.6))
    table = torch.randn(domains.n_nodes, 8, generator=draws())
    batch = torch.stack(JointTriples(TASK, domains, "cpu", "target").epoch(draws()))
    final, loss = method._views(domains, draws())(table, batch)
    matrix = domains.graph.matrix.to_dense()
    last = matrix @ matrix @ table
    torch.testing.assert_close(final, (table + matrix @ table + last) / 3)
    chosen = sorted({int(domains.bridge_number[node]) for node in batch[1]} - {-1})
    source, target = (last[domains.bridge[side, chosen]] for side in (0, 1))
    # BPR is the mean of the two domains' and not their sum, so the contrast has half of its weight
    torch.testing.assert_close(loss, 0.3 * contrast(source, target, method.config.temperature))


@pytest.mark.parametrize("epoch_by", ["target", "source"])
def test_training_learns_what_users_like(epoch_by: str) -> None:
    factors = fitted(epoch_by=epoch_by)
    assert Parity()("uk", factors.score) > 0.5
    assert factors.parameters == ParameterCount(trainable=(N_USERS + len(SOLD) + UK.n_items) * 8)


def test_a_strong_contrast_brings_the_invariant_halves_together() -> None:
    def agreement(weight: float) -> float:
        monitor = QuietMonitor()
        fitted(monitor, judge=Blind(), contrast_weight=weight, epochs=20)
        curve = [report.metrics["contrast"] for report in monitor.progress if "contrast" in report.metrics]
        return curve[-1] / max(curve[0], 1e-12)

    assert agreement(10.0) < 0.8 < agreement(1e-6)


def test_markets_without_a_shared_item_are_trained_side_by_side() -> None:
    markets = {
        name: MarketSplit(
            name, 6, np.arange(first, first + 8, dtype=np.int32), *(pairs(*np.nonzero(part)) for part in parts())
        )
        for name, first in (("ca", 0), ("uk", 8))
    }
    task = Split(SplitSpec(), "0" * 64, 16, markets).task("uk", ("ca",))
    assert Domains(task, "cpu").bridge.shape == (2, 0)
    factors = fitted(task=task, judge=Blind())
    assert np.isfinite(factors.score(np.arange(6))).all()


def parts() -> list[np.ndarray]:
    """A checker-board of 6 users and 8 items, and nothing held out."""
    board = (np.arange(6)[:, None] + np.arange(8)) % 2 == 0
    return [board, board & False, board & False]


def test_user_vectors_are_their_own_part_plus_their_items_messages() -> None:
    factors = fitted()
    assert factors.user_base is not None
    assert factors.item_message is not None
    for user in range(UK.n_users):
        history = UK.train.item[UK.train.user == user]
        rebuilt = factors.user_base[user] + factors.item_message[history].sum(0) / np.sqrt(max(len(history), 1))
        np.testing.assert_allclose(rebuilt, factors.user[user], atol=1e-6)


def test_the_sources_matter() -> None:
    whole = fitted().score(np.arange(UK.n_users))
    alone = fitted(task=replace(TASK, sources=(DE,))).score(np.arange(UK.n_users))
    assert not np.allclose(whole, alone)


def test_an_odd_length_cannot_be_halved() -> None:
    with pytest.raises(SpecError, match="dimensions"):
        parse(DCCDRConfig, {"dimensions": 7})
