"""Runs in Cornac's own environment: its `ranking_eval` on the factors in `job.npz`; writes `result.npz`.

Usage: PYTHON cornac_evaluation.py FOLDER REPEATS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from cornac.data import Dataset
from cornac.eval_methods.base_method import ranking_eval
from cornac.metrics import MAP, MRR, NDCG, HitRatio, Precision, Recall
from cornac.models import Recommender

AT_CUTOFF = {"ndcg": NDCG, "recall": Recall, "precision": Precision, "hit": HitRatio}


class Fixed(Recommender):
    """A method that is trained already."""

    def __init__(self, users: np.ndarray, items: np.ndarray, train: Dataset) -> None:
        super().__init__("fixed")
        self.users, self.items, self.is_fitted = users, items, True
        self.num_users, self.num_items = train.num_users, train.num_items
        self.uid_map, self.iid_map = train.uid_map, train.iid_map

    def score(self, user_idx: int, item_idx: int | None = None) -> np.ndarray:
        """Scores of all items."""
        return self.items @ self.users[user_idx]


def main(folder: Path, repeats: int) -> None:
    """Best processor seconds with the metrics at cutoffs, and with MRR and MAP too; the values of every user."""
    job = np.load(folder / "job.npz")
    parts = [_dataset(job, part) for part in ("train", "valid", "test")]
    model = Fixed(job["users"], job["items"], parts[0])
    cut = {f"{name}@{k}": kind(k=int(k)) for name, kind in AT_CUTOFF.items() for k in job["cutoffs"]}
    result = {}
    for label, metrics in (("at_cutoffs", cut), ("all", {**cut, "mrr": MRR(), "map": MAP()})):
        seconds = []
        for _ in range(repeats):
            begin = time.process_time()
            _, values = ranking_eval(model, list(metrics.values()), parts[0], parts[2], parts[1])
            seconds.append(time.process_time() - begin)
        result[f"seconds_{label}"] = np.array(min(seconds))
        for name, of_user in zip(metrics, values, strict=True):
            result[name] = np.array([of_user[user] for user in sorted(of_user)])
    np.savez(folder / "result.npz", **result)


def _dataset(job: np.lib.npyio.NpzFile, part: str) -> Dataset:
    users, items = len(job["users"]), len(job["items"])
    rows = (job[f"{part}_user"], job[f"{part}_item"], np.ones(len(job[f"{part}_user"])))
    data = Dataset(users, items, dict.fromkeys(range(users)), dict.fromkeys(range(items)), rows)
    assert data.csr_matrix.shape == (users, items)  # Cornac makes it at first use, which is not timed
    return data


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
