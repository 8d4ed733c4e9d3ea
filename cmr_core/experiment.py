"""One job, from spec to numbers: split, task, fit, evaluate. The same path for worker, command line and tests."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from cmr_core.data.market import Corpus
from cmr_core.data.sampling import Candidates, Part, sample_candidates
from cmr_core.data.split import Split, make_split
from cmr_core.errors import Cancelled, DeviceError, SpecError
from cmr_core.evaluation.evaluate import Evaluation, Judge, evaluate
from cmr_core.interfaces import Monitor, Progress, Recommender, Run
from cmr_core.models.registry import MethodInfo, get
from cmr_core.spec import Device, JobSpec
from cmr_core.training.monitor import Recorder, StageTime


@dataclass(frozen=True)
class Outcome:
    """Everything that a finished job knows."""

    recommender: Recommender
    test: Evaluation
    valid: Evaluation
    curves: list[tuple[str, int, str, float]]  # stage, step, metric, value
    stages: list[StageTime]
    environment: dict[str, str]
    seconds: float


def run(spec: JobSpec, corpus: Corpus, monitor: Monitor, *, given: Mapping[str, Candidates] | None = None) -> Outcome:
    """Run one job. Deterministic in (spec, corpus) on one device.

    `given` holds imported candidate lists by market, for evaluations that ask for them.

    Raises SpecError (a market, method or setting that does not exist), DataError (a corpus that cannot be split),
    DeviceError, TrainingError, Cancelled.
    """
    started = time.perf_counter()
    method = check(spec, corpus)
    device = torch_device(spec.budget.device)
    recorder = Recorder(monitor)
    split = make_split(corpus, spec.split)
    _step(recorder, "split", 1, 1)
    seed_everything(spec.seed)
    task = split.task(spec.target, spec.sources if method.uses_sources else ())
    context = Run(spec.seed, device, Judge(split, spec.evaluation, target=spec.target, given=given), recorder)
    recommender = method.create(spec.settings).fit(task, context)
    valid = _evaluate(recommender, split, spec, "valid", given)
    _step(recorder, "evaluate", 1, 2)
    test = _evaluate(recommender, split, spec, "test", given)
    _step(recorder, "evaluate", 2, 2)
    seconds = time.perf_counter() - started
    return Outcome(recommender, test, valid, recorder.curves, recorder.stages, environment(device), seconds)


def check(spec: JobSpec, corpus: Corpus) -> MethodInfo:
    """The job's method, once corpus, markets, method and settings are found to fit. Raises SpecError."""
    if spec.corpus != corpus.digest:
        raise SpecError(
            f"The job is about corpus {spec.corpus[:12]}, but the data at hand are corpus {corpus.digest[:12]}.",
            hint="Load the data that the job names, or put their digest into the job.",
        )
    unknown = [name for name in (spec.target, *spec.sources) if name not in corpus.markets]
    if unknown:
        raise SpecError(
            f"Corpus {corpus.name!r} has no market {', '.join(map(repr, unknown))}.",
            hint=f"It has: {', '.join(sorted(corpus.markets))}.",
        )
    method = get(spec.method)
    method.configure(spec.settings)
    if method.uses_sources and not spec.sources:
        raise SpecError(
            f"Method {spec.method!r} learns from source markets, and the job names none.",
            hint="Name at least one source market, or choose a single-market method.",
        )
    return method


def torch_device(device: Device) -> str:
    """The torch device for "cpu" or "gpu". Raises DeviceError where there is no GPU: nothing falls back."""
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError("The job asks for a GPU and this machine has none.", hint="Choose cpu, or a GPU worker.")
    return "cuda:0"


def seed_everything(seed: int) -> None:
    """Seed the global generators; methods draw from generators of their own, libraries may not."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def environment(device: str) -> dict[str, str]:
    """Versions and hardware that the numbers were made with."""
    name = torch.cuda.get_device_name(device) if device != "cpu" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
        "threads": str(torch.get_num_threads()),
    }


def _evaluate(
    recommender: Recommender, split: Split, spec: JobSpec, part: Part, given: Mapping[str, Candidates] | None
) -> Evaluation:
    candidates = sample_candidates(split, spec.target, part, spec.evaluation, given=given)
    return evaluate(recommender.score, split.markets[spec.target], part, spec.evaluation, candidates)


def _step(monitor: Monitor, stage: str, done: int, total: int) -> None:
    monitor.report(Progress(stage, done, total))
    if monitor.cancelled():
        raise Cancelled("The run was stopped on request.")
