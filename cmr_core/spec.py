"""What a number means: frozen, validated descriptions of a job. No torch, no I/O.

A `JobSpec` is one method on one target market with one seed. Its digest is the run's fingerprint; the
digest of its protocol (`JobSpec.protocol`) decides which numbers may stand in one chart.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from cmr_core.errors import SpecError

_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[int, Field(ge=1, le=1000, description="Of the method: one that drew otherwise had another")]
T = TypeVar("T", bound=BaseModel)
Scalar = bool | int | float | str
MOST_POINTS = 5000  # configurations of one grid
SplitKind = Literal["ratio", "leave-one-out", "temporal", "events"]
CandidateKind = Literal["catalogue", "sampled-market", "sampled-global", "given"]
Device = Literal["cpu", "gpu"]
SourceSet = Literal["all", "without-one", "only-one"]
FigureKind = Literal[
    "table",
    "ablation",
    "sensitivity",
    "efficiency",
    "sparse-and-rich",
    "item-groups",
    "embedding",
    "attention",
    "market-transfer",
]


class Frozen(BaseModel):
    """Immutable, and strict about keys: an unknown one is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> str:
        """JSON with sorted keys and no spaces: equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


class SplitSpec(Frozen):
    """How each market's interactions are divided into train, validation and test (DESIGN section 3)."""

    kind: SplitKind = Field("events", description="What stays together when interactions are divided")
    order: Literal["random", "latest"] = Field(
        "random", description="leave-one-out only: hold out random items or the latest ones"
    )
    valid: float = Field(0.1, gt=0, lt=0.5, description="Share for validation (ratio, events, temporal)")
    test: float = Field(0.1, gt=0, lt=0.5, description="Share for the test (ratio, events, temporal)")
    deduplicate: bool = Field(True, description="Keep only the earliest of repeated user-item pairs")
    min_rating: float | None = Field(None, description="Ignore interactions rated lower")
    sources: Literal["train", "full"] = Field(
        "train", description="What source markets contribute: their training part, or everything"
    )
    catalogue: Literal["market", "all"] = Field(
        "market",
        description="What a market may recommend: the items that somebody there has, or those of all markets, "
        "as in the code of the ACMR paper's authors",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1)
    each_seed: bool = Field(
        False,
        description="Every seed draws a split and candidates of its own, as papers do that average random splits",
    )

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # a split that makes no use of a choice is what it was before there was the choice: its runs are found again
        data: dict[str, Any] = handler(self)
        if self.catalogue == "market":
            data.pop("catalogue", None)
        if not self.each_seed:
            data.pop("each_seed", None)
        return data


class EvalSpec(Frozen):
    """Which items compete with the held-out ones, and which metrics are computed."""

    candidates: CandidateKind = Field("catalogue", description="Which items compete with the held-out ones")
    negatives: int = Field(99, ge=1, le=10_000, description="Sampled negatives per user (sampled-* only)")
    cutoffs: tuple[int, ...] = Field((5, 10, 20), min_length=1, max_length=8)
    select: str = Field("ndcg@10", pattern=r"^(recall|ndcg|hit|mrr|map|precision)@\d+$")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    given: Digest | None = Field(None, description="Digest of an imported candidate list (given only)")

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(value)) != list(value) or value[0] < 1 or value[-1] > 1000:
            raise ValueError("cutoffs must be different, ascending and between 1 and 1000")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if int(self.select.split("@")[1]) not in self.cutoffs:
            raise ValueError(f"select {self.select!r} uses a cutoff that is not among cutoffs {self.cutoffs}")
        if (self.candidates == "given") != (self.given is not None):
            raise ValueError("`given` names a candidate list exactly when candidates is 'given'")
        return self


class Budget(Frozen):
    """What a run may use. It is no part of a run's fingerprint: it changes no number, except the device."""

    device: Device = Field("cpu", description="Which workers may take it; a missing device is an error")
    max_seconds: int = Field(6 * 3600, ge=1, le=7 * 24 * 3600, description="Wall-clock limit in seconds")


