"""Studies that come with the project, and studies as files with or without results. No Streamlit here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from app import auth, grids, words
from cmr_core.errors import CmrError
from cmr_core.spec import StudySpec
from worker.queue import deliver
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store
from worker.store.studies import Estimate, Launched, estimate, launch_study
from worker.store.study_export import export_study
from worker.store.study_files import builtin_studies, read_study
from worker.store.study_import import import_study

MOST_MEGABYTES = 500
PLACES = 20  # of each user's recommendations in an export: the lists are most of it, and a browser takes it in
ARCHIVE, YAML = ("zip",), ("yaml", "yml")


@dataclass(frozen=True)
class Offer:
    """A study that comes with the project, what it would cost here, or why it cannot run here."""

    spec: StudySpec
    markets: int  # target markets
    cost: Estimate | None
    fault: CmrError | None

    @property
    def new(self) -> int:
        """Runs that are not there yet."""
        return 0 if self.cost is None else self.cost.runs - self.cost.reused

    @property
    def size(self) -> str:
        """Methods x markets x protocols x seeds, in words."""
        spec = self.spec
        many = sum(map(grids.count, spec.methods))
        parts = [words.plural(many, "configuration"), words.plural(self.markets, "market") if self.markets else ""]
        parts += [words.plural(len(spec.protocols), "protocol"), words.plural(len(spec.seeds), "seed")]
        return " × ".join(part for part in parts if part)


def offer(store: Store, spec: StudySpec) -> Offer:
    """What a study would come to on this store."""
    markets = len(spec.targets)
    try:
        markets = markets or len(market_names(get_corpus(store, spec.corpus)))
        return Offer(spec, markets, estimate(store, spec), None)
    except CmrError as error:
        return Offer(spec, markets, None, error)


def specs() -> list[StudySpec]:
    """The project's studies, by name. Raises NotFoundError, SpecError."""
    return [study.spec for study in builtin_studies()]


def launch(store: Store, spec: StudySpec) -> tuple[Launched, str]:
    """Launch it as whoever opened the page; and what happened, in words. Raises NotPermittedError, SpecError."""
    launched = launch_study(store, auth.actor(), spec)
    sent = deliver(store, launched.created)
    text = f"Launched {words.plural(len(launched.created), 'run')}; {len(launched.reused)} were there already."
    if sent < len(launched.created):
        text += " The queue does not answer now; what is not sent yet goes out when it is back."
    return launched, text


def take(store: Store, name: str, data: bytes) -> StudySpec | str:
    """An uploaded file: the study in a YAML file, or the words about a finished study that has come in.

    Raises SpecError, FileFormatError, IntegrityError, NotFoundError, ConflictError, NotPermittedError.
    """
    if name.lower().endswith(YAML):
        return read_study(data)
    found = import_study(store, auth.actor(), data)
    there = f"; {len(found.there)} were there already" if found.there else ""
    begun = f"; {len(found.unfinished)} had begun here and go on here" if found.unfinished else ""
    return f"Imported the study {found.name} with {words.plural(len(found.added), 'run')}{there}{begun}."


def export(store: Store, study_id: str) -> bytes:
    """The study's finished runs as one file. Raises NotFoundError, IntegrityError, NotPermittedError."""
    with tempfile.TemporaryFile() as out:  # grown in memory it would be there twice
        export_study(store, auth.actor(), study_id, out, places=PLACES)
        out.seek(0)
        return out.read()
