"""Transformer encoder layers for many short sequences, with one column per place of a sequence.

Numbers are laid out as (dimensions, L, B): B sequences of L places. Products with weights then run over all places at
once, and attention, whose matrices are tiny (9 x 9, and 4 numbers per head), is a few sums over the long last axis;
torch's own attention treats each head of each sequence by itself and takes five to ten times as long. Same functions
and same named tensors as in `transformer.py`, except that dropout (`noise`) falls on the outputs of the two sublayers
only, as in the equations of Hu et al. (2024); inside them, on attention's weights and between the inner maps, where
`inner` is given too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmr_core.models.towers import SILENT, Noise, dropout, kept

Weights = Mapping[str, torch.Tensor]
EPSILON = 1e-5
PARTS = ("query", "key", "value")
JOINT = "joint"


def joint(weights: Weights) -> dict[str, torch.Tensor]:
    """The weights, and for each layer the maps of query, key and value as one, which the layers here read."""
    found = dict(weights)
    for name in weights:
        place, _, kind = name.rpartition(".query.")
        if place:
            found[f"{place}.{JOINT}.{kind}"] = torch.cat([weights[f"{place}.{part}.{kind}"] for part in PARTS])
    return found


def apply_layer(
    weights: Weights,
    name: str,
    x: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    noise: Noise = SILENT,
    inner: Noise = SILENT,
    *,
    last_only: bool = False,
) -> torch.Tensor:
    """One layer on (d, L, B); `absent` (L, B) bool marks places that nobody attends to.

    `last_only` returns the outputs of the last place alone, (d, 1, B). O(B L d^2 + B L^2 d).
    """
    own = x[:, -1:] if last_only else x
    joined = _project(weights, f"{name}.{JOINT}", x.reshape(len(x), -1)).view(3, heads, -1, *x.shape[1:])
    mixed: torch.Tensor = _Attend.apply(joined, absent, last_only, inner)  # type: ignore[no-untyped-call]
    return _finish(weights, name, own, mixed.reshape(own.shape), noise, inner)


def apply_first_layer(
    weights: Weights,
    name: str,
    shared: torch.Tensor,
    last: torch.Tensor,
    absent: torch.Tensor | None,
    heads: int,
    noise: Noise = SILENT,
    inner: Noise = SILENT,
) -> torch.Tensor:
    """As `apply_layer` on sequences that differ in their last place only: shared (d, n, *a) and last (d, *b).

    The shapes a and b, of two axes each, broadcast to the sequences (X, Y). The shared places attend to each other once
    for all sequences: adding a place to a softmax moves its mean towards the new value by sigmoid(score - logsumexp
    of the others). Dropout on the weights among the shared places is the same for all sequences, too. `absent` (n, *a).
    Returns (d, n + 1, X * Y). O(n X Y d^2), attention O(n X Y d).
    """
    size, n = shared.shape[:2]
    grid = torch.broadcast_shapes(shared.shape[2:], last.shape[1:])  # type: ignore[no-untyped-call]
    query, key, value = _split(weights, f"{name}.{JOINT}", shared, 3 * heads).chunk(3)
    own_query, own_key, own_value = _split(weights, f"{name}.{JOINT}", last[:, None], 3 * heads).chunk(3)
    root = (size // heads) ** 0.5
    scores = (query[:, :, :, None] * key[:, :, None]).sum(1) / root  # (heads, n, n, *a)
    onto = (own_query * key).sum(1) / root  # (heads, n, X, Y)
    if absent is not None:
        scores = scores.masked_fill(absent, -torch.inf)
        onto = onto.masked_fill(absent, -torch.inf)
    among = (dropout(torch.softmax(scores, 2), *inner)[:, None] * value[:, :, None]).sum(3)  # (heads, e, n, *a)
    gate = torch.sigmoid((query * own_key).sum(1) / root - torch.logsumexp(scores, 2))[:, None]
    factors = kept(gate, *inner)
    mixed = torch.lerp(among, own_value if factors is None else own_value * factors, gate)
    itself = ((own_query * own_key).sum(1) / root).expand(heads, 1, *grid)
    share = dropout(torch.softmax(torch.cat([onto.expand(heads, n, *grid), itself], 1), 1), *inner)[:, None]
    own_mixed = (share[:, :, :n] * value).sum(2, keepdim=True) + share[:, :, n:] * own_value
    whole = torch.cat([mixed, own_mixed], 2).reshape(size, n + 1, -1)
    x = torch.cat([shared.expand(size, n, *grid), last[:, None].expand(size, 1, *grid)], 1).reshape(size, n + 1, -1)
    return _finish(weights, name, x, whole, noise, inner)


def _finish(
    weights: Weights, name: str, x: torch.Tensor, mixed: torch.Tensor, noise: Noise, inner: Noise
) -> torch.Tensor:
    """What follows attention, on (d, L, B) places: its output map, two residual sums with norms, and the inner maps."""
    flat = x.reshape(len(x), -1)
    out = _project(weights, f"{name}.out", mixed.reshape(len(x), -1))
    flat = _norm(weights, f"{name}.norm1", flat + dropout(out, *noise))
    raised = dropout(_project(weights, f"{name}.up", flat).relu_(), *inner)
    lowered = _project(weights, f"{name}.down", raised)
    return _norm(weights, f"{name}.norm2", flat + dropout(lowered, *noise)).view_as(x)


def _project(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """(outputs, N) of (inputs, N)."""
    return torch.addmm(weights[f"{name}.bias"][:, None], weights[f"{name}.weight"], x)


def _split(weights: Weights, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    """(heads, d / heads, *rest) of (d, *rest)."""
    return _project(weights, name, x.reshape(len(x), -1)).view(heads, -1, *x.shape[1:])


def _norm(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """Layer normalisation of each column of (d, N)."""
    found: torch.Tensor = _Norm.apply(x, weights[f"{name}.scale"], weights[f"{name}.shift"])  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    """Means over the first axis as products with a row of ones, which are several times as fast as torch's sums."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        mean = x.new_full((1, len(x)), 1 / len(x))
        centred = x - mean @ x
        inverse = (mean @ centred.square()).add_(EPSILON).rsqrt_()
        standard = centred.mul_(inverse)
        ctx.save_for_backward(standard, inverse, scale)
        return torch.addcmul(shift[:, None], standard, scale[:, None])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        standard, inverse, scale = ctx.saved_tensors
        mean = grad.new_full((1, len(grad)), 1 / len(grad))
        along = grad * standard
        to_scale, to_shift = along.sum(1), grad.sum(1)
        inner = grad * scale[:, None]
        slope = mean @ along.mul_(scale[:, None])
        inner.sub_(mean @ inner).addcmul_(standard, slope, value=-1).mul_(inverse)
        return inner, to_scale, to_shift


