"""The tables of docs/results.md from finished runs: `python -m app.report STUDY`.

Writes `results.csv` (one line per configuration, market and protocol) and, behind the mark in `results.md`, the
tables; the same figures as the page Compare, made by the same functions. What stands before the mark is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from app import comparison, exports, queries, words
from cmr_core import published
from cmr_core.errors import NotFoundError
from cmr_core.models import registry
from worker.store.artifacts import load_table
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store, open_store
from worker.store.studies import list_studies, study_spec

MARK = "<!-- What follows is written by `python -m app.report`. -->"
METRICS = ("ndcg@10", "recall@10")


def study_results(store: Store, name: str, metric: str) -> dict[str, pd.DataFrame]:
    """Finished runs of the newest study called `name`, by protocol in words. Raises NotFoundError."""
    found = [row for row in list_studies(store) if name in (row.name, row.id)]
    if not found:
        raise NotFoundError(f"There is no study {name!r}.", hint="`cmr studies` lists them.")
    corpus = get_corpus(store, study_spec(found[0]).corpus)
    mine = set(queries.runs(store, study=found[0].id, limit=5000)[0]["id"])
    tables = {}
    for row in queries.protocols(store, corpus.digest).itertuples():
        runs = queries.results(store, corpus.digest, str(row.protocol), metric)
        runs = runs[runs["run_id"].isin(mine)]
        if len(runs):
            tables[str(row.text)] = comparison.label_rows(runs, market_names(corpus))
    return tables


def compared(store: Store, runs: pd.DataFrame, metric: str) -> comparison.Comparison:
    """The methods-by-markets comparison of these runs, against each market's strongest single-market method."""
    families = {name: info.family for name, info in registry.load().items()}
    return comparison.compare(runs, metric, lambda run, _: load_table(store, run, "per_user"), families)


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table with the index as first column."""
    lines = [["", *map(str, frame.columns)], ["---", *["---:"] * len(frame.columns)]]
    lines += [[str(index), *map(str, row)] for index, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def grid(found: comparison.Comparison) -> pd.DataFrame:
    """The table as text, the best of a market bold."""
    text, style = comparison.grid(found)
    return text.where(style != "best", "**" + text + "**")


def durations(runs: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of a run and the numbers that its last stage updates or solves for, per method and market."""
    seconds = runs.pivot_table(index="label", columns="target", values="seconds", aggfunc="median")
    spent = runs.assign(updated=runs["parameters"].map(comparison.updated)).groupby("label")["updated"].max()
    return seconds.map("{:.1f}".format, na_action="ignore").fillna("—").assign(updated=spent.map(words.count))


def paper_rows(text: str, found: comparison.Comparison) -> pd.DataFrame:
    """What the paper nearest to the protocol reports for the metric and markets."""
    source = next((name for kind, name in comparison.PAPERS.items() if text.startswith(kind)), None)
    rows = [p for p in published.load() if p.source == source and p.metric == found.metric]
    frame = pd.DataFrame([(f"{p.method} (paper)", p.market, p.value) for p in rows], columns=["label", "market", "v"])
    order = frame["label"].drop_duplicates()
    wide = frame.pivot_table(index="label", columns="market", values="v").reindex(order)
    return wide.reindex(columns=found.targets).map("{:.4f}".format)


def sections(store: Store, study: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Markdown of each protocol and metric, with the flat rows behind it."""
    for metric in METRICS:
        for text, runs in study_results(store, study, metric).items():
            found = compared(store, runs, metric)
            parts = [f"### {text}: {words.metric(metric)}", found.note(), markdown(grid(found))]
            papers = paper_rows(text, found)
            if len(papers):
                parts += [
                    "As the paper reports it, under its own protocol and never mixed with ours:",
                    markdown(papers),
                ]
            if metric == METRICS[0]:
                parts += [
                    "Median seconds of a run, and scalars that its last stage updates:",
                    markdown(durations(runs)),
                ]
            yield "\n\n".join(parts), comparison.export_rows(found, text)


def write(store: Store, study: str, folder: Path) -> None:
    """Renew `results.md` behind its mark, and `results.csv`."""
    found = list(sections(store, study))
    page = folder / "results.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Results\n\n"
    page.write_text("\n\n".join([before + MARK, *(text for text, _ in found)]) + "\n", encoding="utf-8")
    rows = pd.concat([frame for _, frame in found], ignore_index=True)
    (folder / "results.csv").write_bytes(exports.csv(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of a study."""
    parser = argparse.ArgumentParser(prog="python -m app.report", description=main.__doc__)
    parser.add_argument("study", help="name or id of a study")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder with results.md")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write(open_store(), options.study, options.out)


if __name__ == "__main__":
    main()
