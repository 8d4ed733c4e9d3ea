"""A convex combination of the scores of several methods, its weights chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from cmr_core.errors import Cancelled, SpecError
from cmr_core.interfaces import FloatArray, IntArray, ParameterCount, Progress, Recommender, Run, Task
from cmr_core.models.base import shape_of
from cmr_core.models.blended import Blend, standardised
from cmr_core.models.registry import Config, register

SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)  # of the weight that a move gives to one member


class BlendConfig(Config):
    """Settings of the search for weights."""

    rounds: int = Field(12, ge=1, le=100, description="Moves of the weights at most; each tries every member")
    valid_users: int = Field(1500, ge=10, le=1_000_000, description="Users that each try asks at most")


@register(
    "blend",
    label="Blend",
    family="combination",
    color="#00a087",
    config=BlendConfig,
    combines=True,
)
class BlendMethod:
    """Adds the scores of other methods, with weights that were best in validation.

    Each member's scores are standardised per user (mean 0, deviation 1 over the catalogue). The search begins with the
    best single member and moves weight to one member at a time, as long as the validation metric rises (forward
    selection with replacement, Caruana et al., ICML 2004, with shares). Memory: the members' scores of the users asked,
    rounds x members x 5 looks at validation.
    """

    def __init__(self, config: BlendConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """Find weights for the run's members. Raises SpecError without members, Cancelled."""
        if not run.members:
            raise SpecError("A blend needs members.", hint="Name the methods that it combines.")
        search = _Search(task, run, self.config)
        weight, value = search.climb()
        names = [member.label for member in run.members]
        details: dict[str, float | str] = {
            f"weight {name}" if names.count(name) == 1 else f"weight {at + 1} {name}": round(float(w), 4)
            for at, (name, w) in enumerate(zip(names, weight, strict=True))
        }
        parts = tuple(member.recommender for member in run.members)
        count = ParameterCount(
            frozen=sum(part.parameters.trainable + part.parameters.frozen for part in parts),
            closed_form=len(parts) + sum(part.parameters.closed_form for part in parts),
        )
        shapes = tuple(shape_of(part) for part in parts)
        return Blend(count, weight.astype(np.float32), parts, shapes, details | {"validation": value})


class _Search:
    """Hill climbing on the simplex of weights. Nothing in it is random."""

    def __init__(self, task: Task, run: Run, config: BlendConfig) -> None:
        self._run, self._config, self._market = run, config, task.target.name
        self._kept: dict[bytes, FloatArray] = {}
        self._tried: dict[tuple[float, ...], float] = {}

    def climb(self) -> tuple[FloatArray, float]:
        """The weights (K,), and their validation value; equal weights where there is nothing to judge by."""
        n = len(self._run.members)
        self._report(0, {})
        weight: FloatArray = max(np.eye(n), key=self._value)
        best = self._value(weight)
        if np.isnan(best):
            self._report(self._config.rounds, {})
            return np.full(n, 1 / n), best
        for done in range(1, self._config.rounds + 1):
            found = max(self._moves(weight), key=self._value)
            if self._value(found) <= best:
                self._report(self._config.rounds, {"valid": best})
                break
            weight, best = found, self._value(found)
            self._report(done, {"valid": best})
        return weight, best

    def _moves(self, weight: FloatArray) -> Iterator[FloatArray]:
        for member in range(len(weight)):
            for share in SHARES:
                moved = weight * (1 - share)
                moved[member] += share
                yield np.round(moved, 6) / np.round(moved, 6).sum()

    def _value(self, weight: FloatArray) -> float:
        key = tuple(np.round(weight, 6).tolist())
        if key not in self._tried:
            if self._run.monitor.cancelled():
                raise Cancelled("Stopped on request while weights were tried.")

            def score(users: IntArray) -> FloatArray:
                total: FloatArray = np.tensordot(weight.astype(np.float32), self._scores(users), axes=1)
                return total

            self._tried[key] = self._run.validate(self._market, score, users=self._config.valid_users)
        return self._tried[key]

    def _scores(self, users: IntArray) -> FloatArray:
        """(K, B, I) of a block of users, kept: the judge asks for the same blocks again and again."""
        key = users.tobytes()
        if key not in self._kept:
            self._kept[key] = np.stack([standardised(m.recommender.score(users)) for m in self._run.members])
        return self._kept[key]

    def _report(self, done: int, metrics: dict[str, float]) -> None:
        self._run.monitor.report(Progress("weights", done, self._config.rounds, metrics))
