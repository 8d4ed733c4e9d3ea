"""A search for a method's settings with Optuna: rounds of ordinary studies, judged on validation alone.

Every trial is a run like any other: it is in the store, shared stages are shared, and a search that is repeated finds
its runs again. Test numbers are never read here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from cmr_core.errors import SpecError
from cmr_core.spec import MethodChoice, Scalar, StudySpec
from worker.store.audit import Actor
from worker.store.corpora import get_corpus
from worker.store.session import Store
from worker.store.studies import expand, launch_study
from worker.store.tables import MetricRow, RunRow, StudyRunRow

if TYPE_CHECKING:
    from cmr_core.models.registry import MethodInfo

WIDE = 100  # a range whose ends differ by more is searched on a logarithmic scale
SMALLEST = 1e-6  # where a setting must be above 0 and nothing says how far

Execute = Callable[[list[str], list[str]], object]  # ids of new runs and of all runs; returns once all have ended


@dataclass(frozen=True)
class Best:
    """The settings with the best validation value; `judged` of the trials had one."""

    settings: dict[str, Scalar]
    value: float
    judged: int


def search(
    store: Store, actor: Actor, study: StudySpec, vary: Sequence[str], *, trials: int, at_once: int, execute: Execute
) -> Best:
    """Search around a study of one method, target, protocol and seed, `at_once` trials in a round.

    `vary` names settings, or ranges of them as NAME=LOW:HIGH. Optuna's TPE sampler proposes, with the study's seed.
    Raises SpecError without Optuna, for settings that cannot be varied, and where no trial succeeded.
    """
    from cmr_core.models.registry import get

    optuna = _optuna()
    method = study.methods[0]
    info = get(method.method)
    space = dict(_dimension(optuna, info, text) for text in vary)
    sampler = optuna.samplers.TPESampler(seed=study.seeds[0], constant_liar=True)
    book = optuna.create_study(direction="maximize", sampler=sampler)
    for start in range(0, trials, at_once):
        asked = [book.ask(space) for _ in range(min(at_once, trials - start))]
        points = [method.model_copy(update={"settings": method.settings | trial.params}) for trial in asked]
        values = _round(store, actor, study, [p if _possible(info, p) else None for p in points], execute)
        for trial, value in zip(asked, values, strict=True):
            state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
            book.tell(trial, value, state)
    judged = [trial for trial in book.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not judged:
        raise SpecError("No trial has a validation value.", hint="`cmr runs --state failed` shows what went wrong.")
    return Best(method.settings | book.best_params, float(book.best_value), len(judged))


def _round(
    store: Store, actor: Actor, study: StudySpec, points: list[MethodChoice | None], execute: Execute
) -> list[float | None]:
    """The validation value of each point; None where its run did not succeed, or where there is no point."""
    spec = study.model_copy(update={"methods": tuple(point for point in points if point is not None)})
    if not spec.methods:
        return [None] * len(points)
    launched = launch_study(store, actor, spec)
    execute(launched.created, launched.created + launched.reused)
    corpus = get_corpus(store, spec.corpus)
    query = (
        select(RunRow.fingerprint, MetricRow.value)
        .join(MetricRow, MetricRow.run_id == RunRow.id)
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == launched.study_id, RunRow.state == "succeeded")
        .where(MetricRow.part == "valid", MetricRow.slice == "all")
        .where(MetricRow.name == spec.protocols[0].evaluation.select)
    )
    with store.read() as session:
        values = {row.fingerprint: row.value for row in session.execute(query)}
    alone = [study.model_copy(update={"methods": (point,)}) if point else None for point in points]
    return [values.get(expand(one, corpus)[0].fingerprint()) if one else None for one in alone]


def _possible(info: MethodInfo, point: MethodChoice) -> bool:
    # settings within their bounds can still contradict each other
    try:
        info.configure(point.settings)
    except SpecError:
        return False
    return True


def _dimension(optuna: Any, info: MethodInfo, text: str) -> tuple[str, Any]:
    """Name and distribution of `NAME` or `NAME=LOW:HIGH`, within the bounds that the method's settings have."""
    name, given, ends = text.partition("=")
    schema = info.config.model_json_schema()["properties"].get(name)
    if schema is None:
        raise SpecError(f"{info.label} has no setting {name[:64]!r}.", hint=f"Its settings: {', '.join(_names(info))}.")
    if not given and (schema.get("enum") or schema.get("type") == "boolean"):
        return name, optuna.distributions.CategoricalDistribution(schema.get("enum", [False, True]))
    kinds = {
        "integer": (int, optuna.distributions.IntDistribution),
        "number": (float, optuna.distributions.FloatDistribution),
    }
    if schema.get("type") not in kinds:
        raise SpecError(f"{name} cannot be varied in a range.", hint="Name it alone, or vary another setting.")
    number, distribution = kinds[schema["type"]]
    try:
        low, high = map(number, ends.split(":")) if given else _bounds(schema)
        if low < schema.get("minimum", low) or low <= schema.get("exclusiveMinimum", low - 1):
            raise ValueError("below what the setting allows")
        if high > schema.get("maximum", high) or high >= schema.get("exclusiveMaximum", high + 1):
            raise ValueError("above what the setting allows")
        return name, distribution(low, high, log=low > 0 and high / low > WIDE)
    except ValueError:
        bounds = {key: value for key, value in schema.items() if key.lower().endswith("imum")}
        hint = f"Write {name}=LOW:HIGH, the lower end first, within its bounds: {bounds}."
        raise SpecError(f"{text[:80]!r} is no range that can be searched.", hint=hint) from None


def _bounds(schema: dict[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", schema["exclusiveMinimum"] + SMALLEST if "exclusiveMinimum" in schema else None)
    high = schema.get("maximum", schema["exclusiveMaximum"] - SMALLEST if "exclusiveMaximum" in schema else None)
    if low is None or high is None:
        raise ValueError("open range")
    return low, high


def _names(info: MethodInfo) -> list[str]:
    return list(info.config.model_fields)


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise SpecError(
            "A search needs Optuna, which is not installed.",
            hint="Install the extra `optional`: .venv/bin/python -m pip install -e '.[optional]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
