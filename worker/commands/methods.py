"""`cmr methods`: which there are, and what one of them does."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(methods)


def methods(name: Annotated[str | None, typer.Argument(help="One of them, to describe.")] = None) -> None:
    """List the methods, or describe one: what it does, its paper, its cost and its settings."""
    from cmr_core.models.registry import get, load

    if name is None:
        for info in load().values():
            typer.echo(f"{info.name}\t{info.family}\t{info.label}\t{info.summary}")
        return
    info = get(name)
    typer.echo(f"{info.label} ({info.name}, {info.family})\n\n{info.doc}\n")
    for key, field in info.config.model_fields.items():
        typer.echo(f"  {key} = {field.default}\n      {field.description}")
