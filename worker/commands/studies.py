"""`cmr study ...`: the studies that come with the project, and studies as files for other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.runs import DRY_RUN, INLINE, WAIT

app = typer.Typer(
    help="Studies: list and launch the project's, carry results to another machine.", no_args_is_help=True
)
WANTED = typer.Argument(help="Name of a study of the project (see `cmr study list`), or a YAML file.")
STUDY = typer.Argument(help="Id of a launched study, or the name of one (the newest of that name).")


@app.command("list")
def list_() -> None:
    """List the studies that come with the project."""
    from worker.store.study_files import builtin_studies

    for study in builtin_studies():
        typer.echo(f"{study.name}\t{study.title}")


@app.command()
def show(name: Annotated[str, WANTED]) -> None:
    """Show a study: what it asks, its methods and protocols, and what it would cost on this store."""
    import yaml

    from cmr_core.errors import NotFoundError
    from worker.commands.opening import opened
    from worker.store.studies import estimate
    from worker.store.study_files import find_study_file

    spec = find_study_file(name)
    body = spec.model_dump(mode="json", exclude_defaults=True)
    body["protocols"] = [protocol.text() for protocol in spec.protocols]
    typer.echo(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), nl=False)
    try:
        guess = estimate(opened(), spec)
    except NotFoundError as error:
        typer.echo(f"It cannot run here yet: {error.explain()}")
        return
    unknown = guess.runs - guess.reused - guess.known
    typer.echo(
        f"{guess.runs} runs, {guess.reused} there already, about {guess.seconds:.0f} s of work "
        f"({unknown} runs of methods that have not run here count as a minute each)"
    )


@app.command()
def launch(
    names: Annotated[list[str], WANTED],
    wait: Annotated[bool, WAIT] = False,
    inline: Annotated[bool, INLINE] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Launch studies of the project or from files. Runs that exist already are used, not repeated."""
    from worker.commands.runs import launch_all
    from worker.store.study_files import find_study_file

    launch_all([find_study_file(name) for name in names], wait=wait, inline=inline, dry_run=dry_run)


@app.command()
def export(
    study: Annotated[str, STUDY],
    file: Annotated[Path, typer.Argument(help="File to write, e.g. study.zip; it must not exist.")],
    models: Annotated[bool, typer.Option("--models", help="Include the fitted models: a much larger file.")] = False,
) -> None:
    """Write a study's succeeded runs to one file for another machine. The corpus stays here; users' ids do not."""
    from worker.commands.opening import opened
    from worker.commands.runs import find_study
    from worker.store.audit import LOCAL
    from worker.store.study_export import export_study

    store = opened()
    done = export_study(store, LOCAL, find_study(store, study), file, models=models)
    left = f"; {done.left_out} others have not succeeded and are left out" if done.left_out else ""
    typer.echo(f"Wrote {file}: {done.runs} runs{left}")


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="A file that `cmr study export` wrote.")]) -> None:
    """Add the runs of an exported study to this store; those that are there already stay as they are."""
    from worker.commands.opening import opened
    from worker.store.audit import LOCAL
    from worker.store.study_import import import_study

    done = import_study(opened(), LOCAL, file)
    typer.echo(f"{done.name}: study {done.study_id}, {len(done.added)} runs imported, {len(done.there)} there already")
    if done.unfinished:
        typer.echo(f"{len(done.unfinished)} of its runs are queued or running here; they were left as they are.")
