"""Several values of one setting: read from text, checked one by one. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence

from app.forms import Field, differences
from cmr_core.errors import SpecError
from cmr_core.models.registry import MethodInfo
from cmr_core.spec import MethodChoice, Scalar

MOST_VALUES = 20


def values(field: Field, text: str) -> tuple[Scalar, ...]:
    """The values in `0.1, 1, 10`, in that order. Raises SpecError that says which part is wrong."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(_value(field, part) for part in parts)


def check(info: MethodInfo, name: str, chosen: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """The values, if the method takes each of them. Raises SpecError for none, too many, doubles and wrong ones."""
    label = name.replace("_", " ")
    if not chosen:
        raise SpecError(f"{info.label}: {label} has no value to try.", hint="Write for example 0.1, 1, 10.")
    if len(chosen) > MOST_VALUES:
        raise SpecError(f"{info.label}: {label} has {len(chosen)} values; the limit is {MOST_VALUES}.")
    if len(set(chosen)) != len(chosen):
        raise SpecError(f"{info.label}: {label} has a value twice.", hint="Write each one once.")
    for value in chosen:
        differences(info.config, {name: value})
    return tuple(chosen)


def count(choice: MethodChoice) -> int:
    """How many configurations the choice stands for."""
    total = 1
    for several in choice.grid.values():
        total *= len(several)
    return total


def _value(field: Field, part: str) -> Scalar:
    if field.kind == "text":
        return part
    try:
        return int(part) if field.kind == "whole" else float(part)
    except ValueError:
        kind = "whole number" if field.kind == "whole" else "number"
        raise SpecError(
            f"{field.name.replace('_', ' ')}: {part[:40]!r} is no {kind}.", hint="Separate the values by commas."
        ) from None
