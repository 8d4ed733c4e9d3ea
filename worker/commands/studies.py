"""`cmr study ...`: the studies that come with the project, and studies as files for other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmr_core.spec import CandidateKind, SplitKind
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
    places: Annotated[
        int | None, typer.Option(min=1, help="Recommendations per user to include; absent: all, most of the file.")
    ] = None,
) -> None:
    """Write a study's succeeded runs to one file for another machine. The corpus stays here; users' ids do not."""
    from worker.commands.opening import opened
    from worker.store.audit import LOCAL
    from worker.store.studies import find_study
    from worker.store.study_export import export_study

    store = opened()
    done = export_study(store, LOCAL, find_study(store, study).id, file, models=models, places=places)
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


@app.command()
def search(
    method: Annotated[str, typer.Argument(help="Name of a method.")],
    target: Annotated[str, typer.Option(help="Target market.")],
    vary: Annotated[list[str], typer.Option(help="A setting to vary, or NAME=LOW:HIGH; repeatable.")],
    corpus: Annotated[str, typer.Option(help="Name or digest of a corpus.")] = "xmarket-electronics",
    trials: Annotated[int, typer.Option(help="How many settings to try.", min=1, max=1000)] = 20,
    at_once: Annotated[int, typer.Option(help="Trials in a round; the next round learns from it.", min=1)] = 4,
    split: Annotated[SplitKind, typer.Option(help="How interactions are divided.")] = "events",
    candidates: Annotated[CandidateKind, typer.Option(help="Which items compete.")] = "catalogue",
    seed: Annotated[int, typer.Option(help="Seed of the runs and of the search.", min=0)] = 0,
    inline: Annotated[bool, INLINE] = False,
) -> None:
    """Search for a method's settings with Optuna. Validation decides; test numbers are not looked at."""
    import yaml

    from cmr_core.spec import StudySpec, parse
    from worker.commands.opening import opened
    from worker.commands.runs import send, wait_for
    from worker.search import search as look
    from worker.store.audit import LOCAL

    body = {
        "name": f"search-{method}-{target}"[:64],
        "corpus": corpus,
        "targets": [target],
        "methods": [{"method": method}],
        "protocols": [{"split": {"kind": split}, "evaluation": {"candidates": candidates}}],
        "seeds": [seed],
        "note": f"Trials of a search over {', '.join(vary)}."[:2000],
    }
    spec = parse(StudySpec, body)
    store = opened()

    def execute(new: list[str], every: list[str]) -> None:
        if not inline:
            send(store, new)
        wait_for(store, every, inline=inline)

    best = look(store, LOCAL, spec, vary, trials=trials, at_once=at_once, execute=execute)
    metric = spec.protocols[0].evaluation.select
    typer.echo(f"Best of {best.judged} trials by {metric} in validation: {best.value:.4f}. In a study, write:")
    typer.echo(yaml.safe_dump([{"method": method, "settings": best.settings}], sort_keys=False), nl=False)
