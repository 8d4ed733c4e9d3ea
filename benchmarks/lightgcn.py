"""LightGCN's training: ours, PyG's LightGCN as in its example, and RecBole 1.2.1, in one run.

    python benchmarks/lightgcn.py [--data FILE ...] [--epochs 5] [--recbole PYTHON]

All users and items as one market (default: the synthetic corpus), 90 % of each user's pairs for training. Same
dimensions, layers, batch, learning rate, weight decay, start and number of epochs, one thread. RecBole needs an
environment of its own: `--recbole` names its Python (setuptools<81 numpy<2 pandas<2.3 scipy<1.13 recbole==1.2.1).
Prints JSON: processor seconds of an epoch (median), how many times faster ours is, NDCG@10 on the held-out
pairs after the last epoch, judged by the same code for all, and the proof that they train the same model: the largest
difference of any final vector's entry from ours after some steps from the same start on the same triples.
`--pyg-epochs` spares hours where PyG's epochs take minutes: its NDCG@10 is then of fewer epochs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.market import Corpus
from cmr_core.data.synthetic import synthetic
from cmr_core.interfaces import FloatArray, IntArray, ListScoring, MarketView, Pairs, Progress, Run
from cmr_core.models.embedding import Training, fit_embedding, random_start
from cmr_core.models.graph import market_graph
from cmr_core.models.lightgcn import market_nodes
from cmr_core.models.negatives import Triples
from cmr_core.training.monitor import QuietMonitor

PEER = Path(__file__).parent / "peers" / "recbole_lightgcn.py"
SAME_STEPS = 10
Result = tuple[list[float], FloatArray, FloatArray]
"""Seconds of each epoch, user vectors (n_users, D), item vectors (n_items, D)."""


class Given(Triples):
    """A start (nodes, D) and batches that all must train on: (3, n) nodes."""

    def __init__(self, start: torch.Tensor, rows: torch.Tensor) -> None:
        self.start, self.rows = start, rows

    def __len__(self) -> int:
        return self.rows.shape[1]

    def epoch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Always the same."""
        user, positive, negative = self.rows
        return user, positive, negative

    @staticmethod
    def of(view: MarketView, training: Training) -> Given:
        """Some steps' worth, on items that have training pairs: RecBole knows no others."""
        generator = torch.Generator().manual_seed(1)
        start = random_start(view.n_users + view.n_items, training.dimensions, generator)
        rows = torch.stack(Triples([view], "cpu", catalogues=False).epoch(generator))
        rows = rows[:, torch.isin(rows[2], rows[1])]
        return Given(start, rows[:, : SAME_STEPS * training.batch_size])


def one_market(corpus: Corpus, seed: int = 0) -> tuple[MarketView, Pairs]:
    """Everything as one market: 90 % of the different pairs of each user for training, the rest held out."""
    sizes = np.cumsum([0, *(len(market.users) for market in corpus.markets.values())])
    keys = np.unique(
        np.concatenate(
            [
                (market.user.astype(np.int64) + start) * len(corpus.items) + market.item
                for market, start in zip(corpus.markets.values(), sizes, strict=False)
            ]
        )
    )
    keys = np.random.default_rng(seed).permutation(keys)
    user, item = keys // len(corpus.items), keys % len(corpus.items)
    order = np.argsort(user, kind="stable")
    user, item = user[order].astype(np.int32), item[order].astype(np.int32)
    count = np.bincount(user)
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    held = place < count[user] // 10
    parts = [Pairs(user[m], item[m], np.full(int(m.sum()), -1, dtype=np.int32)) for m in (~held, held)]
    return MarketView("all", int(sizes[-1]), np.arange(len(corpus.items), dtype=np.int32), parts[0]), parts[1]


class Way(Protocol):
    """One that trains."""

    def __call__(self, view: MarketView, training: Training, *, given: Given | None = None) -> Result:
        """On its own samples, or on given ones."""


class Clock(QuietMonitor):
    """Notes the processor time at each report."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def report(self, progress: Progress) -> None:
        """One more epoch is over."""
        self.times.append(time.process_time())


class NoRows:
    """A validator without rows: training only."""

    digest = "none"

    def __call__(
        self, market: str, score: Callable[[IntArray], FloatArray] | ListScoring, *, users: int | None = None
    ) -> float:
        """Nothing to judge by."""
        return float("nan")


def ours(view: MarketView, training: Training, given: Given | None = None) -> Result:
    """As the project trains it."""
    graph, clock = market_graph(view, "cpu"), Clock()
    generator = torch.Generator().manual_seed(0)
    start = given.start if given else random_start(graph.n_nodes, training.dimensions, generator)
    triples = given or Triples([view], "cpu", catalogues=False)
    run = Run(0, "cpu", NoRows(), clock)

    def propagate(table: torch.Tensor) -> torch.Tensor:
        return graph.mean_layers(table, training.layers)

    fitted = fit_embedding(
        "benchmark", start, propagate, triples, generator, training, run, {"all": market_nodes(view)}
    )
    final = propagate(torch.from_numpy(fitted["embedding"])).numpy()
    return np.diff(clock.times).tolist(), final[: view.n_users], final[view.n_users :]


def pyg(view: MarketView, training: Training, given: Given | None = None) -> Result:
    """`torch_geometric.nn.LightGCN` on a plain `edge_index` with unchecked negatives, as in PyG's own example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import LightGCN
    torch.manual_seed(0)
    pairs = torch.from_numpy(np.stack([view.train.user, view.train.item + view.n_users])).long()
    both = torch.cat([pairs, pairs.flip(0)], dim=1)
    model = LightGCN(view.n_users + view.n_items, training.dimensions, training.layers)
    torch.nn.init.normal_(model.embedding.weight, std=0.1)
    if given:
        model.embedding.weight.data.copy_(given.start)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    times = []
    for _ in range(training.epochs):
        begin = time.process_time()
        if given:
            rows = given.rows
        else:
            order = torch.randperm(pairs.shape[1])
            other = torch.randint(view.n_users, view.n_users + view.n_items, (len(order),))
            rows = torch.cat([pairs[:, order], other[None]])
        for user, positive, other in torch.split(rows, training.batch_size, dim=1):
            asked = torch.stack([torch.cat([user, user]), torch.cat([positive, other])])
            optimizer.zero_grad()
            good, bad = model(both, asked).chunk(2)
            used = torch.cat([user, positive, other])
            loss = functional.softplus(bad - good).mean()
            loss = loss + training.l2 * model.embedding(used).square().sum() / (2 * len(user))
            loss.backward()
            optimizer.step()
        times.append(time.process_time() - begin)
    with torch.no_grad():
        final = model.get_embedding(both).numpy()
    return times, final[: view.n_users], final[view.n_users :]


