"""An outcome as files: metrics.json, per_user.parquet, topk.parquet, held_out.parquet, model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cmr_core.data.market import Corpus
from cmr_core.evaluation.tables import tables
from cmr_core.experiment import Outcome
from cmr_core.models.base import shape_of
from cmr_core.spec import JobSpec


def save(spec: JobSpec, corpus: Corpus, outcome: Outcome, folder: Path) -> None:
    """Write the five files into `folder`, made where missing; earlier files of these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary(spec, outcome), indent=2, sort_keys=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    for name, table in tables(outcome.test, spec, corpus).items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
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
