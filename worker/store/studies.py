"""Studies: what an analyst launches, expanded into runs. Everything is checked before a single row is made."""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cmr_core.errors import NotFoundError, SpecError
from cmr_core.spec import JobSpec, Member, MethodChoice, Protocol, Scalar, SourceSet, StudySpec, parse
from worker.store.audit import Actor, record, require
from worker.store.clock import now
from worker.store.corpora import dated_markets, find_corpus, get_corpus, market_names
from worker.store.lists import check_lists
from worker.store.runs import find_or_create
from worker.store.session import Store, lock
from worker.store.tables import USABLE, CorpusRow, RunRow, StudyRow, StudyRunRow

if TYPE_CHECKING:
    from cmr_core.models.registry import MethodInfo

MOST_RUNS = 5000
DEFAULT_SECONDS = 60.0  # of a run of a method that has never run here


@dataclass(frozen=True)
class Launched:
    """A study's runs: those made for it (send them to the queue), and those that existed already."""

    study_id: str
    created: list[str]
    reused: list[str]


@dataclass(frozen=True)
class Estimate:
    """What a study would cost. `seconds` is the work of the new runs, one after the other; `known` of them are
    guessed from earlier runs of the same method, the others at a minute each."""

    runs: int
    reused: int
    seconds: float
    known: int


@dataclass(frozen=True)
class Labelled:
    """A job and its name in tables."""

    spec: JobSpec
    label: str


def expand(spec: StudySpec, corpus: CorpusRow) -> list[JobSpec]:
    """The study's jobs, each once. Raises SpecError for whatever could not run."""
    return [job.spec for job in expand_labelled(spec, corpus)]


def expand_labelled(spec: StudySpec, corpus: CorpusRow) -> list[Labelled]:
    """As `expand`, with the label of each job."""
    targets = _targets(spec, corpus)
    for protocol in spec.protocols:
        _check_protocol(protocol, corpus)
    _check_size(spec, corpus, targets)
    configurations = [found for choice in spec.methods for found in _configurations(choice)]
    jobs: dict[str, Labelled] = {}
    for (info, label, settings, members), protocol, target in itertools.product(
        configurations, spec.protocols, targets
    ):
        chosen = _source_sets(spec, info, corpus, target)
        for sources, seed in itertools.product(chosen, spec.seeds[:1] if info.one_seed(protocol.split) else spec.seeds):
            job = JobSpec(
                corpus=corpus.digest,
                target=target,
                sources=sources,
                method=info.name,
                revision=info.revision,
                settings=settings,
                members=members,
                split=protocol.split,
                evaluation=protocol.evaluation,
                seed=seed,
                budget=spec.budget,
            )
            jobs.setdefault(job.fingerprint(), Labelled(job, label))
    return list(jobs.values())


def launch_study(store: Store, actor: Actor, spec: StudySpec) -> Launched:
    """Store the study and the runs that are not there yet. Send `created` to the queue afterwards.

    The same study, launched again, goes on under its id; runs that failed or were cancelled give their places to new
    ones. Raises SpecError or NotFoundError before anything is written.
    """
    require(actor, "launch")
    jobs = expand_labelled(spec, get_corpus(store, spec.corpus))
    body = spec.model_dump(mode="json")
    with store.begin() as session:
        lock(session, "launch")
        for job in jobs:
            check_lists(session, job.spec)
        named = session.scalars(select(StudyRow).where(StudyRow.name == spec.name).order_by(StudyRow.created_at))
        study = next((row for row in named if row.spec == body), None)
        if study is None:
            study = StudyRow(id=str(uuid.uuid4()), name=spec.name, spec=body, created_at=now(), created_by=actor.name)
            session.add(study)
            session.flush()
        launched = Launched(study.id, [], [])
        linked = select(RunRow.fingerprint, StudyRunRow).join(StudyRunRow).where(StudyRunRow.study_id == study.id)
        earlier = {str(row[0]): row[1] for row in session.execute(linked)}
        for job in jobs:
            run, created = find_or_create(session, store, actor, job.spec, job.label)
            (launched.created if created else launched.reused).append(run.id)
            link = earlier.get(run.fingerprint)
            if link is not None and link.run_id != run.id:
                session.delete(link)
            if link is None or link.run_id != run.id:
                session.add(StudyRunRow(study_id=study.id, run_id=run.id))
        counts = {"name": spec.name, "created": len(launched.created), "reused": len(launched.reused)}
        record(session, actor, "launch", study.id, counts)
    return launched


