"""Adam (Kingma and Ba, 2015) for tables of users and items of which a step reads few rows.

A step of Adam changes every row of a table, as its moments go on after the last gradient. So torch's fused kernel goes
through all of them, at the speed of the memory; what is saved is the rest: the tables are one matrix, looked up at
once, and its gradient is kept from step to step, of which only the rows read are written and cleared.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # PyTorch's defaults


class TableAdam(torch.optim.Optimizer):
    """Adam on the tables `user.*` and `item.*`, which are one matrix, and on all other parameters.

    The matrix has a row per user, then one per item; the tables of a side stand side by side in alphabetical order.
    `parameters` and the moments in `state` are views of it. O(scalars) a step.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], rate: float, *, weight_decay: float = 0.0) -> None:
        sides = [sorted(name for name in parameters if name.startswith(f"{side}.")) for side in ("user", "item")]
        value = torch.cat([torch.cat([parameters[name].detach() for name in names], dim=1) for names in sides])
        self._value, self._mean, self._square = value, torch.zeros_like(value), torch.zeros_like(value)
        self._gradient = torch.zeros_like(value)  # 0 but within a step
        self.first_item = len(parameters[sides[0][0]])
        self.parameters: dict[str, torch.Tensor] = {}
        state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        self._steps = torch.zeros((), dtype=torch.float32, device=value.device)
        for name, given in parameters.items():
            if name in sides[0] + sides[1]:
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
        self._read: torch.Tensor | None = None

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (n, D) of the matrix, which may repeat. To be called once before each `update`."""
        self._read = rows
        return self._value.index_select(0, rows)

    def update(self, rows: torch.Tensor, others: Mapping[str, torch.Tensor]) -> None:
        """One step with the gradients of the rows that were read (n, D) and of all other parameters."""
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError("An update needs a read before it.")
        self._steps += 1
        values, gradients = [self._value], [_add(self._gradient, read, rows)]
        means, squares = [self._mean], [self._square]
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
        _clear(self._gradient, read)


def _add(table: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The table, with the values added to rows that may repeat, in the same order every time."""
    if table.device.type == "cpu":
        return table.index_add_(0, rows, values)
    return table.index_put_((rows,), values, accumulate=True)  # `index_add_` has no order on a GPU


def _clear(table: torch.Tensor, rows: torch.Tensor) -> None:
    """table[rows] = 0; on a CPU by NumPy, which takes less than half the time of PyTorch."""
    if table.device.type == "cpu":
        table.numpy()[rows.numpy()] = 0
    else:
        table.index_fill_(0, rows, 0)
