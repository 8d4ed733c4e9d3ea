"""The views of the page Compare, drawn with Streamlit. Each says protocol, N and date."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import cached, charts, comparison, exports, frame, queries, words
from cmr_core.published import load, load_costs
from worker.store.corpora import get_corpus
from worker.store.session import Store

STYLES = {
    "best": "font-weight: 700",
    "second": "box-shadow: inset 0 -2px 0 currentColor",  # text in cells of st.table cannot be underlined
    "below": "opacity: 0.5",
    "second below": "opacity: 0.5; box-shadow: inset 0 -2px 0 currentColor",
    "paper": "opacity: 0.75; font-style: italic",
    "": "",
}
MOST_ROWS, TALL = 18, 700  # rows of a table, and the pixels in which longer ones scroll
MOST_SIGNS = 28  # of a method's name that stays on one line
BEYOND = ("coverage", "novelty", "popularity", "gini")


@dataclass(frozen=True)
class View:
    """What the page has chosen: one corpus, one protocol, one metric."""

    corpus: str
    protocol: str
    text: str
    metric: str
    results: pd.DataFrame  # one row per run, labelled
    table: comparison.Comparison
    markets: list[str]  # of the corpus

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each label."""
        return charts.palette(self.table.labels, cached.colors())

    @property
    def many(self) -> bool:
        """More methods than colours can tell apart."""
        return len(self.table.labels) > charts.MANY

    def best(self) -> list[str]:
        """As many of the methods as colours can tell apart, best first."""
        return list(self.table.labels)[: charts.MANY]

    @property
    def title(self) -> str:
        """The metric as axes print it."""
        return words.metric(self.metric)

    def caption(self, more: str = "") -> None:
        """Protocol, N, seeds and date under a table or chart."""
        st.caption(f"{self.title} · {self.text} · {self.table.note()}{more}")

    def market(self, *, mean: bool = False) -> str | None:
        """A market to look at, or None for the mean of all."""
        names = {name: name for name in self.table.targets} | ({"all": "Mean of all markets"} if mean else {})
        order = ["all", *self.table.targets] if mean else self.table.targets
        chosen = frame.choose("Market", order, "market", text=names.__getitem__)
        return None if chosen == "all" and mean else chosen


def table(view: View) -> None:
    """Methods x markets, best bold, second underlined, with marks; and its exports."""
    text, style = comparison.grid(view.table)
    grid(text, style)
    view.caption(
        f". Mean ± half of the 95 % bootstrap interval over users. {legend(style)} ▲ ▼: better or worse than the "
        "market's reference (ref), paired Wilcoxon test over users, Holm-corrected over the table, p < 0.05. "
        f"{about_rows(view.table.labels)}"
    )
    notes = [f"{view.title}, {view.text}", view.table.note(), f"protocol {view.protocol}"]
    name = f"{view.metric.replace('@', '-at-')}-{view.protocol[:8]}"
    with st.container(horizontal=True):
        rows = exports.csv(comparison.export_rows(view.table, view.text), notes)
        st.download_button("CSV", rows, f"{name}.csv", "text/csv", on_click="ignore")
        st.download_button("LaTeX", _latex(view, text, style, notes), f"{name}.tex", "text/plain", on_click="ignore")
        st.caption("Charts are saved as PNG with the camera above each of them.")


def legend(style: pd.DataFrame) -> str:
    """What the cells' styles mean, those that the table has."""
    faint = ", faint: below *Popularity*" if style.isin(["below", "second below"]).to_numpy().any() else ""
    return f"**Bold**: best, underlined: second{faint}."


def about_rows(labels: Iterable[str]) -> str:
    """What a reader of the table must know of its rows: their mean, and names that were told apart."""
    said = "The mean counts every market alike, and has no interval and no test."
    if any(re.search(r" #[0-9a-f]{4}$", label) for label in labels):  # see `naming.label_rows`
        said += " A name with # is one of several configurations of that name that differ much: its runs say in what."
    return said


def grid(text: pd.DataFrame, style: pd.DataFrame) -> None:
    """A table of cells with styles, names of STYLES; it scrolls to the right and, if it is long, downwards."""
    # without spaces to break at, cells keep to a line and the table scrolls instead
    whole = {name: name.replace(" ", "\u00a0") if len(name) <= MOST_SIGNS else name for name in map(str, text.index)}
    shown = text.rename(index=whole).rename(index=frame.literal).map(lambda cell: cell.replace(" ", "\u00a0"))
    styled = shown.style.apply(lambda _: style.map(STYLES.__getitem__).set_axis(shown.index), axis=None)
    st.table(styled, height=TALL if len(shown) > MOST_ROWS else "content")


