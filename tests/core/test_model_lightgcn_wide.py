"""LightGCN with long vectors: the same stage as the backbone, and products in blocks of columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmr_core.models import graph as graphs
from cmr_core.models.graph import combined_graph
from cmr_core.models.lightgcn import BackboneConfig, LightGCNAll
from cmr_core.models.lightgcn_wide import LightGCNWide, WideConfig
from cmr_core.models.registry import get
from cmr_core.training.monitor import QuietMonitor
from tests.core.tiny_markets import SPLIT, TASK, start

SMALL = {"dimensions": 8, "layers": 2, "backbone_epochs": 3, "backbone_batch": 64, "backbone_l2": 1e-3}


def test_the_entry_s_values_are_the_defaults() -> None:
    training = WideConfig().backbone()
    assert (training.dimensions, training.layers, training.batch_size, training.l2) == (2048, 4, 8192, 6e-5)
    assert get("lightgcn-wide").configure({"dimensions": 128}).model_dump()["dimensions"] == 128


def test_it_is_the_backbone_with_other_settings() -> None:
    same = {**BackboneConfig().model_dump(), **SMALL}
    monitor = QuietMonitor()
    wide = LightGCNWide(WideConfig(**same)).fit(TASK, start(monitor))
    plain = LightGCNAll(BackboneConfig(**same)).fit(TASK, start(monitor))
    assert len(monitor.store) == 1, "equal settings share one training"
    for name, value in plain.arrays().items():
        np.testing.assert_array_equal(wide.arrays()[name], value)


def test_every_number_of_the_vectors_is_trained() -> None:
    users = sum(view.n_users for view in TASK.markets)
    size = LightGCNWide(WideConfig(**SMALL)).fit(TASK, start()).parameters
    assert size.total == size.trainable == (users + TASK.n_items) * 8


def test_all_targets_share_one_training() -> None:
    monitor = QuietMonitor()
    for target, *sources in (("uk", "ca", "de"), ("de", "ca", "uk")):
        LightGCNWide(WideConfig(**SMALL)).fit(SPLIT.task(target, sources), start(monitor))
    assert len(monitor.store) == 1


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("columns", [40, 64, 70])
def test_products_in_blocks_are_the_same(columns: int, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = combined_graph(TASK, "cpu").graph
    table = torch.randn(graph.n_nodes, columns, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(graph.n_nodes, columns, generator=torch.Generator().manual_seed(1))
    whole = graph.mean_layers(table, layers)
    (slope,) = torch.autograd.grad((whole * weights).sum(), table)
    monkeypatch.setattr(graphs, "WIDE", 39)
    blocks = graph.mean_layers(table, layers)
    torch.testing.assert_close(blocks, whole)
    torch.testing.assert_close(torch.autograd.grad((blocks * weights).sum(), table)[0], slope)
