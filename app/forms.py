"""A method's settings as form fields, made from its own schema; and a study as a file. No Streamlit here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from cmr_core.models.registry import Config
from cmr_core.spec import Scalar, StudySpec, parse

Kind = Literal["switch", "choice", "whole", "number", "text"]


@dataclass(frozen=True)
class Field:
    """One setting. `low` and `high` are inclusive; `above` and `below` are bounds that the value must not touch."""

    name: str
    kind: Kind
    default: Scalar | None
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Scalar, ...] = ()
    optional: bool = False

    @property
    def range(self) -> str:
        """The bounds in words, empty where there are none."""
        low = f"≥ {self.low:g}" if self.low is not None else f"> {self.above:g}" if self.above is not None else ""
        high = f"≤ {self.high:g}" if self.high is not None else f"< {self.below:g}" if self.below is not None else ""
        return ", ".join(part for part in (low, high) if part)


def fields(config: type[Config]) -> list[Field]:
    """The settings of a method, in the schema's order."""
    return [_field(name, info) for name, info in config.model_fields.items()]


def differences(config: type[Config], values: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    """What departs from the defaults: only that is stored in a study. Raises SpecError where a value cannot be."""
    checked = parse(config, {name: value for name, value in values.items() if value is not None})
    defaults, chosen = _plain(config()), _plain(checked)
    return {name: value for name, value in chosen.items() if value is not None and value != defaults[name]}


def study_yaml(spec: StudySpec) -> str:
    """The study as a file for `cmr launch`; only what departs from the defaults is written."""
    body = spec.model_dump(mode="json", exclude_defaults=True)
    head = {"schema_version": spec.schema_version, "name": spec.name, "corpus": spec.corpus}
    text: str = yaml.safe_dump(head | body, sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in "\x85\u2028\u2029"):  # YAML would read these line ends back as spaces
        text = yaml.safe_dump(head | body, sort_keys=False)
    return text


def _field(name: str, info: FieldInfo) -> Field:
    kind, choices, optional = _kind(info.annotation)
    bounds = dict(_bounds(info))
    default = info.get_default(call_default_factory=True, validated_data={})
    return Field(name, kind, default, info.description or "", choices=choices, optional=optional, **bounds)


def _kind(annotation: Any) -> tuple[Kind, tuple[Scalar, ...], bool]:
    options = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "choice", options, False
    if type(None) in options:
        (inner,) = [option for option in options if option is not type(None)]
        kind, choices, _ = _kind(inner)
        return kind, choices, True
    simple: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number"}
    return simple.get(annotation, "text"), (), False


def _bounds(info: FieldInfo) -> Iterator[tuple[str, float]]:
    for mark in info.metadata:
        for kind, name, attribute in ((Ge, "low", "ge"), (Le, "high", "le"), (Gt, "above", "gt"), (Lt, "below", "lt")):
            if isinstance(mark, kind):
                yield name, float(getattr(mark, attribute))


def _plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")
