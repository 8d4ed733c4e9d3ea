"""Fitted methods that need their network to score: named arrays, and the function that turns them into logits.

A network registers its function once, beside its definition; a stored model names it. Training, validation, test and
the stored model call the same function, so that what was trained is what is served.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from cmr_core.errors import IntegrityError
from cmr_core.interfaces import Arrays, FloatArray, IntArray, ParameterCount

Tensors = Mapping[str, torch.Tensor]
Logits = Callable[[Tensors, torch.Tensor, torch.Tensor], torch.Tensor]
"""Weights, local user codes and local item codes (int64, of shapes that broadcast together) -> logits of that shape.

Training asks with (n,) and (n,); scoring with (B, 1) and (1, I), where a first layer can be split into a user's and an
item's part and added: that costs B + I products instead of B * I.
"""
L = TypeVar("L", bound=Callable[..., torch.Tensor])
CELLS = 1 << 16  # pairs at once, which keeps a layer of 64 units within the processor's cache
ON_GPU = 16  # times as many are worth a launch on a GPU
KEPT = 1 << 26  # scores of a costly network that are kept: 256 MiB


@dataclass(frozen=True)
class Network:
    """A function from weights and codes to logits. `costly`: a pair costs so much that a catalogue takes minutes."""

    name: str
    logits: Logits
    costly: bool
    cells: int


_networks: dict[str, Network] = {}


def network(name: str, *, costly: bool = False, cells: int = CELLS) -> Callable[[L], L]:
    """Decorator: the function, a `Logits` that may take more with defaults, becomes the network `name`."""

    def add(logits: L) -> L:
        _networks[name] = Network(name, logits, costly, cells)
        return logits

    return add


def find_network(name: str) -> Network:
    """The network called `name`. Raises IntegrityError where this version has none."""
    if name not in _networks:
        importlib.import_module("cmr_core.models.registry").load()  # brings every module that registers one
    if name not in _networks:
        raise IntegrityError(f"A stored model needs the unknown network {name!r}.", hint="It needs a newer version.")
    return _networks[name]


@dataclass(frozen=True)
class NeuralScorer:
    """Scores are the logits of a network. `weights`: every array that the network needs, settings among them.

    Costs of scoring: one pass of the network per user and item. A costly network is asked about listed candidates only,
    where a protocol lists them; its scores of catalogues are kept, up to KEPT of them, as validation and test ask for
    the same ones.
    """

    parameters: ParameterCount
    network: str
    weights: Arrays
    n_items: int
    details: Mapping[str, float | str] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def costly(self) -> bool:
        """Whether scoring whole catalogues for everybody takes minutes."""
        return find_network(self.network).costly

    def __call__(self, users: IntArray) -> FloatArray:
        """As `score`."""
        return self.score(users)

    def score(self, users: IntArray) -> FloatArray:
        """(B, n_items) float32."""
        if not self.costly:
            return self._catalogue(users)
        new = np.array([user for user in np.unique(users) if user not in self._kept], dtype=np.int64)
        rows = dict(zip(new.tolist(), self._catalogue(new), strict=True)) if len(new) else {}
        found = [rows[user] if user in rows else self._kept[user] for user in np.asarray(users).tolist()]
        room = KEPT // self.n_items - len(self._kept)
        self._kept.update(list(rows.items())[: max(room, 0)])
        return np.stack(found) if found else np.empty((0, self.n_items), dtype=np.float32)

    def _catalogue(self, users: IntArray) -> FloatArray:
        return score_pairs(self.network, self._tensors, users, np.arange(self.n_items)[None], self.device)

    @functools.cached_property
    def _kept(self) -> dict[int, FloatArray]:
        return {}

    def listed(self, users: IntArray, items: IntArray) -> FloatArray:
        """(B, C) float32: scores of the local item codes `items` (B, C), one row per user."""
        return score_pairs(self.network, self._tensors, users, items, self.device)

    def arrays(self) -> Arrays:
        """The weights, the network's name in bytes, and the size of the catalogue."""
        name = np.frombuffer(self.network.encode(), dtype=np.uint8)
        return {**self.weights, "network": name, "n_items": np.array([self.n_items])}

    @functools.cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for name, a in self.weights.items()}


def neural_from_arrays(
    arrays: Mapping[str, np.ndarray], parameters: ParameterCount, details: Mapping[str, float | str]
) -> NeuralScorer:
    """The scorer whose `arrays()` these are. Raises IntegrityError where something is missing or unknown."""
    weights = dict(arrays)
    try:
        name, n_items = weights.pop("network").tobytes().decode(), int(weights.pop("n_items")[0])
    except (KeyError, IndexError, UnicodeDecodeError) as error:
        raise IntegrityError(f"A stored network is incomplete: {error}.", hint="Run the job again.") from None
    return NeuralScorer(parameters, find_network(name).name, weights, n_items, details)


class Live:
    """A network in training, as validation sees it: scores from the weights as they are at the moment."""

    def __init__(self, name: str, weights: Callable[[], Tensors], n_items: int, device: str) -> None:
        self._name, self._weights, self._n_items, self._device = name, weights, n_items, device
        self.costly = find_network(name).costly

    def __call__(self, users: IntArray) -> FloatArray:
        """(B, n_items)"""
        return score_pairs(self._name, self._weights(), users, np.arange(self._n_items)[None], self._device)

    def listed(self, users: IntArray, items: IntArray) -> FloatArray:
        """(B, C) for items (B, C)."""
        return score_pairs(self._name, self._weights(), users, items, self._device)


def score_pairs(name: str, weights: Tensors, users: IntArray, items: IntArray, device: str) -> FloatArray:
    """Logits (B, C) of users (B,) for items (B, C) or, alike for all users, (1, C); in blocks of users and of items."""
    found = find_network(name)
    user = torch.from_numpy(np.ascontiguousarray(users, dtype=np.int64)).to(device)[:, None]
    item = torch.from_numpy(np.ascontiguousarray(items, dtype=np.int64)).to(device)
    result = np.empty((len(users), items.shape[1]), dtype=np.float32)
    cells = found.cells * (ON_GPU if user.is_cuda else 1)
    width = max(1, min(items.shape[1], cells))
    step = max(1, cells // width)
    with torch.no_grad():
        for row in range(0, len(users), step):
            rows = slice(row, row + step)
            for column in range(0, items.shape[1], width):
                columns = slice(column, column + width)
                asked = item[:, columns] if len(item) == 1 else item[rows, columns]
                result[rows, columns] = found.logits(weights, user[rows], asked).cpu().numpy()
    return result
