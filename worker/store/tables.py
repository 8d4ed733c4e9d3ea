"""The schema. The database is the truth; the queue carries run ids and nothing else.

Times are UTC and set by the database's clock. Bytes live in the blob folder under their sha256; a row that
names a sha256 is written after its bytes.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

from sqlalchemy import JSON, Float, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker.store.clock import UtcTime

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "lost")
FINAL = ("succeeded", "failed", "cancelled")
USABLE = ("queued", "running", "lost", "succeeded")  # a fingerprint has one such run at most
_USABLE = text("state IN ('queued', 'running', 'lost', 'succeeded')")


class Base(DeclarativeBase):
    """Names every constraint, so that SQLite and PostgreSQL migrate alike."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {dt.datetime: UtcTime(), dict[str, Any]: JSON, list[Any]: JSON}


class CorpusRow(Base):
    """A corpus: its interactions are the blob `sha256` (Parquet); description and audit are computed at import."""

    __tablename__ = "corpus"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    origin: Mapped[str] = mapped_column(Text)  # where it came from, in words
    sha256: Mapped[str] = mapped_column(String(64))
    description: Mapped[dict[str, Any]]  # sizes, density, long tail, overlap per market
    audit: Mapped[dict[str, Any]]  # leak audit
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(64))


class ListsRow(Base):
    """Imported candidate lists for one market of a corpus; the blob `sha256` (Parquet) holds them."""

    __tablename__ = "lists"
    corpus: Mapped[str] = mapped_column(ForeignKey("corpus.digest", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)  # what an evaluation names
    name: Mapped[str] = mapped_column(String(64))
    market: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    listed: Mapped[int]  # pairs
    relevant: Mapped[int | None]  # pairs that the test asks for; null: the split's test part
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(64))
    __table_args__ = (UniqueConstraint("corpus", "name"),)


class StudyRow(Base):
    """What somebody launched: the StudySpec as JSON, expanded into runs."""

    __tablename__ = "study"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(64))


class StudyRunRow(Base):
    """A study's runs. A run with the same fingerprint is shared by studies, never computed twice."""

    __tablename__ = "study_run"
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)


class RunRow(Base):
    """One JobSpec's life: queued -> running -> succeeded | failed | cancelled | lost (lost can be claimed again)."""

    __tablename__ = "run"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    spec: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    configuration: Mapped[str] = mapped_column(String(64), index=True)
    protocol: Mapped[str] = mapped_column(String(64), index=True)
    protocol_text: Mapped[str] = mapped_column(String(200))
    label: Mapped[str] = mapped_column(String(160))  # method and the settings that differ from its defaults
    method: Mapped[str] = mapped_column(String(64), index=True)
    corpus: Mapped[str] = mapped_column(ForeignKey("corpus.digest"), index=True)
    target: Mapped[str] = mapped_column(String(64), index=True)
    seed: Mapped[int]
    device: Mapped[str] = mapped_column(String(8))
    # life
    state: Mapped[str] = mapped_column(String(12), default="queued", index=True)
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token: it only ever grows
    attempts_allowed: Mapped[int] = mapped_column(default=3)  # a retry raises it
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_until: Mapped[dt.datetime | None]
    worker: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(64))
    sent_at: Mapped[dt.datetime | None]  # when its id last went to the queue
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    # progress
    stage: Mapped[str | None] = mapped_column(String(64))
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    remaining_seconds: Mapped[float | None]
    # result
    error: Mapped[str | None] = mapped_column(Text)
    hint: Mapped[str | None] = mapped_column(Text)
    shape: Mapped[str | None] = mapped_column(String(16))
    parameters: Mapped[dict[str, Any] | None]  # {"trainable", "frozen", "closed_form"}
    details: Mapped[dict[str, Any] | None]  # what the method chose (weights, best epoch, ...)
    environment: Mapped[dict[str, Any] | None]  # versions, device name, threads
    seconds: Mapped[float | None]
    __table_args__ = (
        Index("ix_run_state_created_at", "state", "created_at"),
        Index("uq_run_usable", "fingerprint", unique=True, sqlite_where=_USABLE, postgresql_where=_USABLE),
    )


class MetricRow(Base):
    """A run's mean over users. `part` is valid or test; `slice` is all, or a group such as item:cold, user:few."""

    __tablename__ = "metric"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[str] = mapped_column(String(8), primary_key=True)
    slice: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float] = mapped_column(Float)
    n: Mapped[int]  # users behind the mean


class PointRow(Base):
    """One point of a curve. The attempt is in the key, or a resumed run would draw a zigzag."""

    __tablename__ = "point"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(String(64), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float] = mapped_column(Float)


class StageRow(Base):
    """How long each stage of a run took; `cached` where another run had already built it.

    `key`: what a shared stage is about, see `StageTime`; null for others, and in runs of before there was this column.
    """

    __tablename__ = "stage"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    seconds: Mapped[float]
    cached: Mapped[bool] = mapped_column(default=False)
    key: Mapped[str | None] = mapped_column(String(16))


class ArtifactRow(Base):
    """Stored bytes of a run: per_user, topk, held_out, curves (Parquet), model (safetensors)."""

    __tablename__ = "artifact"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int]  # bytes
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())


class CheckpointRow(Base):
    """The state of an unfinished stage; deleted when the run ends."""

    __tablename__ = "checkpoint"
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))


class SharedRow(Base):
    """A stage that many runs share (a backbone, a teacher): built by one, awaited by the others."""

    __tablename__ = "shared"
    key: Mapped[str] = mapped_column(String(160), primary_key=True)
    sha256: Mapped[str | None] = mapped_column(String(64))  # null while it is being built
    owner_run: Mapped[str | None] = mapped_column(String(36))
    owner_attempt: Mapped[int | None]
    lease_until: Mapped[dt.datetime | None]
    seconds: Mapped[float | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())


class PictureRow(Base):
    """A picture of vectors that a worker computes from the models of finished runs; `key` is its spec's digest.

    queued -> drawing -> done | failed. The blob is a Parquet table of points; `result` holds what is said beside it.
    """

    __tablename__ = "picture"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    message: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None]
    sha256: Mapped[str | None] = mapped_column(String(64))
    asked_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[dt.datetime | None]


class LogRow(Base):
    """A line of a run's log."""

    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), index=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    level: Mapped[str] = mapped_column(String(8))
    text: Mapped[str] = mapped_column(Text)


class WorkerRow(Base):
    """A worker process that was seen; the pages show who is alive."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    host: Mapped[str] = mapped_column(String(128))
    device: Mapped[str] = mapped_column(String(8))
    seen_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    run_id: Mapped[str | None] = mapped_column(String(36))


class AuditRow(Base):
    """Who changed what. Rows are only ever added."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(160))
    detail: Mapped[dict[str, Any] | None]
