"""Commands that start something and keep it running, and those that prepare the state folder."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from worker.settings import get_settings

Device = Literal["cpu", "gpu"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, worker, reaper, migrate, health, prepare):
        app.command(hidden=command in (health, prepare))(command)
    app.command("app")(dashboard)


def up() -> None:
    """Start everything on this machine: broker, workers, reaper and dashboard. Ctrl-C stops it all."""
    from worker import services

    services.up(get_settings(), lambda text: typer.echo(text))


def worker(
    device: Annotated[Device, typer.Option(help="Which jobs this worker takes.")] = "cpu",
    gpu: Annotated[str | None, typer.Option(help="Number or UUID of the GPU to use (with --device gpu).")] = None,
) -> None:
    """Start one worker in the foreground. Further machines join with this command."""
    from cmr_core.errors import DeviceError, SpecError
    from worker import services

    if device == "cpu" and gpu is not None:
        raise SpecError("--gpu chooses among GPUs, and this worker is for the CPU.", hint="Add --device gpu.")
    settings = get_settings()
    name = device if gpu is None else f"{device}-{gpu}"
    environment = services.worker_environment(settings, device)
    if device == "gpu":
        found = services.gpus()
        if not found:
            raise DeviceError("No GPU was found on this machine.", hint="Check nvidia-smi, or use --device cpu.")
        chosen = found[0] if gpu is None else gpu
        environment |= {"CMR_WORKER_GPU": chosen, "CUDA_VISIBLE_DEVICES": chosen}
    command = services.worker_command(device, f"{name}-{os.getpid()}")
    os.chdir(services.ROOT)
    os.execve(command[0], command, {**os.environ, **environment})


def dashboard() -> None:
    """Start the dashboard alone, in the foreground."""
    from worker import services

    settings = get_settings()
    port = services.free_port(settings.host, settings.port, fixed=True)
    command = services.app_command(settings, port)
    typer.echo(f"The dashboard: {services.address(settings.host, port)}")
    os.chdir(services.ROOT)
    os.execve(command[0], command, {**os.environ, **services.common(settings)})


def reaper() -> None:
    """Keep the queue honest: send forgotten runs again, mark silent workers' runs as lost, remove unused bytes."""
    from worker.reaper import main

    main()


def migrate() -> None:
    """Make or update the database's tables; keeps the data."""
    from worker.store.session import migrate

    migrate(get_settings())


def health(what: Annotated[Literal["app", "worker", "store"], typer.Argument(help="What to ask.")]) -> None:
    """Exit status 0 if the dashboard, this machine's worker or the database answers; for container health checks."""
    from worker import health

    if not health.ASK[what](get_settings()):
        raise SystemExit(1)


def prepare() -> None:
    """What `up` does before it starts the workers: the database's tables, and the sample in an empty store."""
    migrate()
    typer.echo("The database is ready.")
    if get_settings().sample:
        from worker.sample import load_sample

        typer.echo(load_sample(get_settings()))