def estimate(store: Store, spec: StudySpec) -> Estimate:
    """How many runs the study makes and roughly how long they take. Raises SpecError, NotFoundError."""
    with store.read() as session:
        corpus = find_corpus(session, spec.corpus)
        jobs = expand_labelled(spec, corpus)
        known = RunRow.corpus == corpus.digest, RunRow.state.in_(USABLE)
        there = set(session.scalars(select(RunRow.fingerprint).where(*known)))
        past = _Past(session, corpus.digest)
        for job in jobs:
            check_lists(session, job.spec)
    new = [past.seconds(job.spec) for job in jobs if job.spec.fingerprint() not in there]
    seconds = sum(DEFAULT_SECONDS if guess is None else guess for guess in new)
    return Estimate(len(jobs), len(jobs) - len(new), seconds, sum(guess is not None for guess in new))


def list_studies(store: Store) -> list[StudyRow]:
    """All studies, newest first."""
    with store.read() as session:
        return list(session.scalars(select(StudyRow).order_by(StudyRow.created_at.desc(), StudyRow.id)))


def get_study(store: Store, study_id: str) -> StudyRow:
    """The study. Raises NotFoundError."""
    with store.read() as session:
        row = session.get(StudyRow, study_id.replace("\0", "")[:64])
    if row is None:
        raise NotFoundError(f"There is no study {study_id[:64]!r}.", hint="See the page Overview, or `cmr studies`.")
    return row


def find_study(store: Store, wanted: str) -> StudyRow:
    """The study with this id, or the newest one with this name. Raises NotFoundError."""
    named = [row for row in list_studies(store) if wanted in (row.name, row.id)]
    return named[0] if named else get_study(store, wanted)


def study_spec(row: StudyRow) -> StudySpec:
    """What was launched, to be launched again or changed. Raises SpecError for a spec of another version."""
    return parse(StudySpec, row.spec)


def _check_size(spec: StudySpec, corpus: CorpusRow, targets: list[str]) -> None:
    """Counts before anything is built: a few lists of values make more points than memory holds. Raises SpecError."""
    from cmr_core.models.registry import get

    runs = 0
    for choice in spec.methods:
        info = get(choice.method)
        points = math.prod(len(values) for values in choice.grid.values())
        sources = sum(len(_source_sets(spec, info, corpus, target)) for target in targets)
        seeds = sum(1 if info.one_seed(protocol.split) else len(spec.seeds) for protocol in spec.protocols)
        runs += points * sources * seeds
    if runs > MOST_RUNS:
        raise SpecError(f"The study makes {runs} runs; the limit is {MOST_RUNS}.", hint="Divide it.")


def _configurations(
    choice: MethodChoice,
) -> Iterator[tuple[MethodInfo, str, dict[str, Scalar], tuple[Member, ...]]]:
    from cmr_core.models.registry import get  # brings torch

    info = get(choice.method)
    if info.combines != bool(choice.members):
        named = "names none" if info.combines else "names members, and the method combines nothing"
        raise SpecError(f"{info.label}: the study {named}.", hint="Name members exactly for a combining method.")
    members = tuple(_member(member) for member in choice.members)
    double = sorted(set(choice.grid) & set(choice.settings))
    if double:
        raise SpecError(f"{choice.method}: {', '.join(double)} stands in settings and in the grid.", hint="Choose one.")
    for values in itertools.product(*choice.grid.values()):
        given = {**choice.settings, **dict(zip(choice.grid, values, strict=True))}
        settings = _written_out(info, given)
        point = ", ".join(f"{name}={value}" for name, value in zip(choice.grid, values, strict=True))
        label = info.named(settings) if choice.label is None else choice.label
        yield info, f"{choice.label} ({point})" if choice.label and point else label, settings, members


