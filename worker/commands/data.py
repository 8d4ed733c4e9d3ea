"""`cmr data ...`: bring corpora into the store and look at them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.commands import lists
from worker.settings import get_settings

if TYPE_CHECKING:
    from cmr_core.data.layouts import Layout
    from cmr_core.data.market import Corpus

app = typer.Typer(help="Corpora: add files, fetch published ones, list and describe.", no_args_is_help=True)
app.add_typer(lists.app, name="lists")
Kind = Literal["xmarket", "wsdm", "table"]
PATHS = typer.Argument(help="Files, or a folder whose files are all taken.")
NAME = typer.Option(help="What the corpus is called: small letters, digits, dots, dashes.")
KIND = typer.Option("--format", help="XMarket 5-core, WSDM Cup 2022, or CSV/Parquet; guessed if absent.")
COLUMN = typer.Option(help="For tables, repeatable: ROLE=COLUMN (user, item, rating, date, market).")
ROLES = "Roles: user, item, rating, date, market."
DELIMITER = typer.Option(help="For CSV files; a comma if absent.")


@app.command()
def add(
    paths: Annotated[list[Path], PATHS],
    name: Annotated[str, NAME],
    kind: Annotated[Kind | None, KIND] = None,
    column: Annotated[list[str] | None, COLUMN] = None,
    delimiter: Annotated[str | None, DELIMITER] = None,
) -> None:
    """Read market files, check them and store them as one corpus. A corpus is taken whole or not at all."""
    from cmr_core.data.files import read_corpus

    files = _files(paths)
    corpus = read_corpus(files, name=name, layout=_layout(files, kind, column or [], delimiter))
    _store(corpus, ", ".join(str(path) for path in paths))


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A published corpus.")] = "xmarket-electronics") -> None:
    """Download a published corpus, check its sums and store it. An interrupted download resumes."""
    from cmr_core.data.catalogue import fetch
    from cmr_core.data.files import read_corpus
    from cmr_core.data.layouts import Layout

    folder = get_settings().root / "downloads" / name
    files = fetch(name, folder, report=_report)
    _store(read_corpus(files, name=name, layout=Layout(kind="xmarket")), f"fetched: {name}")


@app.command("list")
def list_() -> None:
    """List the corpora."""
    from worker.commands.opening import opened
    from worker.store.corpora import list_corpora, market_names

    for row in list_corpora(opened()):
        typer.echo(f"{row.name}\t{row.digest[:12]}\t{len(market_names(row))} markets\t{row.origin}")


@app.command()
def describe(name: Annotated[str, typer.Argument(help="Name or digest of a corpus.")]) -> None:
    """Print sizes, density, overlap and the leak audit of a corpus, as YAML."""
    import yaml

    from worker.commands.opening import opened
    from worker.store.corpora import get_corpus

    row = get_corpus(opened(), name)
    body = {"name": row.name, "digest": row.digest, "origin": row.origin}
    typer.echo(yaml.safe_dump({**body, "description": row.description, "audit": row.audit}, sort_keys=False))


def _report(file: str, done: int, total: int) -> None:
    """One line that is written over, where somebody watches."""
    size = f"{done / 2**20:.1f} of {total / 2**20:.1f} MB" if total else f"{done / 2**20:.1f} MB"
    if sys.stderr.isatty():
        typer.echo(f"\r{file}: {size}", nl=done >= total, err=True)
    elif done >= total:
        typer.echo(f"{file}: {size}", err=True)


def _store(corpus: Corpus, origin: str) -> None:
    from cmr_core.errors import ConflictError
    from worker.commands.opening import opened
    from worker.store.audit import LOCAL
    from worker.store.corpora import add_corpus, get_corpus

    store = opened()
    digest = add_corpus(store, LOCAL, corpus, origin)
    there = get_corpus(store, digest).name
    if there != corpus.name:  # who goes on with the other name could meet another corpus
        raise ConflictError(f"These interactions are stored already, as {there!r}.", hint="Use that name.")
    typer.echo(f"Stored {corpus.name}: {len(corpus.markets)} markets, {len(corpus.items)} items, digest {digest[:12]}")


def _layout(files: list[Path], kind: Kind | None, columns: list[str], delimiter: str | None) -> Layout:
    """What the options say about the files' columns. Raises SpecError for options that make no sense."""
    from cmr_core.data.layouts import Columns, Layout, guess_layout
    from cmr_core.errors import SpecError
    from cmr_core.spec import parse

    if not files:
        raise SpecError("There is no data file there.", hint="Name files ending in .txt, .tsv, .csv, .parquet or .gz.")
    if kind is None and not columns and delimiter is None:
        return guess_layout(files[0])
    pairs = [text.partition("=") for text in columns]
    if any(not middle for _, middle, _ in pairs):
        raise SpecError("A column is mapped as ROLE=COLUMN.", hint="For example: --column user=customer_id")
    chosen = parse(Columns, {role: column or None for role, _, column in pairs}, subject="column mapping", hint=ROLES)
    return parse(
        Layout, {"kind": kind or "table", "columns": chosen, "delimiter": "," if delimiter is None else delimiter}
    )


def _files(paths: list[Path]) -> list[Path]:
    """The files named, and those directly in the folders named, by name."""
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.iterdir() if p.is_file() and _is_data(p)) if path.is_dir() else [path]
    return found


def _is_data(path: Path) -> bool:
    """Sums and notes often lie beside the data."""
    suffixes = {s.lower() for s in path.suffixes}
    return bool(suffixes & {".txt", ".tsv", ".csv", ".parquet", ".gz"}) and not path.name.startswith((".", "README"))
