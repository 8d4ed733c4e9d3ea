"""Whether a run from a file could have been made here: markets, tables, means and model fit the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from cmr_core.data.market import Corpus
from cmr_core.data.split import make_split
from cmr_core.errors import IntegrityError
from cmr_core.spec import SplitSpec
from worker.store.artifacts import TABLES, read_model
from worker.store.study_archive import AGAIN, Reader
from worker.store.study_entries import RunEntry
from worker.store.table_checks import Known, check_means, check_table


class Checks:
    """Checks runs of one archive. Splits of the corpus are made once and forgotten but for what tables need."""

    def __init__(self, archive: Reader, corpus: Corpus) -> None:
        self._archive = archive
        self._corpus = corpus
        self._known: dict[str, dict[str, Known]] = {}

    def run(self, entry: RunEntry) -> None:
        """Raises FileFormatError for what contradicts itself or the corpus, IntegrityError for damaged bytes."""
        spec, name = entry.spec, f"runs/{entry.spec.fingerprint()}.json"
        blobs = entry.blobs()
        if spec.corpus != self._corpus.digest or {spec.target, *spec.sources} - set(self._corpus.markets):
            raise self._archive.fault(f"{name} is about another corpus than the study")
        if not set(TABLES) <= set(blobs) <= {*TABLES, "model"}:
            raise self._archive.fault(f"{name} has other artifacts than a run: {', '.join(sorted(blobs))[:200]}")
        keys = ([(m.part, m.slice, m.name) for m in entry.metrics], [s.name for s in entry.stages])
        if len(blobs) < len(entry.artifacts) or any(_double(rows) for rows in keys):
            raise self._archive.fault(f"{name} names something twice")
        try:
            self._tables(entry)
            if "model" in blobs:
                self._model(entry)
        except IntegrityError as error:
            raise IntegrityError(f"{self._archive.name}: {name}: {error}", hint=AGAIN) from None

    def _tables(self, entry: RunEntry) -> None:
        known = self._of_split(entry.spec.drawn().split)[entry.spec.target]
        frames = {kind: check_table(kind, self._archive.blob(entry.blobs()[kind]), known) for kind in TABLES}
        tested = {m.name: (m.value, m.n) for m in entry.metrics if (m.part, m.slice) == ("test", "all")}
        check_means(frames["per_user"], tested)

    def _model(self, entry: RunEntry) -> None:
        data = self._archive.blob(entry.blobs()["model"])
        read_model(data, entry.shape, entry.parameters.model_dump(), cast(dict[str, Any], entry.details))

    def _of_split(self, spec: SplitSpec) -> dict[str, Known]:
        if spec.digest() not in self._known:
            split, corpus = make_split(self._corpus, spec), self._corpus
            self._known[spec.digest()] = {
                name: Known(
                    corpus.market(name).users,
                    corpus.items[split.market(name).catalogue],
                    np.bincount(split.market(name).train.user, minlength=split.market(name).n_users),
                )
                for name in split.markets
            }
        return self._known[spec.digest()]


def _double(rows: Sequence[object]) -> bool:
    return len(set(rows)) < len(rows)
