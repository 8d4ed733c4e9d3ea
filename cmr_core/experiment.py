"""One job, from spec to numbers: split, task, fit, evaluate. The same path for worker, command line and tests."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch

from cmr_core.data.given import resolve
from cmr_core.data.lists import Lists
from cmr_core.data.market import Corpus
from cmr_core.data.sampling import Candidates, Part, sample_candidates
from cmr_core.data.split import MarketSplit, Split, make_split
from cmr_core.errors import Cancelled, DataError, DeviceError, SpecError
from cmr_core.evaluation.evaluate import LISTS, Evaluation, Judge, Score, asks_lists_only, evaluate
from cmr_core.interfaces import Fitted, ListScoring, Monitor, Progress, Recommender, Run, Task
from cmr_core.models.registry import MethodInfo, get
from cmr_core.spec import Device, JobSpec
from cmr_core.training.memory import PeakMemory
from cmr_core.training.monitor import PrefixedMonitor, Recorder, StageTime

Find = Callable[[JobSpec], Recommender | None]


@dataclass(frozen=True)
class Outcome:
    """Everything that a finished job knows."""

    recommender: Recommender
    test: Evaluation
    valid: Evaluation
    curves: list[tuple[str, int, str, float]]  # stage, step, metric, value
    stages: list[StageTime]
    environment: dict[str, str]  # versions, hardware, processor time and peak memory of the run's last attempt
    seconds: float


def run(
    spec: JobSpec, corpus: Corpus, monitor: Monitor, *, lists: Lists | None = None, find: Find = lambda _: None
) -> Outcome:
    """Run one job. Deterministic in (spec, corpus) on one device.

    `lists` are the imported candidate lists that the evaluation names, if it names any. `find` looks up what a finished
    job of a given spec has fitted: members of a combination that it does not know are fitted here.

    Raises SpecError (a market, method, setting or list that does not exist), DataError (a corpus that cannot be split,
    or lists that do not fit it), DeviceError, TrainingError, Cancelled.
    """
    started, busy = time.perf_counter(), time.process_time()
    method = check(spec, corpus)
    device = torch_device(spec.budget.device)
    memory = PeakMemory(device)
    recorder = Recorder(monitor)
    drawn = spec.drawn()
    split = make_split(corpus, drawn.split)
    exam = _exam(drawn, corpus, split, lists)
    _step(recorder, "split", 1, 1)
    seed_everything(spec.seed)
    task = split.task(spec.target, spec.sources if method.uses_sources else ())
    context = Run(spec.seed, device, Judge(split, drawn.evaluation, target=spec.target, given=exam.given), recorder)
    members = tuple(_member(job, split, context, find, at) for at, job in enumerate(member_jobs(spec), start=1))
    recommender = method.create(spec.settings).fit(task, replace(context, members=members))
    first = exam.share(recommender)  # in percent, as validation and test ask for different numbers of scores
    rest = 100 - first
    valid = exam.take(recommender, "valid", lambda done, total: _step(recorder, "evaluate", first * done // total, 100))
    test = exam.take(
        recommender, "test", lambda done, total: _step(recorder, "evaluate", first + rest * done // total, 100)
    )
    seconds = time.perf_counter() - started
    around = environment(device) | memory.mib() | {"processor_seconds": f"{time.process_time() - busy:.2f}"}
    return Outcome(recommender, test, valid, recorder.curves, recorder.stages, around, seconds)


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
    _check_revision(method, spec.revision)
    if method.combines != bool(spec.members):
        raise SpecError(
            f"{method.label} combines other methods, and the job names none."
            if method.combines
            else f"{method.label} does not combine methods, but the job names members.",
            hint="Name members exactly for a combining method.",
        )
    for member in spec.members:
        if get(member.method).combines:
            raise SpecError(f"{member.method} is a combination itself.", hint="Name its members instead.")
        get(member.method).configure(member.settings)
        _check_revision(get(member.method), member.revision)
    if method.uses_sources and not spec.sources:
        raise SpecError(
            f"Method {spec.method!r} learns from source markets, and the job names none.",
            hint="Name at least one source market, or choose a single-market method.",
        )
    return method


def _check_revision(method: MethodInfo, asked: int) -> None:
    if method.revision != asked:
        raise SpecError(
            f"The job was made for revision {asked} of {method.label}, and revision {method.revision} is installed: "
            "the same settings give other numbers.",
            hint="Launch it again as a new run.",
        )


def member_jobs(spec: JobSpec) -> tuple[JobSpec, ...]:
    """The jobs whose models the job combines, as a study would launch them. Raises SpecError for unknown methods."""
    jobs = []
    for member in spec.members:
        info = get(member.method)
        settings = {k: v for k, v in info.configure(member.settings).model_dump(mode="json").items() if v is not None}
        changes: dict[str, object] = {"method": info.name, "settings": settings, "members": ()}
        changes["revision"] = member.revision
        changes |= {} if info.uses_sources else {"sources": ()}
        changes |= {"seed": 0} if info.one_seed(spec.split) else {}
        jobs.append(spec.model_copy(update=changes))
    return tuple(jobs)


def _member(job: JobSpec, split: Split, context: Run, find: Find, at: int) -> Fitted:
    info = get(job.method)
    seeded = replace(context, seed=job.seed)

    def refit(task: Task, monitor: Monitor) -> Recommender:
        own = replace(task, sources=()) if not info.uses_sources else task
        return info.create(job.settings).fit(own, replace(seeded, monitor=monitor))

    found = find(job)
    if found is None:
        found = refit(split.task(job.target, job.sources), PrefixedMonitor(context.monitor, f"member {at}: "))
    return Fitted(info.named(job.settings), found, refit)


def torch_device(device: Device) -> str:
    """The torch device for "cpu" or "gpu". Raises DeviceError where there is no GPU: nothing falls back.

    With "gpu" the process uses from now on only algorithms that give the same result every time: many sums on a GPU
    otherwise come in whatever order its threads end in, and the same seed no longer gives the same model.
    """
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError("The job asks for a GPU and this machine has none.", hint="Choose cpu, or a GPU worker.")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, when the first product is made
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # we read nothing that nobody wrote
    return "cuda:0"


def settle(threads: int | None = None) -> None:
    """How this process computes on the CPU; to be called before its first operation of torch. None: its own threads.

    Torch takes the widest vector instructions of a machine, and sums of eight numbers round otherwise than sums of
    sixteen: after some hundred steps the same seed would have trained another model where there is AVX-512. So there
    it keeps to AVX2, which cost NeuMF and Wide&Deep no time, unless the variable ATEN_CPU_CAPABILITY says
    otherwise. oneDNN, to which torch leaves GELU, chooses by itself and is told the same, unless ONEDNN_MAX_CPU_ISA or
    its old name is set. What the libraries of matrix products (MKL, OpenBLAS) choose for a processor is left to them:
    the latter does so when NumPy is imported, and the last digits of closed forms differ (OPENBLAS_CORETYPE=Haswell).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if torch.cpu.get_capabilities().get("avx512_f"):
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
        if "DNNL_MAX_CPU_ISA" not in os.environ:
            os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


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
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


