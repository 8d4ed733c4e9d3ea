"""From the lines of `results.csv` to the tables of `results.md`, and to what can be counted in them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from app import comparison, words
from app.study import paper
from cmr_core import published
from cmr_core.models import registry

METRICS = ("ndcg@10", "recall@10")
FEWEST = 3  # methods between which an order says anything
SEEDS = 3  # that a row should have where its method draws at random


def sections(lines: pd.DataFrame) -> Iterator[str]:
    """Markdown of each metric and protocol, the largest table first, and how alike the protocols judge.

    From the lines of `results.csv`.
    """
    for metric in METRICS:
        for text in _protocols(lines):
            mine = lines[(lines["metric"] == metric) & (lines["protocol"] == text)]
            if len(mine):
                yield "\n\n".join(_section(mine, metric, text))
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
    largest = lines.groupby("target")["users"].max().sort_values(ascending=False).index[:2]
    parts = []
    for target in largest:
        mine = lines[lines["target"] == target].sort_values("mean", ascending=False)
        base = mine[mine["method"] == comparison.POPULARITY]["mean"]
        learns = mine["method"].map(families()) != "reference"
        if len(base):
            below = mine[learns & (mine["mean"] < base.iloc[0])]
            names = [f"{row.label} ({row.mean:.4f})" for row in below.itertuples()]
            parts.append(f"{target} ({base.iloc[0]:.4f}): {', '.join(names) or 'none'}.")
    return " ".join(["Methods that learn and stay below *Popularity*, in the two largest markets.", *parts])


def _protocols(lines: pd.DataFrame) -> list[str]:
    # those of equal size by name: the order of results.csv turns with what was added last
    return [str(text) for text in lines.groupby("protocol").size().sort_values(ascending=False, kind="stable").index]


def stand_out(lines: pd.DataFrame) -> str:
    """The rows that are significantly better than their market's reference, where, and their means over all markets.

    Empty where nothing is tested.
    """
    if not (tests := int(lines["p_holm"].count())):
        return ""
    better = lines[lines["significant"].astype(bool) & (lines["difference"] > 0)]
    where = better.sort_values("target").groupby("label")["target"].agg(" ".join)
    means = _means(lines)
    order = means.reindex(where.index).sort_values(ascending=False)  # rows that lack a market have none, and come last
    found = [
        f"{label} ({where[str(label)]}; mean {mean:.4f})".replace("; mean nan", "") for label, mean in order.items()
    ]
    said = "; ".join(found) or "no row on any market"
    return f"Significantly better than the market's reference, of {words.plural(tests, 'test')}: {said}."


def seeds_here(lines: pd.DataFrame) -> str:
    """How many rows have as many seeds as the table's goal on all their markets, and which have fewer."""
    fewest = lines.groupby("label", sort=False).agg(seeds=("seeds", "min"), method=("method", "first"))
    certain = {name for name, info in registry.load().items() if info.deterministic}
    drawn = fewest[~fewest["method"].isin(certain)]
    fewer = drawn[drawn["seeds"] < SEEDS]
    rows = words.plural(len(drawn), "row")
    enough = f"{len(drawn) - len(fewer)} of the {rows} that {'draws' if len(drawn) == 1 else 'draw'} at random"
    said = f"{SEEDS} seeds or more on every market: {enough}."
    names = ", ".join(f"{row.Index} ({row.seeds})" for row in fewer.itertuples())
    return f"{said} Fewer somewhere: {names}." if names else said


def noise(lines: pd.DataFrame, text: str) -> str:
    """By market the size below which two seeds of one row differ in 95 % of cases; empty without two seeds anywhere."""
    known = [line for line in lines[["target", "by_seed"]].itertuples(index=False) if ":" in str(line.by_seed)]
    apart: dict[str, list[float]] = {}
    for target, by_seed in known:
        values = [float(pair.partition(":")[2]) for pair in str(by_seed).split()]
        apart.setdefault(str(target), []).extend(abs(one - other) for one, other in combinations(values, 2))
    sizes = [f"{target} {pd.Series(found).quantile(0.95):.4f}" for target, found in sorted(apart.items()) if found]
    if not sizes:
        return ""
    what = "seeds, each with its own split," if text.endswith("a split per seed") else "seeds"
    return f"Two {what} of one row differ in 95 % of cases by less than: {', '.join(sizes)}."


