"""`cmr data lists ...`: candidate lists that somebody else drew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.opening import opened

app = typer.Typer(help="Candidate lists drawn elsewhere: add and list them.", no_args_is_help=True)
FILE = typer.Argument(help="Run file: lines `user<TAB>item,item,...`.")
QREL = typer.Option(help="Qrel file: lines `user item label`; they become the test's held-out items.")


@app.command()
def add(
    file: Annotated[Path, FILE],
    corpus: Annotated[str, typer.Option(help="Name or digest of the corpus that they belong to.")],
    market: Annotated[str, typer.Option(help="Market that they belong to.")],
    name: Annotated[str, typer.Option(help="What they are called: small letters, digits, dots, dashes.")],
    qrel: Annotated[Path | None, QREL] = None,
) -> None:
    """Read candidate lists, check them against the corpus and store them."""
    from cmr_core.data.lists import read_lists
    from worker.store.audit import LOCAL
    from worker.store.lists import add_lists

    lists = read_lists(file, market, qrel)
    digest = add_lists(opened(), LOCAL, lists, corpus=corpus, name=name)
    typer.echo(f"Stored {name}: {lists.pairs.num_rows} candidates for {market}. In a study's protocol, write:")
    typer.echo(f"evaluation: {{candidates: given, given: {digest}}}")


@app.command("list")
def list_() -> None:
    """List the candidate lists, with the digest that a study names."""
    from worker.store.corpora import list_corpora
    from worker.store.lists import list_lists

    store = opened()
    names = {row.digest: row.name for row in list_corpora(store)}
    for row in list_lists(store):
        held = "held out by the split" if row.relevant is None else f"{row.relevant} held-out items"
        typer.echo(f"{row.name}\t{names[row.corpus]}\t{row.market}\t{row.listed} candidates\t{held}\t{row.digest}")
