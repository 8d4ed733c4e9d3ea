"""The command line: everything that the pages do, and what starts and checks the project.

Modules that take long to import are imported inside the commands, so that `cmr --help` is quick.
"""

from __future__ import annotations

import sys

import typer

from cmr_core.errors import CmrError
from worker.commands import data, develop, methods, results, runs, serve, studies

app = typer.Typer(
    name="cmr",
    help="Compare cross-market recommendation methods: launch, watch, compare, inspect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(studies.app, name="study")
for module in (serve, runs, results, methods, develop):
    module.register(app)


def main() -> None:
    """Run the command line. A fault that the project knows ends with its cause, the next step and exit status 1."""
    from pydantic import ValidationError

    try:
        app()
    except CmrError as error:
        _explain(str(error), error.hint)
    except ValidationError as error:  # the settings: everything else is parsed into a CmrError
        from cmr_core.spec import plain_faults

        named = [{**e, "loc": tuple(f"CMR_{part}".upper() for part in e["loc"])} for e in error.errors()]
        faults = "; ".join(plain_faults(named))
        _explain(f"A setting in the environment is wrong: {faults}.", "Correct it or leave it out, then start again.")
    except BrokenPipeError:  # somebody read only the first lines of a listing
        sys.stderr.close()
    except OSError as error:
        if error.filename is None:
            raise
        _explain(f"{error.filename}: {error.strerror}.", "Check the path, its permissions and the space on its disk.")
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        cause = str(getattr(error, "orig", error)).splitlines()[0]
        _explain(f"The database cannot be used: {cause}", "See that it runs, then update its tables: cmr migrate.")


def _explain(cause: str, hint: str) -> None:
    print(f"Error: {cause}", file=sys.stderr)
    if hint:
        print(f"What to do: {hint}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
