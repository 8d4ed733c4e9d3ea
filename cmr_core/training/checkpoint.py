"""The whole state of an unfinished training stage as named arrays, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from cmr_core.errors import IntegrityError
from cmr_core.interfaces import Arrays


@dataclass
class Position:
    """How far training is. `best_epoch` is -1 before the first finite validation value."""

    epoch: int = 0
    best_epoch: int = -1
    best_value: float = float("nan")
    bad: int = 0  # evaluations since the best one
    best: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Trainable:
    """What an optimiser changes: leaf tensors by name, the optimiser, and the generator that draws everything."""

    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copies of the parameters on their device."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}


def adam(
    parameters: dict[str, torch.Tensor],
    learning_rate: float,
    generator: torch.Generator,
    *,
    weight_decay: float = 0.0,
    rates: Mapping[str, float] | None = None,
) -> Trainable:
    """The parameters with a fused Adam (Kingma and Ba, 2015; PyTorch's defaults otherwise).

    `weight_decay` adds it times the parameter to the gradient; `rates` multiply the learning rate of some parameters.
    """
    own = rates or {}
    groups = [{"params": [value], "lr": learning_rate * own.get(name, 1.0)} for name, value in parameters.items()]
    if not own:
        groups = [{"params": list(parameters.values()), "lr": learning_rate}]
    return Trainable(parameters, torch.optim.Adam(groups, weight_decay=weight_decay, fused=True), generator)


def pack(model: Trainable, position: Position) -> Arrays:
    """Parameters, optimiser moments and steps, generator state, position and best parameters."""
    arrays: Arrays = {
        "generator": _numpy(model.generator.get_state()),
        "position": np.array([position.epoch, position.best_epoch, position.bad], dtype=np.int64),
        "best_value": np.array([position.best_value], dtype=np.float64),
    }
    for name, value in model.parameters.items():
        arrays[f"parameter.{name}"] = _numpy(value)
        for key, moment in model.optimizer.state[value].items():
            arrays[f"optimizer.{name}.{key}"] = _numpy(moment)
    arrays |= {f"best.{name}": _numpy(value) for name, value in position.best.items()}
    return arrays


def unpack(model: Trainable, arrays: Arrays) -> Position:
    """Write the state into `model` and return the position. Raises IntegrityError where it does not fit."""
    try:
        for name, value in model.parameters.items():
            _restore(model, name, value, arrays)
        model.generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        epoch, best_epoch, bad = (int(number) for number in arrays["position"])
        best = {
            name: torch.from_numpy(arrays[f"best.{name}"].copy()).to(value.device)
            for name, value in model.parameters.items()
            if best_epoch >= 0
        }
        return Position(epoch, best_epoch, float(arrays["best_value"][0]), bad, best)
    except (KeyError, RuntimeError, ValueError) as error:
        raise IntegrityError(
            f"A checkpoint does not fit the model that should go on from it: {error}.",
            hint="Start the run again from the beginning.",
        ) from None


def _restore(model: Trainable, name: str, value: torch.Tensor, arrays: Arrays) -> None:
    stored = torch.from_numpy(arrays[f"parameter.{name}"].copy())
    if stored.shape != value.shape or stored.dtype != value.dtype:
        raise ValueError(f"{name} is {tuple(stored.shape)} there and {tuple(value.shape)} here")
    with torch.no_grad():
        value.copy_(stored)
    prefix = f"optimizer.{name}."
    moments = {
        key.removeprefix(prefix): torch.from_numpy(array.copy()).to(value.device)
        for key, array in arrays.items()
        if key.startswith(prefix)
    }
    held = model.optimizer.state[value]
    if held.keys() == moments.keys():  # they may be views of something larger
        for key, moment in moments.items():
            held[key].copy_(moment)
    else:
        model.optimizer.state[value] = moments


def _numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()
