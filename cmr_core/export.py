"""An outcome as files: metrics.json, per_user.parquet, topk.parquet, model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from cmr_core.data.market import Corpus
from cmr_core.experiment import Outcome
from cmr_core.models.base import shape_of
from cmr_core.spec import JobSpec


def save(spec: JobSpec, corpus: Corpus, outcome: Outcome, folder: Path) -> None:
    """Write the four files into `folder`, made where missing; earlier files of these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary(spec, outcome), indent=2, sort_keys=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    per_user(spec, corpus, outcome).to_parquet(folder / "per_user.parquet", index=False)
    top_items(spec, corpus, outcome).to_parquet(folder / "topk.parquet", index=False)
    arrays = {name: np.ascontiguousarray(value) for name, value in outcome.recommender.arrays().items()}
    save_file(arrays, folder / "model.safetensors", metadata={"shape": shape_of(outcome.recommender)})


def summary(spec: JobSpec, outcome: Outcome) -> dict[str, Any]:
    """Spec, fingerprint, means, parameter counts, times and environment, ready for JSON."""
    parameters = outcome.recommender.parameters
    return {
        "spec": spec.model_dump(mode="json"),
        "fingerprint": spec.fingerprint(),
        "protocol": spec.protocol_text(),
        "test": outcome.test.means(),
        "valid": outcome.valid.means(),
        "overall": outcome.test.overall,
        "parameters": {**vars(parameters), "total": parameters.total},
        "details": dict(outcome.recommender.details),
        "stages": [vars(stage) for stage in outcome.stages],
        "environment": outcome.environment,
        "seconds": outcome.seconds,
    }


def per_user(spec: JobSpec, corpus: Corpus, outcome: Outcome) -> pd.DataFrame:
    """One row per test user: id and every metric."""
    users = outcome.test.users
    ids = corpus.market(spec.target).users[users]
    return pd.DataFrame({"user": users, "user_id": ids, **outcome.test.values})


def top_items(spec: JobSpec, corpus: Corpus, outcome: Outcome) -> pd.DataFrame:
    """One row per listed user and rank: ids and score. Short lists have fewer rows."""
    market, test = corpus.market(spec.target), outcome.test
    row, at = np.nonzero(test.top_items >= 0)
    users, items = test.top_users[row], test.top_items[row, at]
    return pd.DataFrame(
        {
            "user": users,
            "user_id": market.users[users],
            "rank": at + 1,
            "item": items,
            "item_id": corpus.items[market.catalogue[items]],
            "score": test.top_scores[row, at],
        }
    )
