"""One of several methods, or of several settings of one: the one that validation likes best."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

from cmr_core.errors import Cancelled, SpecError
from cmr_core.interfaces import Fitted, ListScoring, Progress, Recommender, Run, Task
from cmr_core.models.registry import Config, register


class BestOfConfig(Config):
    """It has no settings: all validation users are asked."""


@register(
    "best-of",
    label="Best on validation",
    family="combination",
    color="#0077ff",
    config=BestOfConfig,
    combines=True,
)
class BestOf:
    """Of several models the one with the highest validation value, in each market by itself.

    What one gets by trying them all and keeping the best without a look at the test; members may be one method with
    several settings. The first of equals, and the first where the market has no validation rows. It costs what its
    members cost, and each member's scores of the validation users once. Memory: that of the members.
    """

    def __init__(self, config: BestOfConfig) -> None:
        self.config = config

    def fit(self, task: Task, run: Run) -> Recommender:
        """The best of the run's members, with every member's value. Raises SpecError without members, Cancelled."""
        if not run.members:
            raise SpecError("There is nothing to choose from.", hint="Name the methods to choose from as members.")
        values = []
        for at, member in enumerate(run.members):
            run.monitor.report(Progress("choice", at, len(run.members)))
            if run.monitor.cancelled():
                raise Cancelled("Stopped on request while members were judged.")
            values.append(run.validate(task.target.name, _scoring(member)))
        run.monitor.report(Progress("choice", len(run.members), len(run.members)))
        best = max(range(len(values)), key=lambda at: -math.inf if math.isnan(values[at]) else values[at])
        names = [member.label for member in run.members]
        names = [name if names.count(name) == 1 else f"{at} {name}" for at, name in enumerate(names, start=1)]
        chosen = run.members[best].recommender
        found: dict[str, float | str] = {"chosen": names[best], "validation": values[best]}
        found |= {f"validation of {name}": value for name, value in zip(names, values, strict=True)}
        # every fitted method is a frozen dataclass with this field
        return cast(
            Recommender,
            replace(cast(Any, chosen), details=found | {k: v for k, v in chosen.details.items() if k not in found}),
        )


def _scoring(member: Fitted) -> Any:
    return member.recommender if isinstance(member.recommender, ListScoring) else member.recommender.score
