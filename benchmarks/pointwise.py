"""Pointwise training of NeuMF: ours and RecBole 1.2.1, in one run.

    python benchmarks/pointwise.py [--data FILE ...] [--dimensions 64] [--epochs 3] --recbole PYTHON

All users and items as one market (default: the synthetic corpus), 90 % of each user's pairs for training, four
negatives per pair. Same dimensions, tower, batch, learning rate, start and number of epochs, one thread, no dropout.
RecBole needs an environment of its own: `--recbole` names its Python (setuptools<81 numpy<2 pandas<2.3 scipy<1.13
recbole==1.2.1). The two take turns, a run of `--epochs` each, `--rounds` times, as other programs disturb both.

Prints JSON: examples per processor second (median over epochs), how many times as many ours are, NDCG@10 on the
held-out pairs of some users, judged by the same code, and the proof that both train the same network: the largest
difference of a loss over some steps from the same start on the same rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightgcn import Clock, NoRows, one_market

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout as Files
from cmr_core.data.synthetic import synthetic
from cmr_core.interfaces import Arrays, MarketView, Pairs, Run
from cmr_core.models.ncf import Sizes, neumf_start
from cmr_core.models.ncf_training import prepare
from cmr_core.models.neural import score_pairs
from cmr_core.models.pointwise import Batch, Layout, Rows, Steps, fit
from cmr_core.models.towers import Parameters

PEER = Path(__file__).parent / "peers" / "recbole_neumf.py"
SAME_STEPS, NEGATIVES, JUDGED, CUTOFF = 10, 4, 1000, 10


class Trained(NamedTuple):
    """What one of the two has done."""

    seconds: list[float]  # of each epoch
    losses: list[float]  # of the same steps
    weights: Arrays


def begin(sizes: Sizes) -> Parameters:
    """The start of both."""
    return neumf_start(sizes, torch.Generator().manual_seed(0))


def same_rows(view: MarketView, batch: int) -> list[Batch]:
    """Some steps' batches, on items that have training pairs: RecBole knows no others."""
    rows = Rows(Layout([view]), NEGATIVES, "cpu")
    known = torch.from_numpy(np.unique(view.train.item))
    kept: list[Batch] = []
    for drawn in rows.batches(batch, torch.Generator().manual_seed(1)):
        fine = torch.isin(drawn.item, known).all(dim=1)
        kept.append(Batch(*(part[fine] for part in drawn)))
    whole = Batch(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
    step = rows.pairs(batch)
    parts = (torch.split(part[: SAME_STEPS * step], step) for part in whole)
    return [Batch(*part) for part in zip(*parts, strict=True)]


def ours(view: MarketView, sizes: Sizes, steps: Steps) -> Trained:
    """As the project trains it."""
    losses, generator = [], torch.Generator().manual_seed(0)
    _, step = prepare("neumf", begin(sizes), generator, steps)
    for batch in same_rows(view, steps.batch_size):
        losses.append(float(step(batch)))
    rows, clock = Rows(Layout([view]), NEGATIVES, "cpu"), Clock()
    model, step = prepare("neumf", begin(sizes), generator, steps)

    def batches() -> Iterator[Batch]:
        return rows.batches(steps.batch_size, generator)

    run = Run(0, "cpu", NoRows(), clock)
    arrays = fit("benchmark", model, batches, step, lambda: float("nan"), steps, run)
    return Trained(np.diff(clock.times).tolist(), losses, {n: a for n, a in arrays.items() if n != "best"})


def recbole(view: MarketView, sizes: Sizes, steps: Steps, python: str) -> Trained:
    """RecBole's NeuMF in its own environment."""
    start: dict[str, Any] = {name: value.detach().numpy() for name, value in begin(sizes).items()}
    same = same_rows(view, steps.batch_size)
    job = steps.model_dump() | {"dimensions": sizes.dimensions, "tower": sizes.tower[1:], "negatives": NEGATIVES}
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        np.savez(where / "pairs.npz", user=view.train.user, item=view.train.item)
        given: dict[str, Any] = {
            "rows.user": torch.cat([b.user for b in same]),
            "rows.item": torch.cat([b.item for b in same]),
        }
        np.savez(where / "start.npz", **start, **{name: value.numpy() for name, value in given.items()})
        (where / "job.json").write_text(json.dumps(job | {"n_users": view.n_users, "n_items": view.n_items}))
        call = [python, str(PEER.resolve()), folder]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        result = dict(np.load(where / "result.npz"))
    return Trained(result.pop("seconds").tolist(), result.pop("losses").tolist(), result)


def quality(found: Trained, view: MarketView, held: Pairs) -> float:
    """NDCG@10 over the whole catalogue without training items; mean over some users with held-out pairs."""
    users = np.unique(held.user)
    users = np.sort(np.random.default_rng(0).choice(users, min(JUDGED, len(users)), replace=False))
    weights = {name: torch.from_numpy(value) for name, value in found.weights.items()}
    scores = score_pairs("neumf", weights, users, np.arange(view.n_items)[None], "cpu")
    had, wanted = (np.zeros(scores.shape, dtype=bool) for _ in range(2))
    for pairs, table in ((view.train, had), (held, wanted)):
        mine = np.isin(pairs.user, users)
        table[np.searchsorted(users, pairs.user[mine]), pairs.item[mine]] = True
    scores[had] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :CUTOFF]
    discount = 1 / np.log2(np.arange(2, CUTOFF + 2))
    ideal = np.cumsum(discount)[np.minimum(wanted.sum(1), CUTOFF) - 1]
    return float(np.mean((np.take_along_axis(wanted, top, 1) * discount).sum(1) / ideal))


