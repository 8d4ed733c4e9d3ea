"""Losses of the trained methods."""

from __future__ import annotations

import torch
from torch.nn import functional


def bpr(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean of -log sigmoid(positive - negative) over pairs (Rendle et al. 2009); scores of any equal shape."""
    return functional.softplus(negative - positive).mean()


def l2(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """Half the squared norm of the layer-0 rows that a batch of `batch` triples uses, per triple (He et al. 2020)."""
    return rows.square().sum() / (2 * batch)
