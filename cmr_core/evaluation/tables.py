"""An evaluation as tables with readable ids: what is stored, exported and shown."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cmr_core.data.market import Corpus, StrArray
from cmr_core.data.split import make_split
from cmr_core.evaluation.evaluate import Evaluation
from cmr_core.interfaces import IntArray
from cmr_core.spec import JobSpec


def tables(evaluation: Evaluation, spec: JobSpec, corpus: Corpus) -> dict[str, pd.DataFrame]:
    """The tables per_user, topk and held_out of what the job `spec` found on `corpus`. Splits the corpus again."""
    market = make_split(corpus, spec.drawn().split).market(spec.target)
    user_ids, item_ids = corpus.market(spec.target).users, corpus.items[market.catalogue]
    n_train = np.bincount(market.train.user, minlength=market.n_users)
    return {
        "per_user": per_user(evaluation, user_ids, n_train),
        "topk": topk(evaluation, user_ids, item_ids),
        "held_out": held_out(evaluation, user_ids, item_ids),
    }


def per_user(evaluation: Evaluation, user_ids: StrArray, n_train: IntArray) -> pd.DataFrame:
    """One row per evaluated user: user, user_id, n_train and every metric.

    `user_ids` (n_users,) text by local code, `n_train` (n_users,) training interactions of each user.
    """
    users = evaluation.users
    return pd.DataFrame({"user": users, "user_id": user_ids[users], "n_train": n_train[users], **evaluation.values})


def topk(evaluation: Evaluation, user_ids: StrArray, item_ids: StrArray) -> pd.DataFrame:
    """One row per listed user and rank: user, user_id, rank (from 1), item, item_id, score; short lists have fewer.

    `item_ids` (n_items,) text by local item code.
    """
    row, place = np.nonzero(evaluation.top_items >= 0)
    user, item = evaluation.top_users[row], evaluation.top_items[row, place]
    score = evaluation.top_scores[row, place]
    columns = {"user": user, "user_id": user_ids[user], "rank": place + 1, "item": item, "item_id": item_ids[item]}
    return pd.DataFrame({**columns, "score": score})


def held_out(evaluation: Evaluation, user_ids: StrArray, item_ids: StrArray) -> pd.DataFrame:
    """One row per held-out item: user, user_id, item, item_id, rank among the candidates."""
    user, item = evaluation.held_user, evaluation.held_item
    columns = {"user": user, "user_id": user_ids[user], "item": item, "item_id": item_ids[item]}
    return pd.DataFrame({**columns, "rank": evaluation.held_rank})
