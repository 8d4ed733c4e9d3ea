"""A study in the making: what the launch page fills in, and the spec that comes of it. No Streamlit here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cmr_core.errors import NotFoundError, SpecError
from cmr_core.spec import EvalSpec, JobSpec, MethodChoice, Protocol, SplitKind, SplitSpec, StudySpec, parse
from worker.store.corpora import dated_markets, get_corpus, market_names
from worker.store.runs import get_run
from worker.store.session import Store
from worker.store.studies import get_study, study_spec
from worker.store.tables import CorpusRow, ListsRow

PRESETS: dict[str, tuple[str, Protocol]] = {
    "events": ("Events, whole catalogue: closes the same-day leak (recommended)", Protocol()),
    "ratio": ("Random per user, whole catalogue: as in the DCMPT paper", Protocol(split=SplitSpec(kind="ratio"))),
    "leave-one-out": (
        "Leave one out, 99 sampled negatives: as in the ACMR authors' code",
        Protocol(split=SplitSpec(kind="leave-one-out"), evaluation=EvalSpec(candidates="sampled-global")),
    ),
    "temporal": ("One point in time for everybody: as in practice", Protocol(split=SplitSpec(kind="temporal"))),
}


def protocols(corpus: CorpusRow, lists: Sequence[ListsRow]) -> dict[str, tuple[str, Protocol]]:
    """What the launch page offers, by key: the presets, and the candidate lists imported for the corpus."""
    kind: SplitKind = "events" if set(dated_markets(corpus)) == set(market_names(corpus)) else "ratio"
    found = dict(PRESETS)
    for row in lists:
        evaluation = EvalSpec(candidates="given", given=row.digest)
        found[f"lists-{row.name}"] = (
            f"Imported lists {row.name}, for target {row.market} only ({kind})",
            Protocol(split=SplitSpec(kind=kind), evaluation=evaluation),
        )
    return found


def start(store: Store, *, run: str | None, study: str | None) -> StudySpec | None:
    """The spec that the page begins with: that of a run or of a study, or None. Raises NotFoundError, SpecError."""
    if run is not None:
        return from_run(store, run)
    return study_spec(get_study(store, study)) if study is not None else None


def from_run(store: Store, run_id: str) -> StudySpec:
    """A study of this one run, to be changed and launched. Raises NotFoundError."""
    if not run_id.isprintable():
        raise NotFoundError("That is not the id of a run.", hint="Pick one on the page Runs.")
    run = get_run(store, run_id)
    job = parse(JobSpec, run.spec)
    return StudySpec(
        name=f"{run.method}-{run.target}"[:64],
        corpus=get_corpus(store, job.corpus).name,
        targets=(job.target,),
        sources=job.sources or None,
        methods=(MethodChoice(method=job.method, settings=job.settings, members=job.members),),
        protocols=(Protocol(split=job.split, evaluation=job.evaluation),),
        seeds=(job.seed,),
        budget=job.budget,
    )


def preset_of(protocol: Protocol) -> str | None:
    """The preset that the protocol equals, or None."""
    return next((name for name, (_, preset) in PRESETS.items() if preset == protocol), None)


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from `0, 1, 2` or `0-2`. Raises SpecError that says which part is wrong."""
    found: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        span = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part)
        if not span:
            raise SpecError(f"{part[:40]!r} is no seed.", hint="Write whole numbers, such as 0, 1, 2 or 0-2.")
        first, last = int(span[1]), int(span[2] or span[1])
        if not 0 <= last - first < 20:
            raise SpecError(f"{part!r} is no span of at most 20 seeds.", hint="Write for example 0-4.")
        found += range(first, last + 1)
    return tuple(found)


def file_name(name: str) -> str:
    """A study's name made of the signs that a name may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "study"
