"""Every setting that comes from outside. The only module that reads the environment (prefix `CMR_`)."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.broker import embedded

DAY = 24 * 3600


class Settings(BaseSettings):
    """Where state lies, which services are used, and how patient the worker is. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="CMR_", extra="ignore", frozen=True)

    home: Path = Field(Path("var"), description="Folder of all state: database, blobs, broker, logs")
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite in `home`")
    broker_url: str = Field("", description="Redis URL; empty means the embedded broker's socket in `home`")

    host: str = Field("127.0.0.1", description="Address that the dashboard listens on")
    port: int = Field(8501, ge=1, le=65535)
    role: Literal["viewer", "analyst", "admin"] = Field("admin", description="What the dashboard's users may do")
    sample: bool = Field(True, description="Whether `up` loads the sample corpus and a small comparison when it is new")

    lease_seconds: float = Field(120, gt=0, description="A run without a heartbeat for so long is lost")
    heartbeat_seconds: float = Field(15, gt=0)
    poll_seconds: float = Field(1, gt=0, description="How often a run looks at its cancel flag and writes progress")
    outage_seconds: float = Field(300, ge=0, description="How long a finished result waits for the database")
    sweep_seconds: float = Field(10, gt=0, description="How often the reaper looks")
    garbage_seconds: float = Field(6 * 3600, gt=0, description="Age at which unreferenced bytes are removed")
    max_attempts: int = Field(3, ge=1, description="A run that killed its worker so often has failed")
    visibility_seconds: int = Field(8 * DAY, gt=0, description="Broker redelivers after this; above every hard limit")
    soft_shutdown_seconds: float = Field(60, ge=0, description="How long a stopping worker may save its run")

    stop_seconds: float = Field(20, ge=0, description="How long `up` waits for running jobs to save themselves")

    worker_device: Literal["cpu", "gpu"] = Field("cpu", description="Which queue this worker process serves")
    worker_gpu: str | None = Field(None, description="The only GPU that this worker process sees: its number or UUID")
    workers: int = Field(1, ge=1, description="Worker processes on this machine; they share its cores")
    threads: int | None = Field(None, ge=1, description="Torch threads per worker process; cores / workers if absent")
    plugins: tuple[str, ...] = Field((), description="Modules with further methods, imported by the worker")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite://", "postgresql+psycopg://")):
            raise ValueError("must begin with postgresql+psycopg:// or sqlite://")
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        if value and not value.startswith(("redis://", "rediss://", "redis+socket://")):
            raise ValueError("must begin with redis://, rediss:// or redis+socket://")
        return value

    @model_validator(mode="after")
    def _patient_enough(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("CMR_LEASE_SECONDS must be at least twice CMR_HEARTBEAT_SECONDS")
        return self

    @property
    def root(self) -> Path:
        """`home`, absolute."""
        return self.home.expanduser().resolve()

    @property
    def blobs(self) -> Path:
        """Folder of the stored bytes. Every machine with a worker needs the same one."""
        return self.root / "blobs"

    @property
    def database(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.root / 'cmr.db'}"

    @property
    def broker_socket(self) -> Path:
        """Unix socket of the embedded broker: in `home`, or in a short folder where that path is too long."""
        return embedded(self.root).socket

    @property
    def broker(self) -> str:
        """The broker's URL as Celery reads it."""
        return self.broker_url or embedded(self.root).url

    @property
    def torch_threads(self) -> int:
        """Threads per worker process: more than the cores allow makes training many times slower."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def hostname(self) -> str:
        """This machine's name."""
        return socket.gethostname()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once. Raises pydantic's ValidationError that names the variable at fault."""
    return Settings()
