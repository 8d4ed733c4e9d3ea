"""A stored model at work for one user."""

from __future__ import annotations

import numpy as np

from cmr_core.data.split import make_split
from cmr_core.errors import NotFoundError
from cmr_core.spec import JobSpec, parse
from worker.store.artifacts import load_model
from worker.store.corpora import load_corpus
from worker.store.session import Store
from worker.store.tables import RunRow


def recommend(store: Store, run: RunRow, user_id: str, n: int) -> list[tuple[str, float]]:
    """The `n` best items (id, score) of a run's model for a user, best first.

    Training and validation items are left out, as in the test. Raises NotFoundError for a user that the
    target market does not have, or a run without a model.
    """
    model = load_model(store, run.id)
    corpus, spec = load_corpus(store, run.corpus), parse(JobSpec, run.spec)
    found = np.flatnonzero(corpus.market(spec.target).users == user_id)
    if not len(found):
        raise NotFoundError(f"Market {spec.target!r} has no user {user_id[:64]!r}.", hint="Ids are case-sensitive.")
    market = make_split(corpus, spec.drawn().split).markets[spec.target]
    scores = np.array(model.score(found[:1]), dtype=np.float64)[0]
    for part in (market.train, market.valid):
        scores[part.item[part.user == found[0]]] = -np.inf
    best = np.argsort(-scores, kind="stable")[:n]
    return [(str(corpus.items[market.catalogue[i]]), float(scores[i])) for i in best if np.isfinite(scores[i])]