class _Attend(torch.autograd.Function):
    """Softmax attention (heads, e, L', B) of queries, keys and values, stacked as (3, heads, e, L, B); L' is L or 1."""

    @staticmethod
    def forward(
        ctx: Any, joined: torch.Tensor, absent: torch.Tensor | None, last_only: bool, inner: Noise
    ) -> torch.Tensor:
        query, key, value = joined
        query = (query[:, :, -1:] if last_only else query) * query.shape[1] ** -0.5
        scores = _dots(query, key)
        if absent is not None:
            scores.masked_fill_(absent, -torch.inf)
        share = torch.softmax(scores, 2)
        factors = kept(share, *inner)
        ctx.save_for_backward(joined, query, share, factors)
        return _mean(share if factors is None else share * factors, value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        joined, query, share, factors = ctx.saved_tensors
        _, key, value = joined
        slope = _dots(grad, value)
        if factors is not None:
            slope.mul_(factors)
        slope = slope.sub_((slope * share).sum(2, keepdim=True)).mul_(share)
        found = torch.empty_like(joined)
        own = query.shape[2]  # 1 where only the last place asked
        found[0, :, :, :-own] = 0
        found[0, :, :, -own:] = _mean(slope, key).mul_(query.shape[1] ** -0.5)
        found[1] = _mean(slope.transpose(1, 2), query)
        found[2] = _mean((share if factors is None else share * factors).transpose(1, 2), grad)
        return found, None, None, None


def _dots(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(heads, L', L, B): sums over e of rows (heads, e, L', B) times columns (heads, e, L, B)."""
    found = rows[:, 0, :, None] * columns[:, 0, None]
    for at in range(1, rows.shape[1]):
        found.addcmul_(rows[:, at, :, None], columns[:, at, None])
    return found


def _mean(share: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(heads, e, L', B): sums over L of share (heads, L', L, B) times value (heads, e, L, B)."""
    found = share[:, None, :, 0] * value[:, :, None, 0]
    for at in range(1, share.shape[2]):  # one large product and its sum would take as long and much more memory
        found.addcmul_(share[:, None, :, at], value[:, :, None, at])
    return found
