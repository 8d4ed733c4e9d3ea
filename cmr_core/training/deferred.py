"""Adam (Kingma and Ba, 2015) for tables of users and items of which a step reads few rows.

A step of Adam changes every row of a table, as its moments go on after the last gradient: with 2.9 million scalars that
moves 80 MB for 2,000 rows read. Without weight decay nothing depends on a row until it is read, so it can wait, and the
n steps that it missed after step t have a closed form. With gradients of 0 the moments only decay, m_k = b1^k m and
v_k = b2^k v, and with s = sqrt(v) the missed steps add up to

    -rate * m * sum_k w_k / (s + eps x_k),   k = 1..n,
    x_k = b2^(-k/2) sqrt(1 - b2^(t+k)),      w_k = b1^k x_k / (1 - b1^(t+k)).

The sum depends on s through eps only. With W the sum of the w_k, and X, V and C the mean, the variance and the third
central moment of the x_k under the weights w_k, Gauss's quadrature with two points (as a continued fraction) makes it

    W / (s + eps X - eps^2 V / (s + eps (X + C / V))),

exact in eps to the third order. W, X, V and C depend on t and n alone: with S_j(t) the sum of w_k x_k^j over all k to
infinity, the first n terms are S_j(t) - r^n S_j(t + n), where r = b1 b2^(-(j+1)/2). S_j is a table over t.

Error: with t >= 64 below 3e-5 of the rate for the missed steps together, from t = 256 on below 1e-6, whatever the
gradients were, which is about what rounding to float32 leaves. Earlier the x_k are far apart, and all rows change in
every step. Cost: O(rows read) a step, and O(rows) for `settle` at the end of an epoch. In between, the tables lie
behind where they were not read; whoever reads them otherwise (validation, snapshots, checkpoints) does so after
`settle`, when they are what `torch.optim.Adam` would have made of them.

Weight decay gives every row a gradient in every step, and there is no closed form: with it all rows change in every
step. Then, and for small tables, torch's fused kernel goes through all of them, fed from a gradient table that is kept
and of which only the rows read are written.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # PyTorch's defaults
ORDERS = 4  # sums of w_k x_k^j, j = 0..3
EARLY = 64  # steps in which all rows change
TINY = 1e-30
LAST = 40_000  # steps after which 1 - b^t is 1 in float64
LARGE = 1 << 22  # scalars of a table; below, rows that wait save nothing, as that takes more single operations
CHUNK = 4096  # rows that settle at once
LONGEST = 512  # steps after which they do so in any case
BLOCK = 32  # steps whose coefficients are computed at once


class _Read(NamedTuple):
    """What a step has taken from the tables, (n, D) each, and has to bring back. Rows that repeat are equal."""

    rows: torch.Tensor  # (n,)
    value: torch.Tensor  # up to date
    mean: torch.Tensor  # up to date, as is `square`
    square: torch.Tensor


class TableAdam(torch.optim.Optimizer):
    """Adam on the tables `user.*` and `item.*`, which are one matrix, and on all other parameters.

    The matrix has a row per user, then one per item; the tables of a side stand side by side in alphabetical order.
    `parameters` and the moments in `state` are views of it. `reads`: rows that a step asks for at most. `deferred`:
    rows wait until they are read; by default where that is possible and not slower.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        rate: float,
        *,
        weight_decay: float = 0.0,
        reads: int = 0,
        deferred: bool | None = None,
    ) -> None:
        sides = [sorted(name for name in parameters if name.startswith(f"{side}.")) for side in ("user", "item")]
        value = torch.cat([torch.cat([parameters[name].detach() for name in names], dim=1) for names in sides])
        self._value, self._mean, self._square = value, torch.zeros_like(value), torch.zeros_like(value)
        self.first_item = len(parameters[sides[0][0]])
        self._tables = set(sides[0] + sides[1])
        self.parameters: dict[str, torch.Tensor] = {}
        state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        self._steps = torch.zeros((), dtype=torch.float32, device=value.device)
        for name, given in parameters.items():
            if name in self._tables:
                names = sides[name.startswith("item.")]
                at = sum(parameters[other].shape[1] for other in names[: names.index(name)])
                rows = slice(0, self.first_item) if names is sides[0] else slice(self.first_item, None)
                block = (rows, slice(at, at + given.shape[1]))
                own, mean, square = value[block], self._mean[block], self._square[block]
            else:
                own, mean, square = given.detach().clone(), torch.zeros_like(given), torch.zeros_like(given)
            self.parameters[name] = own
            state[own] = {"step": self._steps, "exp_avg": mean, "exp_avg_sq": square}
        super().__init__(list(state), {})
        self.state.update(state)
        self._rate, self._weight_decay = rate, weight_decay
        # on a GPU the whole tables take less time than the single operations on their rows
        pays = value.device.type == "cpu" and value.numel() >= LARGE and len(value) >= 4 * reads
        self.deferred = weight_decay == 0 and (pays if deferred is None else deferred)
        self._gradient = torch.zeros_like(value)  # 0 but within a step
        self._since = 0  # steps since all rows were settled
        self._seen = torch.zeros(len(value), dtype=torch.int64, device=value.device)  # of these, each row's last one
        self._to_infinity, self._powers = (table.to(value.device) for table in _tables())
        self._block, self._begin = torch.empty(0), 0  # coefficients of the steps from `begin` on
        self._read: _Read | torch.Tensor | None = None

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (n, D) of the matrix, which may repeat. To be called once before each `update`."""
        if not self.deferred or int(self._steps) < EARLY:
            self._read = rows
            return self._value.index_select(0, rows)
        read = _Read(rows, *(table.index_select(0, rows) for table in (self._value, self._mean, self._square)))
        self._catch_up(read.value, read.mean, read.square, self._seen.index_select(0, rows))
        self._read = read
        return read.value

    def update(self, rows: torch.Tensor, others: Mapping[str, torch.Tensor]) -> None:
        """One step with the gradients of the rows that were read (n, D) and of all other parameters."""
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError("An update needs a read before it.")
        self._steps += 1
        if isinstance(read, torch.Tensor):
            _add(self._gradient, read, rows)
            self._adam(self._value, self._gradient, self._mean, self._square, others)
            _put(self._gradient, read, 0)
            return
        # a row that repeats gets the sum of its gradients each time, so that all its copies stay equal
        _add(self._gradient, read.rows, rows)
        gradient = self._gradient.index_select(0, read.rows)
        _put(self._gradient, read.rows, 0)
        self._adam(read.value, gradient, read.mean, read.square, others)
        _put(self._value, read.rows, read.value)
        _put(self._mean, read.rows, read.mean)
        _put(self._square, read.rows, read.square)
        self._since += 1
        self._seen.index_fill_(0, read.rows, self._since)
        if self._since == LONGEST:
            self.settle()

    def settle(self) -> None:
        """Bring every row up to date. O(rows), once after any number of steps."""
        if not self._since:
            return
        for start in range(0, len(self._value), CHUNK):
            rows = slice(start, start + CHUNK)
            self._catch_up(self._value[rows], self._mean[rows], self._square[rows], self._seen[rows])
        self._seen.zero_()
        self._since, self._block = 0, torch.empty(0)

    def _catch_up(self, value: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, seen: torch.Tensor) -> None:
        """Make up for the steps that rows have missed."""
        columns = self._coefficients().index_select(0, self._since - seen)
        weight, first, second, variance, *decays = columns[:, :, None].unbind(1)
        root = square.sqrt()
        below = root + second
        torch.div(variance, below, out=below)
        torch.sub(root.add_(first), below, out=below)
        value.addcdiv_(torch.mul(mean, weight, out=root), below, value=-self._rate)
        mean.mul_(decays[0])
        square.mul_(decays[1])

    def _coefficients(self) -> torch.Tensor:
        """For each number of missed steps: W, eps X, eps (X + C / V), eps^2 V, and the powers of both betas.

        They are computed for the next BLOCK steps at once, as operations this small cost their call.
        """
        now = int(self._steps)
        if not len(self._block) or now >= self._begin + BLOCK:
            self._begin = now
            until = now + torch.arange(BLOCK, device=self._seen.device)[:, None]
            powers = self._powers[: self._since + BLOCK]
            missed = torch.arange(len(powers), device=until.device)
            first = (until - missed).clamp_(0, LAST)  # no row has missed more steps than there were
            sums = self._to_infinity[first] - powers[:, :ORDERS] * self._to_infinity[until.clamp(max=LAST)]
            weight = sums[..., 0]
            one, two, three = (sums[..., 1:] / weight[..., None].clamp(min=TINY)).unbind(-1)
            variance = (two - one * one).clamp_(min=0)
            third = three - one * (3 * two - 2 * one * one)
            # after a single missed step variance and third moment are 0 or rounding; their quotient never exceeds 2 X
            lean = (third / variance.clamp(min=TINY)).clamp_(min=0).minimum(2 * one)
            # without a missed step all sums are 0: any denominator but 0 will do
            found = [weight, EPS * one + TINY, EPS * (one + lean) + TINY, EPS * EPS * variance]
            decays = [powers[:, at].expand_as(weight) for at in (ORDERS, ORDERS + 1)]
            self._block = torch.stack([*found, *decays], dim=-1).to(self._value.dtype)
        return self._block[now - self._begin]

    def _adam(
        self,
        value: torch.Tensor,
        gradient: torch.Tensor,
        mean: torch.Tensor,
        square: torch.Tensor,
        others: Mapping[str, torch.Tensor],
    ) -> None:
        values, gradients, means, squares = [value], [gradient], [mean], [square]
        for name, other in others.items():
            values.append(self.parameters[name])
            gradients.append(other.contiguous())  # the kernel goes through memory, whatever the strides
            means.append(self.state[values[-1]]["exp_avg"])
            squares.append(self.state[values[-1]]["exp_avg_sq"])
        # the kernel of torch.optim.Adam(fused=True), whose bookkeeping in Python takes a tenth of a small step
        torch._fused_adam_(
            values,
            gradients,
            means,
            squares,
            [],
            [self._steps] * len(values),
            lr=self._rate,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=self._weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )


@functools.cache
def _tables() -> tuple[torch.Tensor, torch.Tensor]:
    """The sums S_j(t), (LAST + 1, ORDERS); powers of their ratios and of both betas, (LONGEST + BLOCK, ORDERS + 2)."""
    ratios = [BETA1 * BETA2 ** (-(order + 1) / 2) for order in range(ORDERS)]
    step = torch.arange(LAST + 1, dtype=torch.float64)
    powers = torch.stack([ratio ** step[: LONGEST + BLOCK] for ratio in (*ratios, BETA1, BETA2)], dim=1)
    sums = []
    for order, ratio in enumerate(ratios):
        # w_k x_k^j = r^k f(t + k), so S(t) = r (f(t + 1) + S(t + 1)); at the end all f are 1
        factors = ((1 - BETA2**step) ** ((order + 1) / 2) / (1 - BETA1**step)).tolist()
        found = [ratio / (1 - ratio)]
        for factor in reversed(factors[1:]):
            found.append(ratio * (factor + found[-1]))
        sums.append(found[::-1])
    return torch.tensor(sums, dtype=torch.float64).T.contiguous(), powers


def _add(table: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
    """Add the values to the rows, which may repeat, in the same order every time: `index_add_` has none on a GPU."""
    if table.device.type == "cpu":
        table.index_add_(0, rows, values)
    else:
        table.index_put_((rows,), values, accumulate=True)


def _put(table: torch.Tensor, rows: torch.Tensor, values: torch.Tensor | float) -> None:
    """table[rows] = values; on a CPU by NumPy, which takes less than half the time of PyTorch."""
    if table.device.type == "cpu":
        table.numpy()[rows.numpy()] = values.numpy() if isinstance(values, torch.Tensor) else values
    elif isinstance(values, torch.Tensor):
        table.index_copy_(0, rows, values)
    else:
        table.index_fill_(0, rows, values)
