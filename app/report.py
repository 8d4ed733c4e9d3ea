"""The tables of docs/results.md: from finished runs to `results.csv`, and from that file alone to the tables.

    python -m app.report STUDY ...          # the finished runs of one study, or of several as one table
    python -m app.report STUDY ... --add    # and what `results.csv` holds of other methods, markets and protocols
    python -m app.report STUDY ... --pool   # as --add, and seeds of which only `results.csv` knows count in a line too
    python -m app.report                    # all again, from `results.csv`

`results.csv` has one line per configuration, market, protocol and metric, made by the functions of the page Compare and
under the studies' names, with the cost, the date and each seed's value (`seed:value`; older lines have the values
alone). With `--add` a long table can be made in several sittings: Holm's correction and places are made anew from all
lines of a table. With `--pool` so can a line, where no store has all of its seeds any more: `pooled` counts the seeds
that came from the file. In `results.md` the tables stand behind a mark; what stands before it is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy.exc import DatabaseError

from app import comparison, exports, queries
from app.report_page import METRICS, assembled, families, sections
from cmr_core.errors import CmrError, SpecError
from cmr_core.models import registry
from worker.store import naming
from worker.store.artifacts import load_table
from worker.store.comparable import same_splits
from worker.store.corpora import get_corpus, market_names
from worker.store.session import Store, open_store
from worker.store.studies import find_study, study_spec
from worker.store.tables import StudyRow

MARK = "<!-- What follows is written by `python -m app.report`. -->"
KEY = ["protocol", "metric", "label", "target"]
COST = ["seconds", "processor_seconds", "updated"]


def study_results(store: Store, names: Sequence[str], metric: str) -> dict[str, pd.DataFrame]:
    """Finished runs of the newest studies with these names, by protocol in words, as `of_several` makes one table.

    Rows have the studies' own names; a configuration of several studies has that of the first. Where every seed has a
    split of its own, a market's rows rest on the seeds that they share. Raises NotFoundError; SpecError where the
    studies are about different corpora.
    """
    studies = [find_study(store, name) for name in names]
    corpora = {study_spec(study).corpus: get_corpus(store, study_spec(study).corpus) for study in studies}
    if len({corpus.digest for corpus in corpora.values()}) > 1:
        raise SpecError(f"The studies are about different corpora: {', '.join(corpora)}.", hint="Report them apart.")
    corpus = next(iter(corpora.values()))
    mine = _runs(store, studies)
    around = mine["environment"].map(lambda known: known or {})
    spent = around.map(lambda known: float(known.get("processor_seconds", "nan")))
    device = around.map(lambda known: "cpu" if known.get("device", "cpu") == "cpu" else "gpu")
    texts = naming.protocol_names(dict(zip(mine["protocol"], mine["text"], strict=True)))
    known = queries.protocols(store, corpus.digest)["protocol"]
    tables = {}
    for protocol in known[known.isin(texts)]:
        runs = queries.results(store, corpus.digest, protocol, metric)
        runs = runs[runs["run_id"].isin(mine.index)]
        if len(runs):
            runs = runs.assign(**{name: runs["run_id"].map(mine[name]) for name in ("label", "place")})
            parts = [naming.label_rows(part, market_names(corpus)) for _, part in runs.groupby("place")]
            chosen = same_splits(of_several(pd.concat(parts)))
            own = chosen["run_id"]
            tables[texts[protocol]] = chosen.assign(processor_seconds=own.map(spent), device=own.map(device))
    return tables


def of_several(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of several studies as one table, in which a label is one configuration in each market.

    `place` is that of the first study that has the run. Where studies have different configurations under one label, as
    when a default has changed, the first one's counts: the others add seeds of that configuration, and none of theirs.
    A seed that several have, as when it ran on a GPU too, is the first one's as well.
    """
    first = runs.sort_values("place", kind="stable")
    wanted = first.groupby(["label", "target"])["configuration"].transform("first")
    return first[first["configuration"] == wanted].drop_duplicates(["label", "target", "seed"]).sort_index()