def recbole(view: MarketView, training: Training, python: str, given: Given | None = None) -> Result:
    """RecBole's LightGCN in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        np.savez(where / "pairs.npz", user=view.train.user, item=view.train.item)
        if given:
            np.savez(where / "given.npz", start=given.start.numpy(), triples=given.rows.numpy())
        sizes = {"n_users": view.n_users, "n_items": view.n_items}
        (where / "job.json").write_text(json.dumps(training.model_dump() | sizes))
        subprocess.run([python, str(PEER.resolve()), folder], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        result = np.load(where / "result.npz")
        return result["seconds"].tolist(), result["user"], result["item"]


def differences(ways: dict[str, Way], view: MarketView, training: Training) -> dict[str, float]:
    """How far each one's vectors are from ours after the same steps from the same start."""
    given, once = Given.of(view, training), training.model_copy(update={"epochs": 1})
    found = {name: np.concatenate(way(view, once, given=given)[1:]) for name, way in ways.items()}
    known = np.unique(np.concatenate([view.train.user, view.train.item + view.n_users]))
    return {name: float(np.abs(vectors - found["ours"])[known].max()) for name, vectors in found.items()}


def ndcg(result: Result, view: MarketView, held: Pairs, k: int = 10) -> float:
    """NDCG@k over the whole catalogue without the user's training items; mean over users with held-out pairs."""
    _, user, item = result
    discount = 1 / np.log2(np.arange(2, k + 2))
    wanted: dict[int, set[int]] = {}
    for who, what in zip(held.user.tolist(), held.item.tolist(), strict=True):
        wanted.setdefault(who, set()).add(what)
    starts = np.searchsorted(view.train.user, np.arange(view.n_users + 1))
    values = []
    for who, items in wanted.items():
        scores = item @ user[who]
        scores[view.train.item[starts[who] : starts[who + 1]]] = -np.inf
        top = np.argsort(-scores)[:k]
        gain = sum(d for d, found in zip(discount, top.tolist(), strict=True) if found in items)
        values.append(gain / discount[: min(len(items), k)].sum())
    return float(np.mean(values))


def main() -> None:
    """Train with each and print the comparison."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", type=Path, help="XMarket files; default: the synthetic corpus")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--batch", type=int, default=2048)
    options.add_argument("--pyg-epochs", type=int, help="default: as many as the others")
    options.add_argument("--learning-rate", type=float, default=1e-2)
    options.add_argument("--l2", type=float, default=1e-3)
    options.add_argument("--recbole", help="Python of an environment that has RecBole 1.2.1")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    corpus = read_corpus(chosen.data, name="data", layout=Layout(kind="xmarket")) if chosen.data else synthetic()
    view, held = one_market(corpus)
    training = Training(
        dimensions=64,
        layers=3,
        learning_rate=chosen.learning_rate,
        l2=chosen.l2,
        batch_size=chosen.batch,
        epochs=chosen.epochs,
        eval_every=1,
        patience=chosen.epochs + 1,
    )
    ways: dict[str, Way] = {"ours": ours}
    if chosen.recbole:
        ways["recbole"] = partial(recbole, python=chosen.recbole)
    ways["pyg"] = pyg
    fewer = {"pyg": training.model_copy(update={"epochs": chosen.pyg_epochs or chosen.epochs})}
    results = {name: way(view, fewer.get(name, training)) for name, way in ways.items()}
    apart = differences(ways, view, training)
    base = float(np.median(results["ours"][0]))
    rows = [
        {
            "name": name,
            "seconds_per_epoch": round(float(np.median(result[0])), 3),
            "ours_times_faster": round(float(np.median(result[0])) / base, 2),
            "epochs": fewer.get(name, training).epochs,
            "ndcg@10": round(ndcg(result, view, held), 4),
            f"difference after {SAME_STEPS} same steps": apart[name],
        }
        for name, result in results.items()
    ]
    size = {"users": view.n_users, "items": view.n_items, "pairs": len(view.train)}
    print(json.dumps({"size": size, "training": training.model_dump(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
