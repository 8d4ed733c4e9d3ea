"""What stands in an exported study: the JSON members, as frozen models with bounds."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, JsonValue

from cmr_core.spec import Digest, Frozen, JobSpec, Name, StudySpec

FORMAT: Final = "cmr-study"
VERSION: Final = 1
Count = Annotated[int, Field(ge=0, le=2**62)]
Small = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0)]
_CLEAN = r"^[^\x00]*$"  # PostgreSQL keeps no zero characters
Short = Annotated[str, Field(max_length=32, pattern=_CLEAN)]
Medium = Annotated[str, Field(max_length=64, pattern=_CLEAN)]
Label = Annotated[str, Field(max_length=160, pattern=_CLEAN)]


class Member(Frozen):
    """What the manifest says about a member."""

    sha256: Digest
    size: Count


class Manifest(Frozen):
    """The first thing that is read."""

    format: Literal["cmr-study"] = FORMAT
    schema_version: Literal[1] = VERSION
    members: dict[str, Member]


class CorpusEntry(Frozen):
    """Which corpus the runs are about."""

    corpus_digest: Digest
    name: Name
    markets: tuple[Name, ...]


class StudyEntry(Frozen):
    """The study itself."""

    id: str = Field(pattern=r"^[0-9a-f-]{36}$")
    spec: StudySpec
    corpus: CorpusEntry
    created_at: AwareDatetime
    created_by: Medium
    exported_at: AwareDatetime


class MetricEntry(Frozen):
    """A mean over users."""

    part: Literal["valid", "test"]
    slice: Short
    name: Short
    value: float
    n: Small


class StageEntry(Frozen):
    """How long a stage took. `key`: as in the database; files of before there was one do not have it."""

    name: Medium
    seconds: Seconds
    cached: bool
    key: Annotated[str, Field(max_length=16, pattern=_CLEAN)] | None = None


class ArtifactEntry(Frozen):
    """Bytes of the run; the member `blobs/<sha256>`."""

    kind: Short
    sha256: Digest
    created_at: AwareDatetime


class ParameterEntry(Frozen):
    """Numbers of scalars."""

    trainable: Count
    frozen: Count
    closed_form: Count


class RunEntry(Frozen):
    """One finished run. What can be computed from the spec is not in here."""

    spec: JobSpec
    label: Label
    attempt: int = Field(ge=1, le=2**31 - 1)
    created_at: AwareDatetime
    created_by: Medium
    started_at: AwareDatetime | None
    finished_at: AwareDatetime
    seconds: Seconds
    shape: Annotated[str, Field(pattern=r"^[a-z-]{1,16}$")]
    parameters: ParameterEntry
    details: dict[str, JsonValue]
    environment: dict[str, str]
    metrics: tuple[MetricEntry, ...]
    stages: tuple[StageEntry, ...]
    artifacts: tuple[ArtifactEntry, ...]

    def blobs(self) -> dict[str, str]:
        """sha256 of each kind of artifact."""
        return {artifact.kind: artifact.sha256 for artifact in self.artifacts}
