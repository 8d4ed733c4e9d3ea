"""What a student learns from a teacher's rankings: WRD and AMRDD of DCMPT (Zhang et al., AAAI 2026, eq. 5 to 15).

Shapes: B users, I items of the target, K items of a teacher's list, S source markets, L items of a sampled list.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional


def exact_ranks(
    scores: torch.Tensor, blocked: torch.Tensor, chosen: torch.Tensor, upto: int | None = None
) -> torch.Tensor:
    """1 + how many items that are not `blocked` score higher than each of `chosen`: (B, K), no gradient.

    `scores`, `blocked` (B, I); `chosen` (B, K) item codes. Ranks beyond `upto` are given as `upto` + 1.
    One sort of each row, or of its best `upto` items: O(B I log I).
    """
    scores = scores.detach()
    known = min(upto or scores.shape[1], scores.shape[1])
    below = torch.searchsorted(_best(scores, blocked, known), scores.gather(1, chosen), right=True)
    return (known - below + 1).to(scores.dtype)


def ranks_needed(items: int, deviation: float) -> int | None:
    """How far ranks matter to `wrd_weights` of `items` places on the raw scale; None: all of them.

    Beyond, the sigmoid is 1 in single precision: 1 - sigmoid(18) is less than half of the last binary place.
    """
    return items + math.ceil(18 / deviation) if deviation > 0.001 else None


def _best(scores: torch.Tensor, blocked: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` highest scores of each row, ascending; blocked ones are -inf."""
    if scores.is_cuda:
        return scores.masked_fill(blocked, -torch.inf).sort(dim=1).values[:, -count:].contiguous()
    # NumPy's vectorised sort takes a fiftieth of the time of torch's on a CPU, its masked copy a third.
    allowed = scores.numpy().copy()
    np.copyto(allowed, -np.inf, where=blocked.numpy())
    if count < allowed.shape[1]:
        allowed.partition(allowed.shape[1] - count, axis=1)
    return torch.from_numpy(np.sort(allowed[:, -count:], axis=1))


def sampled_ranks(
    scores: torch.Tensor, blocked: torch.Tensor, chosen: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """`exact_ranks` estimated from items `draws` (B, n): the share that scores higher, scaled up to all items.

    Draws that are blocked do not count. O(B K n).
    """
    scores = scores.detach()
    usable = ~blocked.gather(1, draws)
    higher = scores.gather(1, draws)[:, None] > scores.gather(1, chosen)[:, :, None]
    share = (higher & usable[:, None]).sum(2) / usable.sum(1, keepdim=True).clamp(min=1)
    others = (~blocked).sum(1, keepdim=True) - 1
    return 1 + share * others


def soft_ranks(scores: torch.Tensor, blocked: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Differentiable ranks: 1 + the sum of sigmoid(s_j - s_r) over the other items that are not blocked, (B, K).

    Memory: B x I x K values for the backward pass.
    """
    own = scores.gather(1, chosen)
    columns = [torch.sigmoid(scores - own[:, r : r + 1]).masked_fill(blocked, 0).sum(1) for r in range(chosen.shape[1])]
    return torch.stack(columns, dim=1) + 0.5  # an item's own sigmoid(0) is half of the 1


def wrd_weights(
    ranks: torch.Tensor, present: torch.Tensor, *, position: float, deviation: float, log_scale: bool
) -> torch.Tensor:
    """w_r = exp(-r / position) * sigmoid(deviation * (rank - r)), normalised over the list (eq. 7 to 9): (B, K).

    `ranks` (B, K) are the student's ranks of the teacher's r-th items; places without an item (`present` False)
    get 0. `log_scale` compares log ranks: the sigmoid of raw ranks saturates after some dozens of places.
    """
    place = torch.arange(1, ranks.shape[1] + 1, dtype=ranks.dtype, device=ranks.device)
    gap = ranks.log() - place.log() if log_scale else ranks - place
    weights = torch.exp((1 - place) / position) * torch.sigmoid(deviation * gap) * present
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def wrd(student: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over users of -sum_r w_r log sigmoid(y_r) (eq. 5); both (B, K). It only attracts: scores drift upward."""
    return (weights * functional.softplus(-student)).sum(1).mean()


def log_preferences(scores: torch.Tensor, absent: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log softmax over the last axis; entries marked `absent` get -inf."""
    return torch.log_softmax((scores / temperature).masked_fill(absent, -torch.inf), dim=-1)


def list_kl(teacher: torch.Tensor, student: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of log preferences over the last axis, which it removes.

    By the chain rule this equals the decoupled form, KL(d_T || d_S) + d_T(-) KL(z_T || z_S) (eq. 11, 13 and 15).
    """
    return (teacher.exp() * (teacher - student).masked_fill(absent, 0)).sum(-1)


def decoupled_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Global plus fine-grained divergence of preferences whose first entry is the positive item's (eq. 11 to 15).

    Both (..., L), probabilities. For batch means of unaligned lists, where only this form is defined.
    """
    small = torch.finfo(teacher.dtype).tiny
    rest_t, rest_s = 1 - teacher[..., :1], 1 - student[..., :1]
    global_t, global_s = (torch.cat([p[..., :1], r], -1) for p, r in ((teacher, rest_t), (student, rest_s)))
    fine_t, fine_s = teacher[..., 1:] / rest_t.clamp(min=small), student[..., 1:] / rest_s.clamp(min=small)
    return _kl(global_t, global_s) + rest_t[..., 0] * _kl(fine_t, fine_s)


def market_weights(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float, gradient: bool) -> torch.Tensor:
    """alpha_m = softmax over markets of -|d_m(+) of the student - d(+) of the teacher| / temperature (eq. 14): (S,).

    Without `gradient` they are constants: otherwise training can lower the loss by disliking the costly market.
    With temperature 1 no two weights differ by more than the factor e.
    """
    gap = -(student - teacher).abs() / temperature
    return torch.softmax(gap if gradient else gap.detach(), dim=0)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    small = torch.finfo(p.dtype).tiny
    return (torch.xlogy(p, p) - p * q.clamp(min=small).log()).sum(-1)
