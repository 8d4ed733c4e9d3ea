"""Commands that launch, list, show, cancel and retry runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.store.study_files import load_study

if TYPE_CHECKING:
    from cmr_core.spec import StudySpec
    from worker.store.session import Store
    from worker.store.tables import RunRow

WAIT = typer.Option("--wait", help="Wait until every run has ended.")
INLINE = typer.Option("--inline", help="Run here, one after the other, without a queue.")
DRY_RUN = typer.Option("--dry-run", help="Only say how many runs it makes, and roughly how long they take.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (launch, runs, show, cancel, retry):
        app.command()(command)


def launch(
    files: Annotated[list[Path], typer.Argument(help="Study files (YAML).")],
    wait: Annotated[bool, WAIT] = False,
    inline: Annotated[bool, INLINE] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Launch studies from files. Runs that exist already are used, not repeated."""
    studies = [load_study(path) for path in files]  # all of them first: nothing starts if one is wrong
    launch_all(studies, wait=wait, inline=inline, dry_run=dry_run)


def launch_all(studies: list[StudySpec], *, wait: bool, inline: bool, dry_run: bool) -> None:
    """Launch the studies one after the other; with `inline` or `wait` ends once all runs have, with status 1 if not
    all succeeded."""
    from worker.store.audit import LOCAL
    from worker.store.studies import estimate, launch_study

    store = _store()
    ids: list[str] = []
    for study in studies:
        if dry_run:
            guess = estimate(store, study)
            typer.echo(
                f"{study.name}: {guess.runs} runs, {guess.reused} there already, about {guess.seconds:.0f} s of work"
            )
            continue
        launched = launch_study(store, LOCAL, study)
        typer.echo(
            f"{study.name}: study {launched.study_id}, {len(launched.created)} new runs, {len(launched.reused)} reused"
        )
        ids += launched.created + launched.reused
        if not inline:
            send(store, launched.created)
    if (wait or inline) and not dry_run and not wait_for(store, ids, inline=inline):
        raise SystemExit(1)


def runs(
    state: Annotated[list[str], typer.Option(help="Only these states; repeatable.")] = [],  # noqa: B006
    study: Annotated[str | None, typer.Option(help="Only the runs of this study: its id or name.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 50,
) -> None:
    """List runs, newest first."""
    from cmr_core.errors import SpecError
    from worker.store.runs import list_runs
    from worker.store.studies import find_study
    from worker.store.tables import STATES

    unknown = sorted(set(state) - set(STATES))
    if unknown:
        raise SpecError(f"There is no state {unknown[0]!r}.", hint=f"States: {', '.join(STATES)}.")
    store = _store()
    study_id = None if study is None else find_study(store, study).id
    for run in list_runs(store, states=state, study_id=study_id, limit=limit):
        typer.echo(
            "\t".join((run.id, run.state, _progress(run), run.target, str(run.seed), run.label, run.protocol_text))
        )


def show(run: Annotated[str, typer.Argument(help="Id of a run, or its first characters.")]) -> None:
    """Show a run: its job, its state, its metrics and the end of its log."""
    import yaml

    from worker.commands.table import run_metrics
    from worker.store.runs import log_lines

    store = _store()
    row = find_run(store, run)
    body = {
        "id": row.id, "label": row.label, "state": row.state, "progress": _progress(row), "protocol": row.protocol_text,
        "attempt": row.attempt, "worker": row.worker, "seconds": row.seconds, "error": row.error, "hint": row.hint,
        "parameters": row.parameters, "details": row.details, "spec": row.spec, "test": run_metrics(store, row.id),
        "log": [f"{line.at:%Y-%m-%d %H:%M:%S} {line.text}" for line in log_lines(store, row.id, 20)],
    }  # fmt: skip
    typer.echo(yaml.safe_dump({k: v for k, v in body.items() if v is not None}, sort_keys=False, allow_unicode=True))


def cancel(ids: Annotated[list[str], typer.Argument(help="Ids of runs, or their first characters.")]) -> None:
    """Cancel runs, queued or running; no worker needs to be alive."""
    from worker.store.audit import LOCAL
    from worker.store.runs import request_cancel

    store = _store()
    for row in [find_run(store, one) for one in ids]:
        request_cancel(store, LOCAL, row.id)
        typer.echo(f"Cancelled {row.id}")


def retry(ids: Annotated[list[str], typer.Argument(help="Ids of runs, or their first characters.")]) -> None:
    """Queue failed, cancelled or lost runs again; they go on from their checkpoints."""
    from worker.store.audit import LOCAL
    from worker.store.runs import retry as again

    store = _store()
    for row in [find_run(store, one) for one in ids]:
        again(store, LOCAL, row.id)
        send(store, [row.id])
        typer.echo(f"Queued {row.id}")


def find_run(store: Store, start: str) -> RunRow:
    """The only run whose id starts so. Raises NotFoundError, SpecError where it is not the only one."""
    from sqlalchemy import select

    from cmr_core.errors import NotFoundError, SpecError
    from worker.store.tables import RunRow

    with store.read() as session:
        found = session.scalars(select(RunRow).where(RunRow.id.startswith(start, autoescape=True)).limit(2)).all()
    if not start or not found:
        raise NotFoundError(f"There is no run {start[:64]!r}.", hint="`cmr runs` lists them.")
    if len(found) > 1:
        raise SpecError(f"Several runs start with {start!r}.", hint="Give more characters of the id.")
    return found[0]


def send(store: Store, ids: list[str]) -> None:
    """Send runs to the queue."""
    from worker.queue import deliver

    if deliver(store, ids) < len(ids):
        typer.echo(
            "The queue does not answer; the runs start once `cmr up` runs here (or CMR_BROKER_URL is back).", err=True
        )


def _execute_here(store: Store, ids: list[str]) -> None:
    """Carry out those of the runs that nobody has and that have not ended."""
    from cmr_core.experiment import settle
    from worker.store.runs import claim
    from worker.tasks import perform, worker_name

    settle(store.settings.torch_threads)
    for number, run_id in enumerate(ids, start=1):
        taken = claim(store, run_id, worker_name())
        if taken is not None:
            typer.echo(f"{number} of {len(ids)}: {taken.spec.method} on {taken.spec.target}, seed {taken.spec.seed}")
            perform(store, taken)


def wait_for(store: Store, ids: list[str], *, inline: bool = False) -> bool:
    """Whether all of the runs succeeded; tells when the counts of states change.

    `inline`: carry out here what nobody has, also what an earlier launch began and did not end.
    """
    from collections import Counter

    from worker.store.runs import get_run
    from worker.store.tables import FINAL

    shown = None
    while True:
        rows = [get_run(store, run_id) for run_id in ids]
        counts = Counter(row.state for row in rows)
        if counts != shown:
            typer.echo(", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
            shown = counts
        if all(state in FINAL for state in counts):
            break
        if inline:
            _execute_here(store, [row.id for row in rows if row.state not in FINAL])
        time.sleep(1)
    for row in rows:
        if row.state != "succeeded":
            typer.echo(
                f"{row.id} {row.label} on {row.target}: {row.state}. {row.error or ''} {row.hint or ''}".strip(),
                err=True,
            )
    return set(counts) <= {"succeeded"}


def _progress(run: RunRow) -> str:
    if run.state != "running" or not run.stage:
        return "-"
    left = f", {run.remaining_seconds:.0f} s left" if run.remaining_seconds is not None else ""
    return f"{run.stage} {run.done}/{run.total}{left}"


def _store() -> Store:
    from worker.commands.opening import opened

    return opened()
