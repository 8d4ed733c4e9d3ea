"""ACMR's training epoch against its transformer layers alone, and its scoring, in one run.

    python benchmarks/acmr.py [--data FILE ...] [--windows 6]

All markets (default: the synthetic corpus), the default protocol's training pairs, the method's default settings, one
thread. What is compared goes through the same sequences, window by window of the epoch's batches, one after the other:

* `epoch`: everything that training does, from drawing negatives to the optimiser's step;
* `layers`: the layers alone as the method has them, forward and backward, on given numbers, without sharing anything;
* `torch`: `torch.nn.TransformerEncoder` with the same sizes and dropout, on the same unpadded groups, forward and
  backward;
* `torch, padded`: the same on sequences of 51 places with a mask, as in the paper, for one batch.

Prints JSON: processor seconds per epoch (scaled from the windows), ratios, and microseconds per scored pair.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout as FileLayout
from cmr_core.data.split import make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.interfaces import Run, Task
from cmr_core.models.acmr import WINDOW, ACMRConfig, Stage
from cmr_core.models.acmr_network import NAME, TRAINED, Reader, Sized, by_length
from cmr_core.models.columns import Noise, apply_layer, joint
from cmr_core.models.neural import score_pairs
from cmr_core.models.pointwise import Rows, bce
from cmr_core.spec import SplitSpec
from cmr_core.training.checkpoint import adam
from cmr_core.training.monitor import QuietMonitor

Group = tuple[int, int]
"""Places of a sequence, sequences."""


class NoRows:
    """A validator without rows."""

    digest = "none"

    def __call__(self, market: str, score: object, *, users: int | None = None) -> float:
        """Nothing to judge by."""
        return float("nan")


def groups(reader: Reader, batch: Sized) -> list[Group]:
    """The sequences of a batch as they go through the layers."""
    count, _ = reader._count(batch)
    width = batch.item.shape[1]
    return [(places + 1, len(rows) * width) for rows, places in by_length(count, TRAINED // width)]


def layers_alone(config: ACMRConfig, weights: dict[str, torch.Tensor], noise: Noise, batch: Sequence[Group]) -> None:
    """Forward and backward through the method's layers."""
    joined, total = joint(weights), torch.zeros(())
    for places, sequences in batch:
        x = torch.randn(config.dimensions, places, sequences, requires_grad=True)
        for at in range(config.layers):
            x = apply_layer(joined, f"layer.{at}", x, None, config.heads, noise)
        total = total + x.sum()
    total.backward()  # type: ignore[no-untyped-call]


def torch_alone(encoder: torch.nn.Module, size: int, batch: Sequence[Group], absent: int = 0) -> None:
    """Forward and backward through torch's layers; the last `absent` places are masked."""
    total = torch.zeros(())
    for places, sequences in batch:
        x = torch.randn(sequences, places, size, requires_grad=True)
        mask = None
        if absent:
            mask = torch.zeros(sequences, places, dtype=torch.bool)
            mask[:, -absent:] = True
        total = total + encoder(x, src_key_padding_mask=mask).sum()
    total.backward()  # type: ignore[no-untyped-call]


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def each(work: Callable[[list[Group]], None], batches: Sequence[list[Group]]) -> None:
    """Do the work for every batch."""
    for batch in batches:
        work(batch)


def training(task: Task, config: ACMRConfig, windows: int) -> dict[str, float]:
    """Seconds per epoch of each, from the first `windows` windows."""
    stage = Stage(config, task, Run(0, "cpu", NoRows(), QuietMonitor()))
    generator = stage.fresh()
    weights = stage.initial(generator)
    model = adam(weights, config.learning_rate, generator, weight_decay=config.weight_decay)
    noise = Noise(config.dropout, generator)
    reader = Reader(stage.histories, config.heads, noise, with_candidate=False)
    rows = Rows(stage.layout, config.negatives, "cpu")
    size = config.dimensions
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(size, config.heads, 4 * size, config.dropout, batch_first=True),
        config.layers,
        enable_nested_tensor=False,
    )

    def steps(batches: Sequence[Sized]) -> None:
        for batch in batches:
            loss = bce(reader.logits(weights, batch))
            model.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            model.optimizer.step()

    def window(batches: Sequence[Sized]) -> None:
        shapes = [groups(reader, batch) for batch in batches]
        times["epoch"] += seconds(lambda: steps(batches))
        times["layers"] += seconds(lambda: each(lambda shape: layers_alone(config, weights, noise, shape), shapes))
        times["torch"] += seconds(lambda: each(lambda shape: torch_alone(encoder, size, shape), shapes))
        counts["pairs"] += sum(len(batch.user) for batch in batches)
        counts["places"] += sum(a * b for shape in shapes for a, b in shape)

    times, counts = {"epoch": 0.0, "layers": 0.0, "torch": 0.0}, {"pairs": 0, "places": 0}
    epoch = reader.arrange(rows.batches(WINDOW * config.batch_size, generator), config.batch_size, generator)
    drawn: list[Sized] = []
    for _ in range(windows):
        begin = time.process_time()
        drawn = list(islice(epoch, WINDOW))
        times["epoch"] += time.process_time() - begin
        window(drawn)
    sequences = drawn[-1].item.numel()
    one = seconds(lambda: torch_alone(encoder, size, [(config.length + 1, sequences)], absent=config.length - 8))
    found = {name: value * len(rows) / counts["pairs"] for name, value in times.items()}
    found["torch, padded"] = one * len(rows) / len(drawn[-1].user)
    return found | {"places per sequence": counts["places"] / counts["pairs"] / (1 + config.negatives)}


def scoring(task: Task, config: ACMRConfig, users: int) -> dict[str, float]:
    """Microseconds per pair: whole catalogues, and lists of 100."""
    stage = Stage(config, task, Run(0, "cpu", NoRows(), QuietMonitor()))
    served = stage.served(stage.initial(stage.fresh()), task.target)
    some = np.random.default_rng(0).permutation(task.target.n_users)[:users]
    lists = np.random.default_rng(0).integers(0, task.target.n_items, (len(some), 100))
    whole = np.arange(task.target.n_items)[None]
    return {
        "catalogue": seconds(lambda: score_pairs(NAME, served, some, whole, "cpu")) / whole.size / len(some) * 1e6,
        "lists": seconds(lambda: score_pairs(NAME, served, some, lists, "cpu")) / lists.size * 1e6,
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", type=Path, help="XMarket files; default: the synthetic corpus")
    options.add_argument("--windows", type=int, default=6, help="windows of the epoch that are measured")
    options.add_argument("--users", type=int, default=60, help="users that are scored")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    corpus = read_corpus(chosen.data, name="data", layout=FileLayout(kind="xmarket")) if chosen.data else synthetic()
    split, config = make_split(corpus, SplitSpec()), ACMRConfig()
    target, *sources = sorted(corpus.markets, key=lambda name: -len(corpus.markets[name]))
    task = split.task(target, sources)
    times = training(task, config, chosen.windows)
    ratios = {name: round(times["epoch"] / times[name], 2) for name in ("layers", "torch", "torch, padded")}
    report = {
        "seconds_per_epoch": {name: round(value, 2) for name, value in times.items()},
        "epoch_over": ratios,
        "microseconds_per_scored_pair": {k: round(v, 1) for k, v in scoring(task, config, chosen.users).items()},
        "catalogue_pairs_of_all_markets": sum(len(m.users) * len(m.catalogue) for m in corpus.markets.values()),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