@dataclass(frozen=True)
class _Exam:
    """What the target's users are asked in validation and in the test."""

    spec: JobSpec
    split: Split
    given: Mapping[str, Candidates] | None
    test: MarketSplit  # the target; its test part may be an imported one

    def market(self, part: Part) -> MarketSplit:
        return self.test if part == "test" else self.split.markets[self.spec.target]

    def share(self, recommender: Recommender) -> int:
        """Percent of the time that validation takes: half of it, or next to none without a pass over the catalogue."""
        listed = self.spec.evaluation.candidates != "catalogue"
        return 2 if listed and asks_lists_only(_scorer(recommender), lists=0) else 50

    def take(self, recommender: Recommender, part: Part, watch: Callable[[int, int], None]) -> Evaluation:
        # own items are those of the split, also where another test takes the place of its test part
        drawn = sample_candidates(self.split, self.spec.target, part, self.spec.evaluation, given=self.given)
        lists = LISTS if part == "test" else 0  # nobody looks at the lists of validation
        rule, market = self.spec.evaluation, self.market(part)
        return evaluate(_scorer(recommender), market, part, rule, drawn, lists=lists, watch=watch)


def _scorer(recommender: Recommender) -> Score | ListScoring:
    return recommender if isinstance(recommender, ListScoring) else recommender.score


def _exam(spec: JobSpec, corpus: Corpus, split: Split, lists: Lists | None) -> _Exam:
    """Raises SpecError where `lists` are not what the job names, DataError where they fit nobody."""
    wanted, there = spec.evaluation.given, None if lists is None else lists.digest
    if wanted != there:
        raise SpecError(
            f"The job asks for {_named(wanted)}, but {_named(there)} came with it.",
            hint="Hand over the lists that the job names, and none to a job that names none.",
        )
    own = split.markets[spec.target]
    if lists is None:
        return _Exam(spec, split, None, own)
    if lists.market != spec.target:
        raise SpecError(
            f"The candidate lists are for market {lists.market!r}, and the target is {spec.target!r}.",
            hint="Import lists for the target.",
        )
    given = resolve(lists, corpus)
    exam = _Exam(
        spec, split, {own.name: given.candidates}, own if given.held is None else replace(own, test=given.held)
    )
    for part, held in (("validation", own.valid), ("test", exam.test.test)):
        if not np.isin(held.user, given.candidates.users).any():
            raise DataError(
                f"None of the {len(given.candidates.users)} listed users has an interaction in {part}.",
                hint="Choose a split that holds some of their interactions out.",
            )
    return exam


def _named(digest: str | None) -> str:
    return "no candidate lists" if digest is None else f"candidate lists {digest[:12]}"


def _step(monitor: Monitor, stage: str, done: int, total: int) -> None:
    monitor.report(Progress(stage, done, total))
    if monitor.cancelled():
        raise Cancelled("The run was stopped on request.")
