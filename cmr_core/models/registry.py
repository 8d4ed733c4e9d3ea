"""Methods find their way into forms, command line, tests and tables by registering here, beside their definition."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from cmr_core.errors import SpecError
from cmr_core.interfaces import Method
from cmr_core.spec import Frozen, Scalar, SplitSpec, parse

Family = Literal["reference", "single-market", "cross-market", "cross-domain", "multi-task", "combination"]


class Config(Frozen):
    """Base of every method's settings. Each knob is written once: default, bounds, description."""


@dataclass(frozen=True)
class MethodInfo:
    """What the outside knows about a method. The docstring's first line is the summary."""

    name: str
    label: str
    family: Family
    color: str  # "#rrggbb", the same on every page
    config: type[Config]
    build: Callable[[Any], Method]
    deterministic: bool  # the seed changes nothing but the order of ties: one seed is enough
    uses_sources: bool
    pretrains: bool  # its result is the backbone that other methods adapt
    combines: bool  # it is made of other methods, which its job names as members
    revision: int  # runs of another revision had other numbers from the same settings and seed
    published: Mapping[str, Scalar]  # what its paper, or public code of it, has where our defaults differ
    doc: str
    summary: str

    def configure(self, settings: Mapping[str, Scalar]) -> Config:
        """Validated settings, defaults filled in. Raises SpecError on unknown keys and values out of bounds."""
        hint = f"Its settings: {', '.join(self.config.model_fields)}." if self.config.model_fields else "It has none."
        return parse(self.config, dict(settings), subject=f"setting of {self.label}", hint=hint)

    def one_seed(self, split: SplitSpec) -> bool:
        """Whether every seed gives the same numbers under the split, so that one is enough."""
        return self.deterministic and not split.each_seed

    def named(self, settings: Mapping[str, Scalar]) -> str:
        """The label and the settings that differ from the defaults, e.g. `EASE (regularisation=100)`."""
        defaults = self.config().model_dump(mode="json")
        changed = [f"{name}={value}" for name, value in settings.items() if defaults.get(name) != value]
        return self.label + (f" ({', '.join(changed)})" if changed else "")

    def create(self, settings: Mapping[str, Scalar]) -> Method:
        """The method, configured."""
        return self.build(self.configure(settings))


_methods: dict[str, MethodInfo] = {}
C = TypeVar("C", bound=type)


def register(
    name: str,
    *,
    label: str,
    family: Family,
    color: str,
    config: type[Config],
    deterministic: bool = False,
    uses_sources: bool = True,
    pretrains: bool = False,
    combines: bool = False,
    revision: int = 1,
    published: Mapping[str, Scalar] = MappingProxyType({}),
) -> Callable[[C], C]:
    """Class decorator: `Class(config).fit(task, run)` becomes the method `name`.

    Raise `revision` by one where the same settings and seed come to give other numbers than before: stored runs of
    earlier revisions then stand beside the new ones, and are never taken for them. `published`: settings of the paper
    or of public code of it, as far as they are known and there is such a setting, where the defaults are others.
    """

    def add(cls: C) -> C:
        if name in _methods and _methods[name].build.__qualname__ != cls.__qualname__:
            raise SpecError(f"Two methods are called {name!r}; give {cls.__qualname__} another name.")
        doc = inspect.cleandoc(cls.__doc__ or "")
        if not doc:
            raise SpecError(f"Method {name!r} has no docstring; its first line is what analysts read.")
        facts = (deterministic, uses_sources, pretrains, combines, revision, published)
        _methods[name] = MethodInfo(name, label, family, color, config, cls, *facts, doc, doc.splitlines()[0])
        return cls

    return add


def load() -> dict[str, MethodInfo]:
    """All methods by name; imports every module of `cmr_core.models` once (and torch with them)."""
    package = importlib.import_module("cmr_core.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"cmr_core.models.{module.name}")
    return dict(sorted(_methods.items()))


def get(name: str) -> MethodInfo:
    """The method called `name`. Raises SpecError naming those there are."""
    methods = load()
    if name not in methods:
        raise SpecError(f"There is no method {name!r}.", hint=f"Methods: {', '.join(methods)}.")
    return methods[name]