def chart(view: View) -> None:
    """Bars with intervals and seed dots, with the papers' numbers on top when asked for; a line each for many."""
    if view.many:
        rows = view.table.cells.rename(columns={"target": "series", "mean": "value"})
        figure = charts.dots(rows, charts.series_colors(view.markets), view.title)
        st.plotly_chart(figure, config=charts.config(f"compare-{view.metric}"), key="bars")
        view.caption(
            ". Dots: mean over users and seeds with its 95 % interval, best method on top. With at most "
            f"{charts.MANY} methods they stand as bars, with single seeds and papers' numbers."
        )
        return
    figure = charts.bars(view.table.cells, view.results, view.colors, view.title)
    numbers = comparison.published(view.table, load(), view.text)
    if len(numbers):
        fits = dict(zip(numbers["label"], numbers["fits"], strict=True))
        first = [name for name, fit in fits.items() if fit and name.startswith("DCMPT (")]
        picked = st.multiselect(
            "Published numbers to lay over", list(fits), first, key=f"papers-{view.protocol[:8]}", placeholder="None",
            format_func=lambda name: name if fits[name] else f"{name} · another protocol",
        )  # fmt: skip
        chosen = numbers[numbers["label"].isin(picked)]
        figure = charts.add_published(figure, chosen)
        said = sorted(set(chosen["label"] + ": " + chosen["protocol"]))
        if said:
            st.caption("Diamonds are papers' numbers under their own protocols: " + "; ".join(said) + ".")
    st.plotly_chart(figure, config=charts.config(f"compare-{view.metric}"), key="bars")
    view.caption(". Bars: mean over users and seeds with its 95 % interval; dots: single seeds.")


def tradeoff(view: View) -> None:
    """Quality against what it costs."""
    left, right = st.columns(2)
    with left:
        target = view.market(mean=True)
    names = {"parameters": "Updated parameters", "seconds": "Seconds per run"}
    with right:
        cost = frame.choose("Cost", list(names), "cost", text=names.__getitem__)
    points = comparison.costs(view.table, view.results, target, cost)
    said = ""
    if target is None and (few := len(view.table.labels) - len(points)):
        said = f" Left out: {words.plural(few, 'method')} without runs in all {len(view.table.targets)} markets."
    points = points.dropna(subset=["x", "y"])
    if cost == "parameters" and view.metric == "recall@10":
        known = [c for c in load_costs() if c.market == target]
        paper = [(f"{c.method} ({c.source})", c.parameters, c.recall_at_10, c.paradigm) for c in known]
        rows = pd.DataFrame(paper, columns=["label", "x", "y", "text"]).assign(symbol="diamond-open")
        points = pd.concat([points, rows], ignore_index=True) if known else points
        sources = " and ".join(sorted({c.source for c in known}))
        said += f" Open diamonds: {sources}, under its own protocol; no part of the dotted line." if known else ""
    figure = charts.tradeoff(points, view.colors, names[cost], view.title)
    st.plotly_chart(figure, config=charts.config(f"tradeoff-{view.metric}"), key="tradeoff")
    view.caption(
        ". Updated parameters: trained in the last stage, or solved for in closed form; methods without any stand at 1."
        f" Seconds: of the run itself; a stage that another run had built is not counted again.{said}"
    )


def groups(view: View, store: Store) -> None:
    """Quality for cold and popular items, and for users with short and long histories."""
    target = view.market()
    slices = queries.slices(store, view.corpus, view.protocol, view.metric)
    slices = slices[slices["target"] == target].merge(
        view.results[["run_id", "label"]], on="run_id", suffixes=("_", "")
    )
    for kind, title in (
        ("item", "By training interactions of the item"),
        ("user", "By the user's training interactions"),
    ):
        shown = comparison.by_group(slices, kind, list(view.table.labels))
        st.subheader(title, anchor=False)
        if shown.empty:
            st.caption("No such group was stored for these runs.")
            continue
        figure = groups_chart(shown, view.colors, view.title)
        st.plotly_chart(figure, config=charts.config(f"groups-{kind}-{target}"), key=f"groups-{kind}")
    view.caption(f". Market {target}. N of a group: its users with a held-out item.")


