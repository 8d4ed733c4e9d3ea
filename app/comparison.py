"""Methods x markets: means over users, intervals, and which differences are more than luck. No Streamlit here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app import words
from cmr_core.evaluation.compare import adjust, against, bootstrap, over_seeds
from cmr_core.published import Published

SIMPLE = ("reference", "single-market")
POPULARITY = "popularity"  # a method that learns and stays below it has learned nothing of use
STRONGEST = "strongest"  # the reference that may be another method in each market
RESAMPLES = 2000
CELL = ["label", "method", "target", "mean", "low", "high", "n", "seeds", "date"]
TEST = ["reference", "difference", "diff_low", "diff_high", "effect", "wins", "ties", "losses", "p_wilcoxon"]
ALIKE = 9  # digits to which two means are compared
FAMILY = ["p_holm", "significant"]  # what the tests of a whole table say together
PAPERS = {"ratio": "DCMPT paper, table 1", "leave-one-out": "ACMR paper, table 3"}  # by the split they come nearest to
PerUser = Callable[[str, str], pd.DataFrame]


@dataclass(frozen=True)
class Comparison:
    """The cells of one methods-by-markets table: columns CELL + TEST + FAMILY + `place` (1 is best in its market).

    TEST and FAMILY columns are empty in the row of the reference and where there is none.
    """

    metric: str
    cells: pd.DataFrame

    @property
    def labels(self) -> dict[str, str]:
        """Label -> method, in the table's order."""
        rows = self.cells.drop_duplicates("label")
        return dict(zip(rows["label"], rows["method"], strict=True))

    @property
    def targets(self) -> list[str]:
        """Markets, by name."""
        return sorted(set(self.cells["target"]))

    def note(self) -> str:
        """N, seeds and date in words."""
        users = self.cells.groupby("target")["n"].max()
        each = ", ".join(f"{target} {words.count(n)}" for target, n in users.items())
        seen = f"N {words.count(users.sum())} test users" + (f" ({each})" if len(users) > 1 else "")
        seeds, date = words.plural(int(self.cells["seeds"].max()), "seed"), words.day(self.cells["date"].max())
        return f"{seen} · up to {seeds} · newest run {date}"


def compare(
    results: pd.DataFrame, metric: str, per_user: PerUser, families: Mapping[str, str], reference: str = STRONGEST
) -> Comparison:
    """Cells of all labels and targets in `results` (one row per run, as `queries.results` gives and labelled).

    `per_user(run_id, finished)` reads a run's table. `reference` is a label or STRONGEST: in each market the best of
    the methods that use no other market. p-values are Holm-corrected over the whole table. Raises SpecError.
    """
    parts = [
        market(str(target), runs, metric, per_user, families, reference) for target, runs in results.groupby("target")
    ]
    return assemble(metric, parts)


def assemble(metric: str, parts: Sequence[pd.DataFrame]) -> Comparison:
    """One table from its markets' cells (see `market`): p-values corrected together, best method first."""
    cells = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*CELL, *TEST])
    tests = adjust(cells.astype({"p_wilcoxon": float}))
    tests["place"] = tests.groupby("target")["mean"].rank(ascending=False, method="min")
    return Comparison(metric, _best_first(tests)[[*CELL, *TEST, *FAMILY, "place"]])


