"""Imported candidate lists in the store: Parquet blobs that belong to one market of one corpus."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cmr_core.data.lists import Lists, from_parquet, to_parquet
from cmr_core.errors import ConflictError, IntegrityError, NotFoundError, SpecError
from cmr_core.spec import JobSpec
from worker.store.audit import Actor, record, require
from worker.store.clock import now
from worker.store.corpora import NAME, load_corpus
from worker.store.session import Store
from worker.store.tables import ListsRow


def add_lists(store: Store, actor: Actor, lists: Lists, *, corpus: str, name: str) -> str:
    """Store the lists for a corpus (name or digest) under their digest, which is returned; the same ones once.

    Raises SpecError for a name that is not of letters, digits, dots and dashes, ConflictError if it belongs to other
    lists of the corpus, NotFoundError, and DataError where the lists do not fit the corpus.
    """
    from cmr_core.data.given import resolve

    require(actor, "add lists")
    if not NAME.fullmatch(name):
        raise SpecError(f"{name[:80]!r} cannot name lists.", hint="Use small letters, digits, dots, dashes.")
    data = load_corpus(store, corpus)
    resolve(lists, data)
    row = ListsRow(
        corpus=data.digest,
        digest=lists.digest,
        name=name,
        market=lists.market,
        sha256=store.blobs.put(to_parquet(lists)),
        listed=lists.pairs.num_rows,
        relevant=None if lists.relevant is None else lists.relevant.num_rows,
        created_at=now(),
        created_by=actor.name,
    )
    with store.begin() as session:
        if session.get(ListsRow, (row.corpus, row.digest)) is None:
            _refuse_taken(session, row)
            session.add(row)
            record(session, actor, "add lists", row.digest, {"name": name, "corpus": data.name, "market": lists.market})
    return lists.digest


def list_lists(store: Store, corpus: str | None = None) -> list[ListsRow]:
    """All lists, or those of one corpus (digest), by name."""
    query = select(ListsRow).order_by(ListsRow.name, ListsRow.corpus)
    with store.read() as session:
        return list(session.scalars(query if corpus is None else query.where(ListsRow.corpus == corpus)))


def load_lists(store: Store, spec: JobSpec) -> Lists | None:
    """The lists that a job names, verified; None where it names none. Raises NotFoundError, IntegrityError."""
    if spec.evaluation.given is None:
        return None
    with store.read() as session:
        row = session.get(ListsRow, (spec.corpus, spec.evaluation.given))
    if row is None:
        raise NotFoundError(
            f"There are no candidate lists {spec.evaluation.given[:12]}.", hint="Add their files again."
        )
    lists = from_parquet(store.blobs.get(row.sha256))
    if lists.digest != row.digest:
        raise IntegrityError(f"Candidate lists {row.name!r} are not what was stored.", hint="Add their files again.")
    return lists


def check_lists(session: Session, spec: JobSpec) -> None:
    """Raises SpecError unless the lists that the job names, if any, are there for its corpus and target."""
    digest = spec.evaluation.given
    if digest is None:
        return
    row = session.get(ListsRow, (spec.corpus, digest))
    if row is None:
        elsewhere = session.scalars(select(ListsRow.name).where(ListsRow.digest == digest)).first()
        fault = "are not in the store" if elsewhere is None else f"({elsewhere!r}) belong to another corpus"
        raise SpecError(
            f"The candidate lists {digest[:12]} {fault}.", hint="`cmr data lists list` shows those there are."
        )
    if row.market != spec.target:
        raise SpecError(
            f"The candidate lists {row.name!r} are for market {row.market!r}, and {spec.target!r} is a target.",
            hint=f"Make {row.market} the only target of the study, or choose other candidates.",
        )


def _refuse_taken(session: Session, row: ListsRow) -> None:
    taken = select(ListsRow.digest).where(ListsRow.corpus == row.corpus, ListsRow.name == row.name)
    if session.scalars(taken).first() is not None:
        raise ConflictError(f"Other lists of this corpus are called {row.name!r}.", hint="Choose another name.")