def groups_chart(shown: pd.DataFrame, colors: dict[str, str], title: str) -> go.Figure:
    """Groups as bars, or with a line per method where there are many. shown: label, group, value, n."""
    if shown["label"].nunique() <= charts.MANY:
        return charts.groups(shown, colors, title)
    rows = shown.assign(series=shown["group"].str.replace("<br>", ", "))
    return charts.dots(rows, charts.series_colors(list(dict.fromkeys(rows["series"]))), title)


def richness(view: View, store: Store) -> None:
    """Who gains where data are scarce: the difference to the reference against the market's size."""
    names = {"pairs": "Interactions in the market", "density": "Density of the market", "users": "Users in the market"}
    by = frame.choose("Richness", list(names), "by", text=names.__getitem__)
    markets = get_corpus(store, view.corpus).description["markets"]
    found = comparison.gains(view.table, {name: float(facts[by]) for name, facts in markets.items()})
    if found.empty:
        frame.empty("**These markets have no reference to compare with.** Choose another reference above.")
        return
    best = found[found["label"].isin(view.best())] if view.many else found
    figure = charts.richness(best, view.colors, names[by], f"{view.title}, difference to the reference")
    st.plotly_chart(figure, config=charts.config(f"richness-{view.metric}"), key="richness")
    references = sorted({str(label) for label in view.table.cells["reference"].dropna()})
    view.caption(
        ". Poorest market first. "
        f"Each method minus the market's reference ({frame.literal(', '.join(references))}); above zero it gains. "
        "Intervals of the differences show under the pointer."
        + (f" Drawn are the {charts.MANY} best; choose methods above to see others." if view.many else "")
    )


def wins(view: View) -> None:
    """For how many users a method beats the reference, and by how much."""
    target = view.market()
    rows = view.table.cells[(view.table.cells["target"] == target) & view.table.cells["reference"].notna()]
    if rows.empty:
        frame.empty("**This market has no reference to compare with.** Choose another reference above.")
        return
    figure = charts.outcomes(rows.rename(columns={"wins": "win", "ties": "tie", "losses": "loss"}))
    st.plotly_chart(figure, config=charts.config(f"wins-{target}"), key="wins")
    names = {
        "label": "Method",
        "difference": "Difference",
        "diff_low": "95 % from",
        "diff_high": "to",
        "effect": "Effect (dz)",
    }
    names |= {"wins": "Wins", "ties": "Ties", "losses": "Losses", "p_holm": "p (Holm)", "n": "N"}
    p = st.column_config.NumberColumn(format="%.2g")
    st.dataframe(rows[list(names)].rename(columns=names), hide_index=True, column_config={"p (Holm)": p})
    view.caption(
        f". Market {target}, each method against {frame.literal(str(rows['reference'].iloc[0]))}, user by user."
    )


def beyond(view: View, store: Store) -> None:
    """Coverage, novelty and concentration beside accuracy."""
    target, cutoff = view.market(), view.metric.partition("@")[2]
    columns = {}
    for name in BEYOND:
        found = queries.results(store, view.corpus, view.protocol, f"{name}@{cutoff}")
        found = found[found["target"] == target].merge(
            view.results[["run_id", "label"]], on="run_id", suffixes=("_", "")
        )
        columns[words.metric(f"{name}@{cutoff}")] = found.groupby("label")["value"].mean()
    accuracy = view.table.cells[view.table.cells["target"] == target].set_index("label")["mean"].rename(view.title)
    shown = pd.concat([accuracy, pd.DataFrame(columns)], axis=1).rename_axis("Method").reset_index()
    st.dataframe(shown, hide_index=True)
    view.caption(
        f". Market {target}, mean over seeds. Coverage: share of the catalogue that anybody is shown. Novelty: mean "
        "surprise in bits. Popularity: mean training users of what is shown. Gini: 0 shows all items alike, 1 only one."
    )


def _latex(view: View, text: pd.DataFrame, style: pd.DataFrame, notes: list[str]) -> str:
    around = {"best": "**", "second": "__", "second below": "__"}
    rows = []
    for label in text.index:
        marks = [around.get(name, "") for name in style.loc[label]]
        cells = [mark + cell + mark for cell, mark in zip(text.loc[label], marks, strict=True)]
        rows.append([str(label), *cells])
    caption = f"{view.title}. {view.text}. {view.table.note()}."
    return exports.booktabs(["", *text.columns], rows, caption=caption, notes=notes)
