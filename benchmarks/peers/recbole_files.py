"""What both RecBole peers hand to RecBole: the interactions as its files, and the settings that go with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_pairs(folder: Path) -> dict[str, object]:
    """Write `pairs.npz` of the folder as RecBole's data set `all`; the settings that name it, on the CPU and quiet."""
    pairs = np.load(folder / "pairs.npz")
    (folder / "all").mkdir()
    lines = ["user_id:token\titem_id:token"]
    lines += [f"{user}\t{item}" for user, item in zip(pairs["user"].tolist(), pairs["item"].tolist(), strict=True)]
    for part in ("train", "valid", "test"):
        # RecBole insists on three parts; only the first is used.
        kept = lines if part == "train" else lines[:2]
        (folder / "all" / f"all.{part}.inter").write_text("\n".join(kept) + "\n")
    return {
        "data_path": str(folder),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(folder / "saved"),
        "seed": 0,
    }
