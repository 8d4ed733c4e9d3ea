"""What a layer looks at and what prompts are taken, as tables and in words. No Streamlit here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cmr_core.data.market import StrArray
from cmr_core.interfaces import FloatArray

UNIFORM = 0.95  # entropy above which shares are as good as equal


def sides(user: FloatArray, item: FloatArray) -> dict[str, FloatArray]:
    """Shares (n, M) of `user` and `item` nodes, each side's own prompts only where a model has two sets of them.

    `user`, `item`: as `models.base.Factors` keeps them; with two sets a side is zero in the other's columns.
    """
    half = user.shape[1] // 2
    if half and not user[:, half:].any() and not item[:, :half].any():
        return {"user": user[:, :half], "item": item[:, half:]}
    return {"user": user, "item": item}


def entropy(shares: FloatArray) -> FloatArray:
    """Entropy of each row of shares (n, M) divided by log M: 1 where all prompts have the same share. (n,)"""
    rows = shares.astype(np.float64)
    if rows.shape[1] < 2:
        return np.ones(len(rows))
    logs = np.log(rows, where=rows > 0, out=np.zeros_like(rows))
    return np.asarray(-(rows * logs).sum(axis=1) / np.log(rows.shape[1]))


def summary(tables: Mapping[str, FloatArray]) -> pd.DataFrame:
    """A row per market: market, n, entropy (mean over nodes), differ.

    `differ` is the entropy of the mean shares minus the mean entropy, the mutual information of node and prompt over
    log M: 0 where all nodes have the same shares, so that prompts change everybody alike, 1 where each node has one
    prompt of its own. tables: market -> shares (n, M).
    """
    rows = []
    for market, shares in tables.items():
        mean = float(entropy(shares).mean())
        rows.append((market, len(shares), mean, max(float(entropy(shares.mean(axis=0)[None])[0]) - mean, 0.0)))
    return pd.DataFrame(rows, columns=["market", "n", "entropy", "differ"])


def in_words(found: pd.DataFrame) -> str:
    """What the entropies of the markets say; found: as `summary`."""
    flat = [f"{m} ({e:.2f})" for m, e in zip(found["market"], found["entropy"], strict=True) if e >= UNIFORM]
    rest = [f"{m} ({e:.2f})" for m, e in zip(found["market"], found["entropy"], strict=True) if e < UNIFORM]
    said = []
    if flat:
        said.append(f"Nearly uniform in {', '.join(flat)}: nodes take much the same of each prompt and change alike.")
    if rest:
        said.append(f"Nodes prefer some prompts in {', '.join(rest)}.")
    return " ".join(said)


def mean_shares(tables: Mapping[str, FloatArray]) -> pd.DataFrame:
    """Mean share of each prompt, a row per market. tables: market -> shares (n, M)."""
    frame = pd.DataFrame({market: pd.Series(shares.mean(axis=0)) for market, shares in tables.items()}).T
    return frame.set_axis([f"prompt {at + 1}" for at in range(frame.shape[1])], axis=1)


def takers(shares: FloatArray, ids: StrArray, most: int = 5) -> pd.DataFrame:
    """The nodes that take most of each prompt, largest first, a column per prompt: `id (share)`. shares: (n, M)."""
    columns = {}
    for at in range(shares.shape[1]):
        order = np.argsort(-shares[:, at], kind="stable")[:most]
        columns[f"prompt {at + 1}"] = [f"{ids[node]} ({shares[node, at]:.0%})" for node in order]
    return pd.DataFrame(columns)


def candidates(held: pd.DataFrame, top: pd.DataFrame, user: int, most: int = 10) -> dict[int, str]:
    """Items worth a look for a user, with what they are: held-out ones first, then the run's list.

    held, top: the run's `held_out` and `topk` tables. Local item codes, none twice.
    """
    mine, listed = held[held["user"] == user], top[(top["user"] == user) & (top["rank"] <= most)].sort_values("rank")
    found = {
        int(item): f"{item_id} · held out, rank {rank}"
        for item, item_id, rank in zip(mine["item"], mine["item_id"], mine["rank"], strict=True)
    }
    for item, item_id, rank in zip(listed["item"], listed["item_id"], listed["rank"], strict=True):
        found.setdefault(int(item), f"{item_id} · recommended, rank {rank}")
    return found


def place_names(items: Sequence[int], ids: StrArray) -> list[str]:
    """What stands at the axes: the sequence's item ids; the last one is the candidate. -1: nothing in the history."""
    shown: list[str] = ["no history" if item < 0 else str(ids[item]) for item in items]
    return [*shown[:-1], f"▸ {shown[-1]}"]