def row(name: str, found: Trained, base: Trained, view: MarketView, held: Pairs) -> dict[str, str | float]:
    """One line of the comparison; `base` is ours."""
    examples = len(view.train) * (1 + NEGATIVES)
    apart = np.abs(np.array(found.losses) - np.array(base.losses))
    return {
        "name": name,
        "examples_per_second": round(examples / float(np.median(found.seconds))),
        "ours_times_as_many": round(float(np.median(found.seconds)) / float(np.median(base.seconds)), 2),
        "ndcg@10": round(quality(found, view, held), 4),
        f"loss apart in {SAME_STEPS} same steps": float(apart.max()),
    }


def main() -> None:
    """Train with each in turn and print the comparison."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", nargs="+", type=Path, help="XMarket files; default: the synthetic corpus")
    options.add_argument("--dimensions", type=int, default=64)
    options.add_argument("--units", type=int, default=64)
    options.add_argument("--batch", type=int, default=2048)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--recbole", required=True, help="Python of an environment that has RecBole 1.2.1")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    corpus = read_corpus(chosen.data, name="data", layout=Files(kind="xmarket")) if chosen.data else synthetic()
    view, held = one_market(corpus)
    sizes = Sizes(users=view.n_users, items=view.n_items, dimensions=chosen.dimensions, units=chosen.units)
    steps = Steps(
        learning_rate=chosen.learning_rate,
        weight_decay=0,
        batch_size=chosen.batch,
        epochs=chosen.epochs,
        eval_every=chosen.epochs,
        patience=1,
    )
    found: dict[str, list[Trained]] = {"ours": [], "recbole": []}
    for _ in range(chosen.rounds):
        found["ours"].append(ours(view, sizes, steps))
        found["recbole"].append(recbole(view, sizes, steps, chosen.recbole))
    merged = {name: runs[-1]._replace(seconds=[s for r in runs for s in r.seconds]) for name, runs in found.items()}
    rows = [row(name, one, merged["ours"], view, held) for name, one in merged.items()]
    print(json.dumps({"sizes": sizes.model_dump(), "steps": steps.model_dump(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
