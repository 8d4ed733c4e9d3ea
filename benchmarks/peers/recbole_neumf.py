"""Runs in RecBole's own environment: trains its NeuMF on `pairs.npz` as `job.json` says, writes `result.npz`.

Usage: PYTHON recbole_neumf.py FOLDER
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
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import NeuMF
from recbole.trainer import Trainer
from recbole.utils import init_seed
from recbole_files import write_pairs

Codes = dict[str, np.ndarray]
TABLES = {
    "user.gmf": "user_mf_embedding",
    "user.mlp": "user_mlp_embedding",
    "item.gmf": "item_mf_embedding",
    "item.mlp": "item_mlp_embedding",
}


def layers(model: NeuMF) -> dict[str, torch.Tensor]:
    """Our names of what is not a table. RecBole's output layer takes [GMF; MLP], ours [MLP; GMF]."""
    linear = [module for module in model.mlp_layers.mlp_layers if isinstance(module, torch.nn.Linear)]
    found = {f"tower.{at}.weight": layer.weight for at, layer in enumerate(linear)}
    found |= {f"tower.{at}.bias": layer.bias for at, layer in enumerate(linear)}
    return found | {"out.bias": model.predict_layer.bias}


def take(arrays: dict[str, np.ndarray], model: NeuMF, codes: Codes) -> None:
    """Begin with the given parameters."""
    with torch.no_grad():
        for name, field in TABLES.items():
            getattr(model, field).weight[codes[name[:4]]] = torch.from_numpy(arrays[name])
        for name, value in layers(model).items():
            value.copy_(torch.from_numpy(arrays[name]))
        width, out = model.mf_embedding_size, torch.from_numpy(arrays["out.weight"])
        model.predict_layer.weight.copy_(torch.cat([out[:, -width:], out[:, :-width]], dim=1))


def give(model: NeuMF, codes: Codes) -> dict[str, np.ndarray]:
    """The parameters in our names and order."""
    found = {name: getattr(model, field).weight[codes[name[:4]]] for name, field in TABLES.items()} | layers(model)
    width, out = model.mf_embedding_size, model.predict_layer.weight
    found["out.weight"] = torch.cat([out[:, width:], out[:, :width]], dim=1)
    return {name: value.detach().numpy() for name, value in found.items()}


def rows(arrays: dict[str, np.ndarray], codes: Codes, batch: int) -> list[Interaction]:
    """The given pairs with their negatives, batch by batch, one row per example."""
    user, item = codes["user"][arrays["rows.user"]], codes["item"][arrays["rows.item"]]
    step, each = batch // item.shape[1], item.shape[1]
    label = (np.arange(each) == 0).astype(np.float32)
    return [
        Interaction(
            {
                "user_id": torch.from_numpy(user[at : at + step].repeat(each)),
                "item_id": torch.from_numpy(item[at : at + step].reshape(-1)),
                "label": torch.from_numpy(np.tile(label, len(user[at : at + step]))),
            }
        )
        for at in range(0, len(user), step)
    ]


def main(folder: Path) -> None:
    """Write the interactions as RecBole wants them, train, and bring its parameters back into our order."""
    torch.set_num_threads(1)
    os.chdir(folder)  # RecBole writes its logs into the working folder
    job = json.loads((folder / "job.json").read_text())
    settings = write_pairs(folder) | {
        "mf_embedding_size": job["dimensions"],
        "mlp_embedding_size": job["dimensions"],
        "mlp_hidden_size": job["tower"],
        "dropout_prob": 0.0,
        "train_neg_sample_args": {
            "distribution": "uniform",
            "sample_num": job["negatives"],
            "alpha": 1.0,
            "dynamic": False,
            "candidate_num": 0,
        },
        "learning_rate": job["learning_rate"],
        "weight_decay": job["weight_decay"],
        "train_batch_size": job["batch_size"],
    }
    config = Config(model="NeuMF", dataset="all", config_dict=settings)
    init_seed(0, True)
    dataset = create_dataset(config)
    data, _, _ = data_preparation(config, dataset)
    model = NeuMF(config, data.dataset)
    codes = {}
    for side, size in (("user", job["n_users"]), ("item", job["n_items"])):
        tokens = dataset.field2id_token[f"{side}_id"][1:].astype(np.int64)  # 0 is RecBole's padding
        codes[side] = np.zeros(size, dtype=np.int64)
        codes[side][tokens] = np.arange(1, len(tokens) + 1)
    start = np.load(folder / "start.npz")
    take(start, model, codes)
    trainer, seconds, losses = Trainer(config, model), [], []
    if "rows.user" in start:
        for batch in rows(start, codes, job["batch_size"]):
            trainer.optimizer.zero_grad()
            loss = model.calculate_loss(batch)
            loss.backward()
            trainer.optimizer.step()
            losses.append(loss.item())
        take(start, model, codes)
        trainer = Trainer(config, model)
    for epoch in range(job["epochs"]):
        begin = time.process_time()
        trainer._train_epoch(data, epoch, show_progress=False)
        seconds.append(time.process_time() - begin)
    np.savez(folder / "result.npz", seconds=np.array(seconds), losses=np.array(losses), **give(model, codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