def _member(member: Member) -> Member:
    from cmr_core.models.registry import get

    info = get(member.method)
    if info.combines:
        raise SpecError(f"{info.label} is a combination itself.", hint="Name its members instead.")
    return Member(method=info.name, settings=_written_out(info, member.settings), revision=info.revision)


def _written_out(info: MethodInfo, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    # with the defaults, so that a later version's defaults do not change what a run was
    full = info.configure(given).model_dump(mode="json")
    return {name: value for name, value in full.items() if value is not None}


def _targets(spec: StudySpec, corpus: CorpusRow) -> list[str]:
    markets = market_names(corpus)
    unknown = [name for name in (*spec.targets, *(spec.sources or ())) if name not in markets]
    if unknown:
        raise SpecError(
            f"Corpus {corpus.name!r} has no market {', '.join(unknown)}.", hint=f"It has: {', '.join(markets)}."
        )
    if len(set(spec.targets)) != len(spec.targets):
        raise SpecError("A target market is named twice.", hint="Name each one once.")
    return list(spec.targets) or markets


def _source_sets(spec: StudySpec, info: MethodInfo, corpus: CorpusRow, target: str) -> list[tuple[str, ...]]:
    """The sources of each run, every choice once; a method without sources has one choice: none."""
    if not info.uses_sources:
        return [()]
    named = _sources(spec, info, corpus, target)
    sets: dict[SourceSet, list[tuple[str, ...]]] = {
        "all": [named],
        # of a single source, nothing would be left
        "without-one": [tuple(s for s in named if s != left_out) for left_out in named if len(named) > 1],
        "only-one": [(source,) for source in named],
    }
    chosen = [sources for kind in spec.source_sets for sources in sets[kind]]
    if not chosen:
        raise SpecError(
            f"{target!r} has the one source market {named[0]!r}, and the study leaves one out in turn.",
            hint="Name more source markets, or add all or only-one to source_sets.",
        )
    return list({frozenset(sources): sources for sources in chosen}.values())


def _sources(spec: StudySpec, info: MethodInfo, corpus: CorpusRow, target: str) -> tuple[str, ...]:
    # with several targets a source may be one of them: it is a source for the others only
    named = market_names(corpus) if spec.sources is None else spec.sources
    sources = tuple(name for name in named if name != target)
    if not sources:
        raise SpecError(
            f"{info.label} learns from source markets, and {target!r} has none.",
            hint="Name a source market that is not the target, or choose a single-market method.",
        )
    return sources


def _check_protocol(protocol: Protocol, corpus: CorpusRow) -> None:
    split = protocol.split
    needs_days = split.kind in ("temporal", "events") or (split.kind == "leave-one-out" and split.order == "latest")
    undated = sorted(set(market_names(corpus)) - set(dated_markets(corpus)))
    if needs_days and undated:
        raise SpecError(
            f"The split {split.kind!r} needs dates, and {', '.join(undated)} of corpus {corpus.name!r} has none.",
            hint="Choose ratio, or leave-one-out at random.",
        )


class _Past:
    """Mean seconds of a corpus's finished runs, read once: a study may have thousands of jobs."""

    def __init__(self, session: Session, corpus: str) -> None:
        spent = func.sum(RunRow.seconds), func.count(RunRow.seconds)
        query = select(RunRow.method, RunRow.target, *spent).where(RunRow.corpus == corpus, RunRow.state == "succeeded")
        self._sums: dict[tuple[str, str | None], tuple[float, int]] = {}
        for method, target, seconds, runs in session.execute(query.group_by(RunRow.method, RunRow.target)):
            before, many = self._sums.get((method, None), (0.0, 0))
            self._sums[method, target] = seconds or 0.0, runs
            self._sums[method, None] = before + (seconds or 0.0), many + runs

    def seconds(self, job: JobSpec) -> float | None:
        """Of the method on the target, else of the method on any; None where it has never run."""
        for key in ((job.method, job.target), (job.method, None)):
            seconds, runs = self._sums.get(key, (0.0, 0))
            if runs:
                return seconds / runs
        return None
