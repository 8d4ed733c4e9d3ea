"""DCMPT's prompt tuning: our propagation against the naive one, and a whole adaptation, in one run.

    python benchmarks/dcmpt_step.py [--data FILE ...] [--target uk] [--repeats 30]

Leave-one-out (latest), other markets as sources; without files: synthetic markets. Three ways to propagate, same
losses, same draws, steps of 512 users (the default) and of 16 (the paper's batch):
  ours        N x M attention, symmetric gradient (what the product runs)
  naive       all N x D features, symmetric gradient
  stock       all N x D features, torch's own sparse product and gradient
Prints JSON: milliseconds of processor time (one thread, median) of the propagation alone (forward and backward) and
of a whole step, the largest difference between loss curves, and the seconds of a whole adaptation when the backbone
is given (teacher and prompts are trained).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.split import Split, make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.evaluation.evaluate import Judge, evaluate
from cmr_core.interfaces import Run, Task
from cmr_core.models.adaptation import Adaptation
from cmr_core.models.dcmpt import DCMPT, freeze, make_student, prepare
from cmr_core.models.dcmpt_config import DCMPTConfig
from cmr_core.models.graph import Graph
from cmr_core.models.lightgcn import backbone
from cmr_core.models.student import Prompted, Propagation
from cmr_core.spec import EvalSpec, SplitSpec
from cmr_core.training.checkpoint import adam
from cmr_core.training.monitor import QuietMonitor, Recorder

STEPS = 20
PAPER_USERS = 16


@dataclass(frozen=True)
class StockGraph(Graph):
    """The same matrix, multiplied by torch's autograd."""

    def propagate(self, x: torch.Tensor) -> torch.Tensor:
        """One sparse product."""
        product: torch.Tensor = torch.sparse.mm(self.matrix, x)
        return product


def ways(config: DCMPTConfig, task: Task, run: Run) -> dict[str, Adaptation]:
    """The adaptation, propagated in three ways."""
    frozen = freeze(config, task, run)
    student = make_student(config, frozen.field)
    ours, _ = prepare(config, task, run, frozen, student)
    graph = frozen.field.graph
    field = replace(
        frozen.field, graph=StockGraph(graph.matrix.to_sparse(layout=torch.sparse_coo).coalesce(), graph.degree)
    )
    stock = make_student(config, frozen.field)
    assert isinstance(stock, Prompted), "no ablation"
    stock.field = field
    naive: Propagation = "naive"
    return {
        "ours": ours,
        "naive": replace(ours, propagation=naive),
        "stock": replace(ours, student=stock, propagation=naive),
    }


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median processor time in milliseconds, after one call that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times), 2)


def measure(way: Adaptation, n_users: int, repeats: int) -> tuple[dict[str, float], list[float]]:
    """Times of the propagation and of a step; and the losses of the first steps."""
    generator = torch.Generator().manual_seed(0)
    model = adam(way.student.initial(generator), 1e-3, generator)
    users = way.users[:n_users]
    curve = [
        float(way.step(users, model.parameters, model.optimizer, generator)["loss"]) for _ in range(STEPS)
    ]  # fmt: skip
    incoming = torch.randn(way.student.n_users + way.market.n_items, way.config.dimensions)

    def propagation() -> None:
        tables = way.student.tables(model.parameters, way.propagation)
        torch.autograd.grad((tables * incoming).sum(), list(model.parameters.values()))

    def step() -> None:
        way.step(users, model.parameters, model.optimizer, generator)

    return {"propagation ms": median_ms(propagation, repeats), "step ms": median_ms(step, repeats)}, curve


def compare(found_ways: dict[str, Adaptation], n_users: int, repeats: int) -> dict[str, object]:
    """All ways, side by side, on steps of so many users."""
    found = {name: measure(way, n_users, repeats) for name, way in found_ways.items()}
    times: dict[str, dict[str, float]] = {name: time for name, (time, _) in found.items()}
    curves = [curve for _, curve in found.values()]
    gap = max(abs(a - b) for curve in curves for a, b in zip(curve, curves[0], strict=True))
    ratio: dict[str, object] = {
        f"{other} / ours, {what}": round(times[other][f"{what} ms"] / times["ours"][f"{what} ms"], 2)
        for other in ("naive", "stock")
        for what in ("propagation", "step")
    }
    return {**times, **ratio, f"largest loss difference over {STEPS} steps": gap}


def whole(config: DCMPTConfig, split: Split, task: Task, run: Run) -> dict[str, object]:
    """Teacher and prompts with a given backbone: seconds by stage, and the test metric."""
    recorder = Recorder(run.monitor)
    start, processor = time.perf_counter(), time.process_time()
    fitted = DCMPT(config).fit(task, replace(run, monitor=recorder))
    seconds, busy = time.perf_counter() - start, time.process_time() - processor
    found = evaluate(fitted.score, split.markets[task.target.name], "test", EvalSpec(), None).means()
    stages = {stage.name: round(stage.seconds, 1) for stage in recorder.stages}
    return {
        "seconds": round(seconds, 1),
        "processor seconds": round(busy, 1),
        "stages": stages,
        "epochs": fitted.details["prompt epochs"],
        "test ndcg@10": round(found["ndcg@10"], 4),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--target", default="uk")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = synthetic()
    if arguments.data:
        corpus = read_corpus(arguments.data, name="benchmark", layout=Layout(kind="xmarket"))
    split = make_split(corpus, SplitSpec(kind="leave-one-out", order="latest"))
    task = split.task(arguments.target, [name for name in split.markets if name != arguments.target])
    run = Run(0, "cpu", Judge(split, EvalSpec()), QuietMonitor())
    config = DCMPTConfig()
    start = time.perf_counter()
    backbone(task, run, config.backbone())
    result: dict[str, object] = {"target": arguments.target, "users": task.target.n_users, "items": task.target.n_items}
    result["backbone seconds"] = round(time.perf_counter() - start, 1)
    result["whole adaptation"] = whole(config, split, task, run)
    for graph in ("target", "combined"):
        found = ways(config.model_copy(update={"student_graph": graph}), task, run)
        for n_users in (config.users_per_step, PAPER_USERS):
            result[f"{graph} graph, {n_users} users a step"] = compare(found, n_users, arguments.repeats)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
