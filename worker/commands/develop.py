"""Commands for those who change the project: tests and checks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import typer

from worker.services import ROOT

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(context_settings={**PASS_ON, "help_option_names": []})(test)
    app.command()(check)


def test(context: typer.Context) -> None:
    """Run the tests that this machine can run; further words go to pytest, e.g. `cmr test -k graph`."""
    words = context.args
    if not any(word.startswith(("-n", "--numprocesses", "-p", "--pdb", "--collect-only")) for word in words):
        # Two processes: files stay together, because a file's fixtures are expensive.
        words = ["-n", "2", "--dist", "loadfile", *words]
    raise SystemExit(_run("pytest", *words))


def check() -> None:
    """Check format, lint, types and import rules."""
    checks = (
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("mypy",),
    )
    failed = [" ".join(words) for words in checks if _run(*words)]
    failed += ["import rules"] if _import_rules() else []
    for words in failed:
        typer.echo(f"Failed: {words}", err=True)
    raise SystemExit(1 if failed else 0)


def _import_rules() -> int:
    """Exit status of import-linter over the contracts in pyproject.toml."""
    script = Path(sys.executable).with_name("lint-imports")  # the package cannot be started with `-m`
    return subprocess.run([script, "--no-cache", "--no-logo"], cwd=ROOT, env=_environment(), check=False).returncode


def _run(module: str, *words: str) -> int:
    """Exit status of a Python module, run in the project's folder with one thread per library."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        typer.echo(f"{module} is not installed: start through ./cmr, or install the extra `test`.", err=True)
        return 1
    typer.echo(f"== {module} {' '.join(words)}", err=True)
    return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, env=_environment(), check=False).returncode


def _environment() -> dict[str, str]:
    """One thread per library; the settings of a running system must not reach the tests."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CMR_") or k.startswith("CMR_TEST")}
    return {**kept, **threads, "PYTHONPATH": str(ROOT)}
