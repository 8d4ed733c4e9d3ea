"""Commands that take results out: a study's table, and one user's recommendations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)
    app.command()(recommend)
    app.command()(studies)


def studies() -> None:
    """List studies, newest first."""
    from worker.commands.opening import opened
    from worker.store.studies import list_studies

    for row in list_studies(opened()):
        typer.echo(f"{row.id}\t{row.name}\t{row.created_at:%Y-%m-%d %H:%M}\t{row.created_by}")


def export(
    study: Annotated[str, typer.Argument(help="Id of a study, or the name of one (the newest of that name).")],
    form: Annotated[Literal["csv", "latex"], typer.Option("--format", help="What to write.")] = "csv",
    metric: Annotated[str, typer.Option(help="Which test metric, e.g. ndcg@10.")] = "ndcg@10",
    out: Annotated[Path | None, typer.Option(help="File to write; printed if absent.")] = None,
) -> None:
    """Write a study's methods-by-markets table: mean and deviation over seeds, with counts."""
    from cmr_core.errors import NotFoundError
    from worker.commands.opening import opened
    from worker.commands.table import study_table, to_latex
    from worker.store.studies import find_study

    store = opened()
    table, left_out = study_table(store, find_study(store, study).id, metric)
    if table.empty:
        raise NotFoundError(f"No run of this study has the metric {metric!r} yet.", hint="See `cmr runs --study`.")
    if left_out:  # beside the table, not in it
        typer.echo(left_out, err=True)
    text = table.to_csv(index=False) if form == "csv" else to_latex(table, metric)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"Wrote {out}")


def recommend(
    run: Annotated[str, typer.Argument(help="Id of a succeeded run, or its first characters.")],
    user: Annotated[str, typer.Argument(help="A user's id in the run's target market.")],
    n: Annotated[int, typer.Option("-n", help="How many items.", min=1, max=1000)] = 10,
) -> None:
    """Print what a run's model recommends to a user; what the user had in training or validation is left out."""
    from worker.commands.opening import opened
    from worker.commands.runs import find_run
    from worker.recommend import recommend as ask

    store = opened()
    for rank, (item, score) in enumerate(ask(store, find_run(store, run), user, n), start=1):
        typer.echo(f"{rank}\t{item}\t{score:.6g}")