def means(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, from stored means alone: label, method, target, mean, n, best method first. No intervals."""
    cells = results.groupby(["label", "method", "target"], as_index=False).agg(mean=("value", "mean"), n=("n", "max"))
    return _best_first(cells)


def _best_first(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of label, target, mean: those of the best label first, and of those that lack markets last.

    A mean over some markets is no rank among means over all of them.
    """
    groups = cells.groupby("label")["mean"]
    order = cells[["label", "target"]].assign(markets=-groups.transform("size"), level=-groups.transform("mean"))
    return cells.loc[order.sort_values(["markets", "level", "label", "target"]).index].reset_index(drop=True)


def market(
    target: str, runs: pd.DataFrame, metric: str, per_user: PerUser, families: Mapping[str, str], reference: str
) -> pd.DataFrame:
    """The cells of one market, arguments as for `compare`: columns CELL + TEST, p-values not yet corrected.

    About 0.2 s for ten methods with three seeds on 2,000 users. Raises SpecError.
    """
    groups = {str(label): rows for label, rows in runs.groupby("label")}
    series = {label: over_seeds(_tables(rows, per_user), metric) for label, rows in groups.items()}
    values = pd.DataFrame(series)
    intervals = bootstrap(values.to_numpy(dtype=float), resamples=RESAMPLES)
    rows = [
        (
            label,
            rows["method"].iloc[0],
            target,
            i.mean,
            i.low,
            i.high,
            i.n,
            rows["seed"].nunique(),
            rows["finished_at"].max(),
        )
        for (label, rows), i in zip(groups.items(), intervals, strict=True)
    ]
    cells = pd.DataFrame(rows, columns=CELL)
    base = _reference(cells, families, reference)
    if base is None:
        return cells.reindex(columns=[*CELL, *TEST])
    tests = against(series, base, resamples=RESAMPLES).rename(
        columns={"method": "label", "low": "diff_low", "high": "diff_high"}
    )
    tests = tests.drop(columns=["n", "mean"]).assign(reference=base)
    return cells.merge(tests, on="label", how="left").reindex(columns=[*CELL, *TEST])


def _tables(runs: pd.DataFrame, per_user: PerUser) -> list[pd.DataFrame]:
    return [per_user(str(run), str(at)) for run, at in zip(runs["run_id"], runs["finished_at"], strict=True)]


def _reference(cells: pd.DataFrame, families: Mapping[str, str], reference: str) -> str | None:
    if reference != STRONGEST:
        return reference if reference in set(cells["label"]) else None
    return strongest(cells, families)


def strongest(cells: pd.DataFrame, families: Mapping[str, str]) -> str | None:
    """The label with the highest mean of those that use no other market, or None. `cells`: label, method, mean.

    Of equal means, also where they differ by rounding, the first in the alphabet: otherwise one more run of another
    method could turn the order of two that are alike, and with it the reference of every test.
    """
    simple = cells[cells["method"].map(families).isin(SIMPLE)].sort_values("label")
    return None if simple.empty else str(simple["label"].iloc[simple["mean"].round(ALIKE).argmax()])


def grid(comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table as text, and beside it each cell's style. Rows methods, columns markets.

    Styles: "best", "second" or "", and "below" or "second below" for means below the market's popularity, where that
    has run.

    ▲ and ▼: better or worse than the market's reference, Holm-corrected p < 0.05. The last column is the mean over
    markets, for methods that have all of them; it is not marked, as a small market with few users counts as
    much as a large one. Where rows rest on different numbers of seeds, another column says so.
    """
    cells = comparison.cells
    rows, columns = list(comparison.labels), comparison.targets
    text = pd.DataFrame("—", index=rows, columns=[*columns, "mean"])
    style = pd.DataFrame("", index=rows, columns=[*columns, "mean"])
    popular = cells[cells["method"] == POPULARITY].groupby("target")["mean"].max()
    references = dict(zip(cells["target"], cells.groupby("target")["reference"].transform("first"), strict=True))
    for cell in cells.to_dict("records"):
        label, target, half = str(cell["label"]), str(cell["target"]), (cell["high"] - cell["low"]) / 2
        mark = " (ref)" if references[target] == label else ""
        if cell["significant"]:
            mark = " ▲" if cell["difference"] > 0 else " ▼"
        text.at[label, target] = f"{cell['mean']:.4f} ± {half:.4f}{mark}"
        weak = cell["mean"] < popular.get(target, -np.inf)
        place = {1: "best", 2: "second"}.get(int(cell["place"]), "")
        style.at[label, target] = f"{place} below".strip() if weak else place
    means = cells.pivot(index="label", columns="target", values="mean").reindex(rows).dropna().mean(axis=1)
    text.loc[means.index, "mean"] = means.map("{:.4f}".format)
    few, many = (cells.groupby("label")["seeds"].agg(how).reindex(rows).astype(int) for how in ("min", "max"))
    if few.min() < many.max():  # rows that rest on different numbers of seeds say so
        text["seeds"] = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(few, many, strict=True)]
        style["seeds"] = ""
    return text, style


def published(comparison: Comparison, numbers: Sequence[Published], protocol: str = "") -> pd.DataFrame:
    """Numbers of papers for the table's metric and markets: label, target, value, protocol, fits.

    `protocol`: the table's, in words; the table of the paper that comes nearest to it fits, and stands first.
    """
    nearest = next((source for kind, source in PAPERS.items() if protocol.startswith(kind)), None)
    known = [p for p in numbers if p.metric == comparison.metric and p.market in comparison.targets]
    rows = [(f"{p.method} ({p.source})", p.market, p.value, p.protocol, p.source == nearest) for p in known]
    frame = pd.DataFrame(rows, columns=["label", "target", "value", "protocol", "fits"])
    return frame.drop_duplicates(["label", "target"]).sort_values("fits", ascending=False, kind="stable")


def gains(comparison: Comparison, richness: Mapping[str, float]) -> pd.DataFrame:
    """Difference to the market's reference, with the market's richness: label, target, x, y, low, high, n."""
    cells = comparison.cells[comparison.cells["reference"].notna()]
    frame = cells.assign(x=cells["target"].map(richness))[
        ["label", "target", "x", "difference", "diff_low", "diff_high", "n"]
    ]
    renamed = frame.rename(columns={"difference": "y", "diff_low": "low", "diff_high": "high"})
    return renamed.astype({"x": float, "y": float, "low": float, "high": float})


def costs(comparison: Comparison, results: pd.DataFrame, target: str | None, cost: str) -> pd.DataFrame:
    """Quality and cost of each label, for charts.tradeoff: label, x, y, low, high, text, symbol.

    `target` None: the mean over markets, without an interval, of the labels that have all of them. `cost`: "parameters"
    (updated in the last stage or solved for) or "seconds" of a run. A method without parameters is drawn at 1, because
    the axis is logarithmic.
    """
    whole = comparison.cells.groupby("label")["target"].transform("nunique") == len(comparison.targets)
    cells = comparison.cells[whole if target is None else comparison.cells["target"] == target]
    chosen = results if target is None else results[results["target"] == target]
    spent = chosen.assign(cost=chosen["seconds"] if cost == "seconds" else chosen["parameters"].map(updated))
    x = spent.groupby("label")["cost"].mean()
    frame = cells.groupby("label", sort=False)[["mean", "low", "high"]].mean().reset_index()
    if target is None:
        frame[["low", "high"]] = np.nan
    text = [
        f"{words.duration(v)} per run" if cost == "seconds" else f"{words.count(v)} updated" for v in x[frame["label"]]
    ]
    shown = frame.assign(x=x[frame["label"]].clip(lower=0.001 if cost == "seconds" else 1).to_numpy(), text=text)
    return shown.rename(columns={"mean": "y"}).assign(symbol="circle")


def updated(parameters: Mapping[str, int] | None) -> float:
    """Scalars that the last stage updates or solves for."""
    return float("nan") if parameters is None else float(parameters["trainable"] + parameters["closed_form"])


def by_group(slices: pd.DataFrame, kind: str, order: Sequence[str]) -> pd.DataFrame:
    """Means over seeds in the groups of `kind` ("item" or "user"), cold ones first: label, group, value, n.

    `order`: the labels in the order of the table.
    """
    mine = slices[slices["slice"].str.startswith(f"{kind}:")]
    if mine.empty:
        return pd.DataFrame(columns=["label", "group", "value", "n"])
    frame = mine.groupby(["label", "slice"], sort=False, as_index=False).agg(value=("value", "mean"), n=("n", "max"))
    most = frame.groupby("slice")["n"].transform("max").map(words.count)
    names = frame["slice"].str.partition(":")[2] + " interactions<br>N " + most
    places = {
        "first": frame["slice"].str.extract(r":(\d+)")[0].astype(int),
        "at": frame["label"].map(list(order).index),
    }
    ordered = frame.assign(group=names, **places).sort_values(["at", "first"], ignore_index=True)
    return ordered[["label", "group", "value", "n"]]


def export_rows(comparison: Comparison, protocol: str) -> pd.DataFrame:
    """The cells as a flat table for CSV, each with its protocol, metric, N, seeds and date."""
    frame = comparison.cells.assign(metric=comparison.metric, protocol=protocol)
    frame["date"] = frame["date"].map(words.day)
    return frame.rename(columns={"low": "ci95_low", "high": "ci95_high", "n": "users"})