class Member(Frozen):
    """A method that takes part in a combination of several."""

    method: Name
    settings: dict[str, Scalar] = Field(default_factory=dict, max_length=100)
    revision: Revision = 1

    @model_serializer(mode="wrap")
    def _without_first_revision(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if self.revision == 1:
            data.pop("revision", None)  # what it was before there were revisions
        return data


class JobSpec(Frozen):
    """One method, one target market, one seed."""

    schema_version: Literal[1] = 1
    corpus: Digest
    target: Name
    sources: tuple[Name, ...] = ()
    method: Name
    revision: Revision = 1
    settings: dict[str, Scalar] = Field(default_factory=dict, max_length=100)
    members: tuple[Member, ...] = Field((), max_length=20, description="What a combining method combines")
    split: SplitSpec = SplitSpec()
    evaluation: EvalSpec = EvalSpec()
    seed: int = Field(0, ge=0, le=2**31 - 1)
    budget: Budget = Budget()

    @field_validator("settings")
    @classmethod
    def _finite(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        for key, item in value.items():
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"setting {key!r} must be a finite number")
        return value

    @field_validator("sources")
    @classmethod
    def _sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a source market is named twice")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _lists_are_of_the_market(self) -> Self:
        if self.split.catalogue == "all" and self.evaluation.candidates == "given":
            raise ValueError("imported lists hold a market's own items: they need the split's catalogue 'market'")
        return self

    @model_validator(mode="after")
    def _seeds_of_split_are_free(self) -> Self:
        _check_each_seed(self.split, self.evaluation)
        return self

    @model_validator(mode="after")
    def _target_is_no_source(self) -> Self:
        if self.target in self.sources:
            raise ValueError(f"market {self.target!r} is the target and cannot be a source too")
        return self

    def drawn(self) -> JobSpec:
        """The job with the split and the candidates that its seed draws, where each seed draws its own."""
        if not self.split.each_seed:
            return self
        split = self.split.model_copy(update={"each_seed": False, "seed": self.seed})
        evaluation = self.evaluation.model_copy(update={"seed": self.seed})
        return self.model_copy(update={"split": split, "evaluation": evaluation})

    def fingerprint(self) -> str:
        """Digest of everything that decides the numbers (the budget only through its device)."""
        return self._hashed(set())

    def configuration(self) -> str:
        """Digest of what makes a row of a methods-by-markets table: the fingerprint without target, seed and device.

        A GPU draws other random numbers, as another seed does; it is no other method.
        """
        return self._hashed({"seed", "target", "sources"}, device="cpu")

    def _hashed(self, without: set[str], device: Device | None = None) -> str:
        # what makes no use of members or revisions is what it was before there were any: its runs are found again
        unused = {name for name, used in (("members", self.members), ("revision", self.revision > 1)) if not used}
        body = self.model_dump(mode="json", exclude={"budget", *without, *unused})
        body["device"] = device or self.budget.device
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def protocol(self) -> str:
        """Digest of corpus, split and evaluation: only numbers with the same one may be compared."""
        return protocol_digest(self.corpus, self.split, self.evaluation)

    def protocol_text(self) -> str:
        """The protocol in words, for tables and charts, e.g. `events 80/10/10 · catalogue`."""
        return protocol_text(self.split, self.evaluation)


def _check_each_seed(split: SplitSpec, evaluation: EvalSpec) -> None:
    if not split.each_seed:
        return
    if split.seed or evaluation.seed:
        raise ValueError("with `each_seed` the runs' seeds draw split and candidates: leave both `seed`s at 0")
    if evaluation.given is not None:
        raise ValueError("imported lists belong to one split: they need `each_seed: false`")


def protocol_digest(corpus: str, split: SplitSpec, evaluation: EvalSpec) -> str:
    """Digest of a corpus, a split and an evaluation."""
    body = {"corpus": corpus, "split": split.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def protocol_text(split: SplitSpec, evaluation: EvalSpec) -> str:
    """A split and an evaluation in words.

    Departures from the defaults are named, but for cutoffs, the metric that selects and the seed of the negatives: two
    protocols may read alike, and only `protocol_digest` tells them apart (see `worker.store.naming.protocol_names`).
    """
    if split.kind == "leave-one-out":
        words = [f"leave-one-out ({split.order})"]
    else:
        rest = 1 - split.valid - split.test
        words = [f"{split.kind} {rest * 100:.0f}/{split.valid * 100:.0f}/{split.test * 100:.0f}"]
    sampled = evaluation.candidates.startswith("sampled")
    drawn = (
        f" ({evaluation.negatives} negatives)" if sampled else f" ({evaluation.given[:8]})" if evaluation.given else ""
    )
    words.append(evaluation.candidates + drawn)
    if not split.deduplicate:
        words.append("repeats kept")
    if split.min_rating is not None:
        words.append(f"ratings ≥ {split.min_rating:g}")
    if split.sources == "full":
        words.append("sources in full")
    if split.catalogue == "all":
        words.append("items of all markets")
    words += [f"split seed {split.seed}"] if split.seed else []
    words += ["a split per seed"] if split.each_seed else []
    return " · ".join(words)


def parse(model: type[T], data: Any, *, subject: str = "", hint: str = "") -> T:
    """Validate outside input. Raises SpecError that names each wrong key and what is wrong with it.

    `subject` is what a person calls the thing; the model's name in small letters where it is not given.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        subject = subject or model.__name__.removesuffix("Spec").lower()
        faults = plain_faults(error.errors(include_url=False), model.model_fields)
        raise SpecError(f"Not a valid {subject}: {'; '.join(faults[:8])}.", hint=hint) from None


def plain_faults(errors: Iterable[Mapping[str, Any]], keys: Iterable[str] = ()) -> list[str]:
    """Pydantic's errors in plain words, each once: `seeds: must be a list`. `keys` are those that may be meant."""
    errors, keys = list(errors), list(keys)
    places = [error["loc"] for error in errors]
    found: dict[str, None] = {}
    for error in errors:
        place = error["loc"]
        if error["type"] == "too_short" and any(p[: len(place)] == place and p != place for p in places):
            continue  # a list counts as empty where its members are wrong
        alternative = bool(place) and place[-1] in _SCALARS
        words = "must be a finite number, a text, true or false" if alternative else _plain(error, keys)
        where = ".".join(map(str, place[:-1] if alternative else place))
        found[f"{where}: {words}" if where else words] = None
    return list(found)


_SCALARS = ("bool", "int", "float", "str")
_WORDS = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "dict_type": "must consist of keys and values",
    "model_type": "must consist of keys and values",
    "invalid_key": "keys must be text",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "too_short": "must not be empty",
}


def _plain(error: Mapping[str, Any], keys: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        place = error["loc"]
        near = difflib.get_close_matches(str(place[-1]), keys, n=1) if len(place) == 1 else []
        return "there is no such key" + (f"; perhaps {near[0]} is meant" if near else "")
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == _NAME:
        return "must consist of small letters, digits, dots, dashes and underscores"
    known = _WORDS.get(error["type"])
    return known or error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


class Protocol(Frozen):
    """A split and an evaluation: what makes numbers comparable."""

    split: SplitSpec = SplitSpec()
    evaluation: EvalSpec = EvalSpec()

    @model_validator(mode="after")
    def _seeds_of_split_are_free(self) -> Self:
        _check_each_seed(self.split, self.evaluation)
        return self

    def text(self) -> str:
        """The protocol in words."""
        return protocol_text(self.split, self.evaluation)


class MethodChoice(Frozen):
    """One method of a study; every combination of the grid's values is a configuration of its own."""

    method: Name
    label: str | None = Field(None, max_length=80, description="Name in tables; made from the settings if absent")
    settings: dict[str, Scalar] = Field(default_factory=dict, max_length=100)
    grid: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(default_factory=dict, max_length=10)
    members: tuple[Member, ...] = Field((), max_length=20, description="What a combining method combines")

    @field_validator("grid")
    @classmethod
    def _few_points(cls, value: dict[str, tuple[Scalar, ...]]) -> dict[str, tuple[Scalar, ...]]:
        points = math.prod(map(len, value.values()))
        if points > MOST_POINTS:  # a small file can stand for more than memory holds
            raise ValueError(f"a grid makes {MOST_POINTS} configurations at most, not {points}")
        return value


class StudySpec(Frozen):
    """What an analyst launches: methods x targets x protocols x seeds. Equal to the file `study.yaml`."""

    schema_version: Literal[1] = 1
    name: Name
    corpus: str = Field(max_length=100, description="Name or digest of a corpus in the store")
    targets: tuple[Name, ...] = Field((), description="Target markets; none means all of the corpus")
    sources: tuple[Name, ...] | None = Field(None, description="Source markets; absent means all but the target")
    methods: tuple[MethodChoice, ...] = Field(min_length=1, max_length=100)
    protocols: tuple[Protocol, ...] = Field((Protocol(),), min_length=1, max_length=10)
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=20)
    budget: Budget = Budget()
    source_sets: tuple[SourceSet, ...] = Field(
        ("all",), min_length=1, description="Which sources a run gets: all named, all but one in turn, one in turn"
    )
    title: str = Field("", max_length=120, description="What the study asks, in words; its name where absent")
    paper: str = Field("", max_length=80, description="The published table that its numbers stand beside")
    figures: tuple[FigureKind, ...] = Field(("table",), min_length=1, description="What its page shows, in order")
    note: str = Field("", max_length=2000)

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value) or min(value) < 0 or max(value) >= 2**31:
            raise ValueError("seeds must be different and between 0 and 2147483647")
        return value
