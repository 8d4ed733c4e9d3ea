"""Runs in RecBole's own environment: trains its LightGCN on `pairs.npz` as `job.json` says, writes `result.npz`.

Usage: PYTHON recbole_lightgcn.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer
from recbole.utils import init_seed
from recbole_files import write_pairs


def given(arrays: dict[str, np.ndarray], model: LightGCN, dataset: Dataset, job: dict[str, int]) -> list[Interaction]:
    """Start from the given vectors; the batches of the given triples, in RecBole's numbers."""
    start, (user, positive, negative) = torch.from_numpy(arrays["start"]), arrays["triples"]
    tables = (("user_id", model.user_embedding, 0), ("item_id", model.item_embedding, job["n_users"]))
    code = {}
    for field, table, first in tables:
        tokens = dataset.field2id_token[field][1:].astype(np.int64)
        table.weight.data[1:] = start[torch.from_numpy(tokens) + first]
        code[field] = np.zeros(tokens.max() + 1, dtype=np.int64)
        code[field][tokens] = np.arange(1, len(tokens) + 1)
    columns = {
        "user_id": code["user_id"][user],
        "item_id": code["item_id"][positive - job["n_users"]],
        "neg_item_id": code["item_id"][negative - job["n_users"]],
    }
    rows = Interaction({name: torch.from_numpy(column) for name, column in columns.items()})
    return [rows[at : at + job["batch_size"]] for at in range(0, len(rows), job["batch_size"])]


def main(folder: Path) -> None:
    """Write the interactions as RecBole wants them, train, and bring its vectors back into our order."""
    torch.set_num_threads(1)
    os.chdir(folder)  # RecBole writes its logs into the working folder
    job = json.loads((folder / "job.json").read_text())
    settings = write_pairs(folder) | {
        "embedding_size": job["dimensions"],
        "n_layers": job["layers"],
        "reg_weight": job["l2"],
        "require_pow": True,
        "learning_rate": job["learning_rate"],
        "train_batch_size": job["batch_size"],
    }
    config = Config(model="LightGCN", dataset="all", config_dict=settings)
    init_seed(0, True)
    dataset = create_dataset(config)
    data, _, _ = data_preparation(config, dataset)
    model = LightGCN(config, data.dataset)
    for table in (model.user_embedding, model.item_embedding):
        torch.nn.init.normal_(table.weight, std=0.1)
    trainer, seconds = Trainer(config, model), []
    if (folder / "given.npz").exists():
        data = given(np.load(folder / "given.npz"), model, dataset, job)
    for epoch in range(job["epochs"]):
        begin = time.process_time()
        trainer._train_epoch(data, epoch, show_progress=False)
        seconds.append(time.process_time() - begin)
    with torch.no_grad():
        users, items = (part.numpy() for part in model.forward())
    vectors = {}
    for name, field, size, table in (("user", "user_id", "n_users", users), ("item", "item_id", "n_items", items)):
        tokens = dataset.field2id_token[field][1:].astype(np.int64)  # 0 is RecBole's padding
        vectors[name] = np.zeros((job[size], job["dimensions"]), dtype=np.float32)
        vectors[name][tokens] = table[1:]
    np.savez(folder / "result.npz", seconds=np.array(seconds), **vectors)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