def _runs(store: Store, studies: Sequence[StudyRow]) -> pd.DataFrame:
    """The studies' runs by id, each as in the first study that has it, the `place`, and under that study's name."""
    known = registry.load()
    parts = [
        naming.named(study_spec(study), queries.study_runs(store, study.id), known).assign(place=at)
        for at, study in enumerate(studies)
    ]
    mine = pd.concat(parts, ignore_index=True).drop_duplicates("run_id")
    return mine.assign(label=naming.one_name(mine, "place")).set_index("run_id")


def rows(store: Store, studies: Sequence[str]) -> pd.DataFrame:
    """The lines of `results.csv` that the studies' finished runs make. Raises as `study_results`."""
    parts = []
    for metric in METRICS:
        for text, runs in study_results(store, studies, metric).items():
            parts.append(
                comparison.export_rows(compared(store, runs, metric), text).merge(_costs(runs)).assign(pooled=0)
            )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEY)


def compared(store: Store, runs: pd.DataFrame, metric: str) -> comparison.Comparison:
    """The methods-by-markets comparison of these runs, against each market's strongest single-market method."""
    return comparison.compare(runs, metric, lambda run, _: load_table(store, run, "per_user"), families())


def added(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The new lines, and the old ones of which there is no new one.

    An old line's test against another reference than the market's present one is not taken over; what the tests of a
    table say together (Holm's correction, places) is made anew.
    """
    theirs = pd.MultiIndex.from_frame(old[KEY])
    both = pd.concat([new, old[~theirs.isin(pd.MultiIndex.from_frame(new[KEY]))]], ignore_index=True)
    table = ["protocol", "metric", "target"]
    best = {key: comparison.strongest(mine, families()) for key, mine in both.groupby(table)}
    present = pd.Series([best[key] for key in both[table].itertuples(index=False, name=None)], index=both.index)
    stale = both["reference"].notna() & (both["reference"] != present)
    both.loc[stale, comparison.TEST] = np.nan
    whole = [*comparison.FAMILY, "place"]
    parts = []
    for (_, metric), mine in both.groupby(["protocol", "metric"]):
        cells = assembled(mine, str(metric)).cells.set_index(["label", "target"])[whole]
        parts.append(cells.reindex(pd.MultiIndex.from_frame(mine[["label", "target"]])).set_index(mine.index))
    if parts:
        both[whole] = pd.concat(parts)
    return both


def pooled(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The new lines, each joined by those seeds of the old line of its key that it has not itself.

    For further seeds of the same configurations: a line does not say its settings, so that is for the caller to know.
    An old line that has all seeds of the new one, with the same values, stays.
    Of the old seeds only the means are left. The mean over all seeds is exact; the deviation of a mean of two is at
    most the mean of their deviations, so the interval, made like that, is at most too wide (where old and new share no
    seed; otherwise it is an estimate); a test needs the users' values and there is none. Raises SpecError for an old
    line that does not say its seeds.
    """
    earlier = {_key(line): line for line in old.to_dict("records")}
    lines = [_joined(line, earlier.get(_key(line))) for line in new.to_dict("records")]
    return pd.DataFrame(lines, columns=new.columns)


def _joined(now: dict[Hashable, Any], then: dict[Hashable, Any] | None) -> dict[Hashable, Any]:
    if then is None:
        return now
    mine, theirs = _seeds(now), _seeds(then)
    more = {seed: value for seed, value in theirs.items() if seed not in mine}
    if not more:
        return now
    if mine.items() <= theirs.items():
        return then  # the same values again, and theirs has the users' behind it
    seeds = dict(sorted((mine | more).items()))
    share = len(more) / len(seeds)

    def both(name: str, base: str | None = None) -> float:
        old, new = (line[name] - (line[base] if base else 0.0) for line in (then, now))
        return share * float(old) + (1 - share) * float(new)

    mean = share * float(np.mean(list(more.values()))) + (1 - share) * float(now["mean"])
    edges = {edge: mean + both(edge, "mean") for edge in ("ci95_low", "ci95_high")}
    spent = {name: both(name) for name in COST}
    said = {
        "mean": mean,
        "seeds": len(seeds),
        "pooled": len(more),
        "by_seed": " ".join(f"{seed}:{value:.6f}" for seed, value in seeds.items()),
        "devices": " ".join(sorted({*str(now["devices"]).split(), *str(then["devices"]).split()})),
    }
    return now | said | edges | spent | dict.fromkeys(comparison.TEST, np.nan)


def _key(line: dict[Hashable, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in KEY)


def _seeds(line: dict[Hashable, Any]) -> dict[int, float]:
    pairs = [pair.partition(":") for pair in str(line["by_seed"]).split()]
    if not all(colon for _, colon, _ in pairs):
        raise SpecError(
            f"The line of {line['label']} in {line['target']} in results.csv does not say which seeds it has.",
            hint="Leave out --pool: with --add a line is replaced.",
        )
    return {int(seed): float(value) for seed, _, value in pairs}


def write(store: Store, studies: Sequence[str], folder: Path, *, add: bool = False, pool: bool = False) -> None:
    """Renew `results.csv` from the studies' finished runs, then `results.md`.

    Raises as `study_results`, and with `pool`, which includes `add`, as `pooled`.
    """
    table = folder / "results.csv"
    lines = rows(store, studies)
    if (add or pool) and table.exists():
        before = read(table)
        lines = added(pooled(lines, before) if pool else lines, before)
    table.write_bytes(exports.csv(lines))
    render(folder)


def read(table: Path) -> pd.DataFrame:
    """The lines of a `results.csv`, so that writing them again changes no digit; older ones have pooled no seeds."""
    lines = pd.read_csv(table, dtype={"by_seed": str})
    return lines if "pooled" in lines else lines.assign(pooled=0)


def again(folder: Path) -> None:
    """Renew `results.csv` from its own lines, as `added` does, then `results.md`."""
    table = folder / "results.csv"
    lines = read(table)
    table.write_bytes(exports.csv(added(lines.head(0), lines)))
    render(folder)


def render(folder: Path) -> None:
    """Renew `results.md` behind its mark from `results.csv`."""
    page, table = folder / "results.md", folder / "results.csv"
    before = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Results\n\n"
    page.write_text("\n\n".join([before + MARK, *sections(read(table))]) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of studies."""
    parser = argparse.ArgumentParser(prog="python -m app.report", description=main.__doc__)
    parser.add_argument("study", nargs="*", help="names or ids of studies; without one the tables are made again")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder with results.md")
    parser.add_argument("--add", action="store_true", help="keep the lines of results.csv that the studies have not")
    parser.add_argument("--pool", action="store_true", help="and in a line the seeds that only results.csv has")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.study:
        again(options.out)
        return
    store = open_store()
    try:
        write(store, options.study, options.out, add=options.add, pool=options.pool)
    except CmrError as error:
        raise SystemExit(error.explain()) from None
    except DatabaseError as error:
        place = store.settings.root
        raise SystemExit(
            f"Error: the store in {place} cannot be read: {error.orig}.\n"
            "What to do: set CMR_HOME to the folder of your store, or make a new one with ./cmr up."
        ) from None


def _costs(runs: pd.DataFrame) -> pd.DataFrame:
    """By label and target: each seed and its value, and what a run costs."""
    pairs = [f"{seed}:{value:.6f}" for seed, value in zip(runs["seed"], runs["value"], strict=True)]
    spent = runs.assign(updated=runs["parameters"].map(comparison.updated), by_seed=pairs)
    groups = spent.sort_values("seed").groupby(["label", "target"])
    by_seed = groups["by_seed"].agg(" ".join)
    # a shared stage is built in one of the seeds' or markets' runs: the mean hides nothing, a median would
    devices = groups["device"].agg(lambda names: " ".join(sorted(set(names)))).rename("devices")
    return groups[COST].mean().join([by_seed, devices]).reset_index()


if __name__ == "__main__":
    main()
