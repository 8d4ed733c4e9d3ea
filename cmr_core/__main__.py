"""`python -m cmr_core job.json --data FILES`: one job with neither database nor queue, and a progress bar."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.lists import Lists, read_lists
from cmr_core.data.market import Corpus
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import CmrError, SpecError
from cmr_core.experiment import Outcome, run, settle
from cmr_core.export import save
from cmr_core.models.registry import load
from cmr_core.spec import JobSpec, parse
from cmr_core.training.monitor import ProgressBarMonitor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and print its metrics. Exit code 0; 2 with cause and next step on stderr where it cannot run."""
    options = _parser().parse_args(arguments)
    settle()
    try:
        corpus = _corpus(options)
        body = read_body(options.job, corpus)
        lists = _lists(options, body)
        spec = parse(JobSpec, body)
        with ProgressBarMonitor() as monitor:
            outcome = run(spec, corpus, monitor, lists=lists)
        Console().print(metrics_table(spec, outcome))
        if options.out is not None:
            save(spec, corpus, outcome, options.out)
    except CmrError as error:
        print(error.explain(), file=sys.stderr)
        return 2
    return 0


def read_body(path: Path, corpus: Corpus) -> dict[str, Any]:
    """The job in a JSON file; where it names no corpus, the data at hand are meant. Raises SpecError."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is not a readable JSON file: {error}.") from None
    if not isinstance(body, dict):
        raise SpecError(f"{path} holds no JSON object.", hint='A job looks like {"target": ..., "method": ...}.')
    body = {"corpus": corpus.digest} | _with_revision(body)
    if isinstance(body.get("members"), list):
        body["members"] = [_with_revision(one) if isinstance(one, dict) else one for one in body["members"]]
    return body


def _with_revision(body: Mapping[str, Any]) -> dict[str, Any]:
    """A job or member that names no revision means the one that is installed."""
    known = load().get(str(body.get("method")))
    return dict(body) if known is None else {"revision": known.revision, **body}


def metrics_table(spec: JobSpec, outcome: Outcome) -> Table:
    """Test and validation means under the job's protocol."""
    test, valid = outcome.test.means(), outcome.valid.means()
    table = Table(title=f"{spec.method} on {spec.target}, {len(outcome.test.users)} test users")
    table.caption = f"{spec.protocol_text()} · seed {spec.seed} · {outcome.seconds:.1f} s"
    for name in ("metric", "test", "validation"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, value in test.items():
        table.add_row(name, f"{value:.4f}", f"{valid[name]:.4f}" if name in valid else "")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cmr_core", description=__doc__)
    parser.add_argument("job", type=Path, help="JSON file with target, sources, method, settings, split, ...")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="market files")
    data.add_argument("--synthetic", type=int, metavar="SEED", help="made-up markets instead of files")
    parser.add_argument("--format", choices=("xmarket", "wsdm"), default="xmarket", help="layout of the files")
    parser.add_argument("--given", type=Path, metavar="FILE", help="candidate lists for the target: user<TAB>item,item")
    parser.add_argument("--qrel", type=Path, metavar="FILE", help="what the test asks for: user item label")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write metrics, lists and model there")
    return parser


def _corpus(options: argparse.Namespace) -> Corpus:
    if options.synthetic is not None:
        return synthetic(seed=options.synthetic)
    return read_corpus(options.data, name="files", layout=Layout(kind=options.format))


def _lists(options: argparse.Namespace, body: dict[str, Any]) -> Lists | None:
    """The lists in the files named; the job's evaluation means them unless it says something else."""
    if options.given is None:
        if options.qrel is not None:
            raise SpecError("--qrel goes with --given.", hint="Name a file of candidate lists too.")
        return None
    lists = read_lists(options.given, str(body.get("target")), options.qrel)
    evaluation = body.get("evaluation", {})
    if isinstance(evaluation, dict):
        body["evaluation"] = {"candidates": "given", "given": lists.digest} | evaluation
    return lists


if __name__ == "__main__":
    sys.exit(main())