def paper_order(lines: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """How alike we and a paper order the methods that both have in all markets; empty below three.

    `theirs`: rows its methods, columns markets, as `paper.numbers`. Also how many of all our rows have a higher mean
    than the paper's best.
    """
    ours, known = _means(lines), registry.load()
    paper_means = theirs.reindex(columns=sorted(lines["target"].unique())).dropna().mean(axis=1)
    methods = lines.groupby("label", sort=False)["method"].first()
    # only with a method's own settings is a row the paper's system
    standard = [(str(row), str(name)) for row, name in methods.items() if name in known and known[name].label == row]
    pairs = paper.pairs({row: [row, name] for row, name in standard if row in ours}, list(paper_means.index))
    if len(pairs) < FEWEST:
        return ""
    renamed = paper_means.rename({name: row for row, name in pairs.items()})[list(pairs)]
    alike = ours.reindex(list(pairs)).rank().corr(renamed.rank())
    best = str(paper_means.idxmax())
    above = int((ours > paper_means.max()).sum())
    return (
        f"Rank correlation of the {len(pairs)} systems' means with the paper's: {alike:.2f}. "
        f"Above its best mean ({best} {paper_means.max():.4f}): {above} of our {len(ours)} rows."
    )


def _means(lines: pd.DataFrame) -> pd.Series:
    """Mean over the table's markets of the rows that have all of them, by label."""
    return lines.pivot_table(index="label", columns="target", values="mean").dropna().mean(axis=1)


def agreement(lines: pd.DataFrame) -> pd.DataFrame:
    """How alike two protocols order the methods: Spearman's correlation of means over markets, and of how many.

    Of the methods that have all of a protocol's markets under both, which must be three or more.
    """
    means: dict[str, pd.Series] = {}
    for text, mine in lines.groupby("protocol"):
        means[str(text)] = _means(mine)
    found = {}
    for one, other in combinations(_protocols(lines), 2):
        both = means[one].index.intersection(means[other].index)
        if len(both) >= FEWEST:
            alike = means[one][both].rank().corr(means[other][both].rank())
            found[f"{one} — {other}"] = [f"{alike:.2f}", str(len(both))]
    return pd.DataFrame.from_dict(found, orient="index", columns=["rank correlation", "methods"])


def paper_numbers(text: str, found: comparison.Comparison) -> pd.DataFrame:
    """What the paper nearest to the protocol reports for the metric and markets; empty where there is none."""
    source = next((name for kind, name in comparison.PAPERS.items() if text.startswith(kind)), "")
    return paper.numbers(source, found.metric, found.targets, published.load())


def _section(lines: pd.DataFrame, metric: str, text: str) -> Iterator[str]:
    found = assembled(lines, metric)
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
    if said := stand_out(lines):
        yield said
    yield below_popularity(lines)
    yield " ".join(filter(None, (seeds_here(lines), noise(lines, text))))
    theirs = paper_numbers(text, found)
    if len(theirs):
        yield "As the paper reports it, under its own protocol and never mixed with ours:"
        yield markdown(theirs.rename(index="{} (paper)".format).map("{:.4f}".format))
        if said := paper_order(lines, theirs):
            yield said
    if metric == METRICS[0]:
        yield "Processor seconds of a run, shared stages where they are built, and scalars updated last:"
        yield markdown(durations(lines))
        there = lines[lines["devices"].str.contains("gpu", na=False)]
        if len(there):
            markets = there.groupby("label")["target"].agg(" ".join)
            yield f"On a GPU: {'; '.join(f'{label} ({names})' for label, names in markets.items())}."


def assembled(lines: pd.DataFrame, metric: str) -> comparison.Comparison:
    named = lines.rename(columns={"ci95_low": "low", "ci95_high": "high", "users": "n"})
    return comparison.assemble(metric, [named.assign(date=pd.to_datetime(named["date"]))])


def families() -> dict[str, str]:
    return {name: info.family for name, info in registry.load().items()}
