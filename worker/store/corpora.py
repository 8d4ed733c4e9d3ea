"""Corpora in the store: the interactions are a Parquet blob, what the pages show is computed once, at import."""

from __future__ import annotations

import re
from functools import lru_cache

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from cmr_core.data.market import Corpus
from cmr_core.errors import ConflictError, IntegrityError, NotFoundError, SpecError
from worker.store.audit import Actor, record, require
from worker.store.clock import now
from worker.store.numbers import plain
from worker.store.session import Store
from worker.store.tables import CorpusRow

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def add_corpus(store: Store, actor: Actor, corpus: Corpus, origin: str) -> str:
    """Store a corpus under its digest, which is returned; the same content is stored once.

    `origin` says in words where it comes from. Raises ConflictError if the name belongs to other content,
    SpecError for a name that is not of letters, digits, dots and dashes.
    """
    from cmr_core.data.audit import audit
    from cmr_core.data.codec import to_parquet
    from cmr_core.data.describe import describe

    require(actor, "add corpus")
    if not NAME.fullmatch(corpus.name):
        raise SpecError(f"{corpus.name[:80]!r} cannot name a corpus.", hint="Use small letters, digits, dots, dashes.")
    with store.read() as session:
        if _known(session, corpus):
            return corpus.digest
    row = CorpusRow(
        digest=corpus.digest,
        name=corpus.name,
        origin=origin,
        sha256=store.blobs.put(to_parquet(corpus)),
        description=plain(describe(corpus) | _outline(corpus)),
        audit=plain(audit(corpus)),
        created_at=now(),
        created_by=actor.name,
    )
    with store.begin() as session:
        if not _known(session, corpus):
            session.add(row)
            record(session, actor, "add corpus", corpus.digest, {"name": corpus.name, "origin": origin})
    return corpus.digest


def get_corpus(store: Store, name_or_digest: str) -> CorpusRow:
    """The corpus's row. Raises NotFoundError naming those there are."""
    with store.read() as session:
        return find_corpus(session, name_or_digest)


def find_corpus(session: Session, name_or_digest: str) -> CorpusRow:
    """The corpus's row, within a session. Raises NotFoundError naming those there are."""
    wanted = name_or_digest.replace("\0", "")
    row = session.scalars(
        select(CorpusRow).where(or_(CorpusRow.digest == wanted, CorpusRow.name == wanted))
    ).one_or_none()
    if row is None:
        names = session.scalars(select(CorpusRow.name).order_by(CorpusRow.name)).all()
        there = f"There are: {', '.join(names)}." if names else "Add one first: cmr data add PATH."
        raise NotFoundError(f"There is no corpus {wanted[:80]!r}.", hint=there)
    return row


def list_corpora(store: Store) -> list[CorpusRow]:
    """All corpora, by name."""
    with store.read() as session:
        return list(session.scalars(select(CorpusRow).order_by(CorpusRow.name)))


def load_corpus(store: Store, name_or_digest: str) -> Corpus:
    """The corpus itself, verified; the last two are kept in memory. Raises NotFoundError, IntegrityError."""
    row = get_corpus(store, name_or_digest)
    return _load(store, row.digest, row.sha256, row.name)


def market_names(row: CorpusRow) -> list[str]:
    """The corpus's markets, by name."""
    return list(row.description["dated"])


def dated_markets(row: CorpusRow) -> list[str]:
    """Those of its markets in which every interaction has a day."""
    return [name for name, dated in row.description["dated"].items() if dated]


@lru_cache(maxsize=2)
def _load(store: Store, digest: str, sha256: str, name: str) -> Corpus:
    from cmr_core.data.codec import from_parquet

    corpus = from_parquet(store.blobs.get(sha256), name)
    if corpus.digest != digest:
        raise IntegrityError(f"Corpus {name!r} is not what was stored.", hint="Add its files again.")
    return corpus


def _known(session: Session, corpus: Corpus) -> bool:
    if session.get(CorpusRow, corpus.digest) is not None:
        return True
    other = session.scalars(select(CorpusRow.digest).where(CorpusRow.name == corpus.name)).one_or_none()
    if other is not None:
        raise ConflictError(f"Another corpus is called {corpus.name!r}.", hint="Give this one another name.")
    return False


def _outline(corpus: Corpus) -> dict[str, object]:
    # what launches are validated against, without reading the blob
    return {"dated": {name: corpus.markets[name].has_dates for name in sorted(corpus.markets)}}
