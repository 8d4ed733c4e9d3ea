"""Training steps on a GPU as one launch each: recorded once per shape of batch, then replayed (CUDA graphs)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from cmr_core.training.checkpoint import Trainable

Batch = Any
"""A named tuple of tensors and plain values."""


class _Record(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch  # what the graph reads
    loss: torch.Tensor  # what it writes


class Replayed:
    """A step that is recorded when a batch of its shapes comes for the second time, and replayed from then on.

    A step of a small network is hundreds of operations, and launching each takes a processor longer than a GPU needs
    for it. `step` works on the GPU alone without asking any tensor for its value, draws from the model's generator
    only, changes tensors in place, and returns its loss. The numbers are those of the plain step. What differs in a
    plain value is recorded apart. Memory: that of the largest step, for all shapes together.
    """

    def __init__(self, step: Callable[[Batch], torch.Tensor], model: Trainable) -> None:
        self._step, self._model = step, model
        self._seen: set[Hashable] = set()
        self._records: dict[Hashable, _Record] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # shared: only one step is replayed at a time

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Do the step and return its loss."""
        shape = tuple(part.shape if isinstance(part, torch.Tensor) else part for part in batch)
        if shape not in self._seen:  # also what libraries set up once must not be recorded
            self._seen.add(shape)
            return self._plain(batch)
        if shape not in self._records:
            self._records[shape] = self._record(batch)
        graph, held, loss = self._records[shape]
        for own, given in zip(held, batch, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(given)
        graph.replay()
        return loss.clone()

    def _plain(self, batch: Batch) -> torch.Tensor:
        # on the stream that records, as torch asks for: gradients and the workspaces of products belong to a stream
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, batch: Batch) -> _Record:
        parts = (part.clone() if isinstance(part, torch.Tensor) else part for part in batch)
        held = type(batch)(*parts)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._model.generator)
        groups = self._model.optimizer.param_groups
        for group in groups:
            group["capturable"] = True
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss = self._step(held)
        for group in groups:  # unrecorded steps are plain ones
            group["capturable"] = False
        return _Record(graph, held, loss)
