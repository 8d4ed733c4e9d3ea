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
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy.exc import DatabaseError

from app import comparison, exports, queries, words
from cmr_core import published
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
METRICS = ("ndcg@10", "recall@10")
KEY = ["protocol", "metric", "label", "target"]
COST = ["seconds", "processor_seconds", "updated"]
FEWEST = 3  # methods between which an order says anything


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
    return comparison.compare(runs, metric, lambda run, _: load_table(store, run, "per_user"), _families())


def added(new: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The new lines, and the old ones of which there is no new one.

    An old line's test against another reference than the market's present one is not taken over; what the tests of a
    table say together (Holm's correction, places) is made anew.
    """
    theirs, families = pd.MultiIndex.from_frame(old[KEY]), _families()
    both = pd.concat([new, old[~theirs.isin(pd.MultiIndex.from_frame(new[KEY]))]], ignore_index=True)
    simple = both["method"].map(families).isin(comparison.SIMPLE)
    best = both[simple].sort_values("mean").groupby(["protocol", "metric", "target"])["label"].last()
    place = pd.MultiIndex.from_frame(both[["protocol", "metric", "target"]])
    present = pd.Series(best.reindex(place).to_numpy(), index=both.index)
    stale = both["reference"].notna() & (both["reference"] != present)
    both.loc[stale, comparison.TEST] = np.nan
    whole = [*comparison.FAMILY, "place"]
    parts = []
    for (_, metric), mine in both.groupby(["protocol", "metric"]):
        cells = _assembled(mine, str(metric)).cells.set_index(["label", "target"])[whole]
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


def sections(lines: pd.DataFrame) -> Iterator[str]:
    """Markdown of each metric and protocol, the largest table first, and how alike the protocols judge.

    From the lines of `results.csv`.
    """
    for metric in METRICS:
        for text in lines["protocol"].value_counts().index:
            mine = lines[(lines["metric"] == metric) & (lines["protocol"] == text)]
            if len(mine):
                yield "\n\n".join(_section(mine, metric, str(text)))
    alike = agreement(lines[lines["metric"] == METRICS[0]])
    if len(alike):
        yield f"### Do protocols agree on the order of methods? Means of {words.metric(METRICS[0])} over markets"
        yield markdown(alike)


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table with the index as first column."""
    lines = [["", *map(str, frame.columns)], ["---", *["---:"] * len(frame.columns)]]
    lines += [[str(index), *map(str, row)] for index, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def grid(found: comparison.Comparison) -> pd.DataFrame:
    """The table as text, the best of a market bold."""
    text, style = comparison.grid(found)
    return text.where(style != "best", "**" + text + "**")


def durations(lines: pd.DataFrame) -> pd.DataFrame:
    """Processor seconds of a run, its sum over markets, and the scalars that its last stage updates or solves for."""
    seconds = lines.pivot_table(index="label", columns="target", values="processor_seconds", dropna=False)
    whole = seconds.sum(axis=1, skipna=False).map("{:.0f}".format).replace("nan", "—")
    spent = lines.groupby("label")["updated"].max().map(words.count, na_action="ignore").astype(object).fillna("—")
    shown = seconds.map("{:.1f}".format, na_action="ignore").astype(object).fillna("—")
    return shown.assign(all=whole, updated=spent)


def below_popularity(lines: pd.DataFrame) -> str:
    """The methods that learn and have a lower mean than the target's popularity, in the two largest markets."""
    families = _families()
    largest = lines.groupby("target")["users"].max().sort_values(ascending=False).index[:2]
    parts = []
    for target in largest:
        mine = lines[lines["target"] == target].sort_values("mean", ascending=False)
        base = mine[mine["method"] == comparison.POPULARITY]["mean"]
        learns = mine["method"].map(families) != "reference"
        if len(base):
            below = mine[learns & (mine["mean"] < base.iloc[0])]
            names = [f"{row.label} ({row.mean:.4f})" for row in below.itertuples()]
            parts.append(f"{target} ({base.iloc[0]:.4f}): {', '.join(names) or 'none'}.")
    return " ".join(["Methods that learn and stay below *Popularity*, in the two largest markets.", *parts])


def agreement(lines: pd.DataFrame) -> pd.DataFrame:
    """How alike two protocols order the methods: Spearman's correlation of means over markets, and of how many.

    Of the methods that have all of a protocol's markets under both, which must be three or more.
    """
    means: dict[str, pd.Series] = {}
    for text, mine in lines.groupby("protocol"):
        means[str(text)] = mine.pivot_table(index="label", columns="target", values="mean").dropna().mean(axis=1)
    found = {}
    for one, other in combinations([str(text) for text in lines["protocol"].value_counts().index], 2):
        both = means[one].index.intersection(means[other].index)
        if len(both) >= FEWEST:
            alike = means[one][both].rank().corr(means[other][both].rank())
            found[f"{one} — {other}"] = [f"{alike:.2f}", str(len(both))]
    return pd.DataFrame.from_dict(found, orient="index", columns=["rank correlation", "methods"])


def paper_rows(text: str, found: comparison.Comparison) -> pd.DataFrame:
    """What the paper nearest to the protocol reports for the metric and markets."""
    source = next((name for kind, name in comparison.PAPERS.items() if text.startswith(kind)), None)
    rows = [p for p in published.load() if p.source == source and p.metric == found.metric]
    frame = pd.DataFrame([(f"{p.method} (paper)", p.market, p.value) for p in rows], columns=["label", "market", "v"])
    order = frame["label"].drop_duplicates()
    wide = frame.pivot_table(index="label", columns="market", values="v").reindex(order)
    return wide.reindex(columns=found.targets).map("{:.4f}".format)


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


def _section(lines: pd.DataFrame, metric: str, text: str) -> Iterator[str]:
    found = _assembled(lines, metric)
    yield f"### {text}: {words.metric(metric)}"
    yield found.note()
    yield markdown(grid(found))
    older = lines[lines["date"] < lines["date"].max()].groupby("label", sort=False)["date"].min()
    if len(older):
        yield f"Of an earlier sitting: {', '.join(f'{label} ({date})' for label, date in older.items())}."
    earlier = lines[lines["pooled"] > 0].groupby("label", sort=False)["pooled"].max()
    if len(earlier):
        names = ", ".join(f"{label} ({words.plural(n, 'seed')} of an earlier one)" for label, n in earlier.items())
        yield f"Seeds of several sittings, with an interval that is at most too wide and without a test: {names}."
    yield below_popularity(lines)
    papers = paper_rows(text, found)
    if len(papers):
        yield "As the paper reports it, under its own protocol and never mixed with ours:"
        yield markdown(papers)
    if metric == METRICS[0]:
        yield "Processor seconds of a run, shared stages where they are built, and scalars updated last:"
        yield markdown(durations(lines))
        there = lines[lines["devices"].str.contains("gpu", na=False)]
        if len(there):
            markets = there.groupby("label")["target"].agg(" ".join)
            yield f"On a GPU: {'; '.join(f'{label} ({names})' for label, names in markets.items())}."


def _assembled(lines: pd.DataFrame, metric: str) -> comparison.Comparison:
    named = lines.rename(columns={"ci95_low": "low", "ci95_high": "high", "users": "n"})
    return comparison.assemble(metric, [named.assign(date=pd.to_datetime(named["date"]))])


def _costs(runs: pd.DataFrame) -> pd.DataFrame:
    """By label and target: each seed and its value, and what a run costs."""
    pairs = [f"{seed}:{value:.6f}" for seed, value in zip(runs["seed"], runs["value"], strict=True)]
    spent = runs.assign(updated=runs["parameters"].map(comparison.updated), by_seed=pairs)
    groups = spent.sort_values("seed").groupby(["label", "target"])
    by_seed = groups["by_seed"].agg(" ".join)
    # a shared stage is built in one of the seeds' or markets' runs: the mean hides nothing, a median would
    devices = groups["device"].agg(lambda names: " ".join(sorted(set(names)))).rename("devices")
    return groups[COST].mean().join([by_seed, devices]).reset_index()


def _families() -> dict[str, str]:
    return {name: info.family for name, info in registry.load().items()}


if __name__ == "__main__":
    main()
