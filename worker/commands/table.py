"""A study's methods-by-markets table: one row per configuration, seeds inside it, one table per protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from cmr_core.evaluation.latex import latex
from worker.store.corpora import market_names
from worker.store.tables import CorpusRow, MetricRow, RunRow, StudyRunRow

if TYPE_CHECKING:
    import pandas as pd

    from worker.store.session import Store

COLUMNS = ["protocol", "method", "market", "mean", "std", "seeds", "users"]


def study_table(store: Store, study_id: str, metric: str) -> pd.DataFrame:
    """Mean and standard deviation over seeds of a test metric, for each protocol, method and market.

    Columns as in COLUMNS; only succeeded runs count, so `seeds` says how many there were. A method that learned from
    some of the source markets only is a row of its own, which names them.
    """
    import pandas as pd

    query = (
        select(RunRow, CorpusRow, MetricRow.value, MetricRow.n)
        .join(MetricRow, MetricRow.run_id == RunRow.id)
        .join(CorpusRow, CorpusRow.digest == RunRow.corpus)
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == study_id, RunRow.state == "succeeded")
        .where(MetricRow.part == "test", MetricRow.slice == "all", MetricRow.name == metric)
    )
    with store.read() as session:
        found = [
            (run.protocol_text, run.label + _sources(run, corpus), run.target, value, users)
            for run, corpus, value, users in session.execute(query)
        ]
    rows = pd.DataFrame(found, columns=["protocol", "method", "market", "value", "users"])
    groups = rows.groupby(["protocol", "method", "market"])
    table = groups.agg(mean=("value", "mean"), std=("value", "std"), seeds=("value", "size"), users=("users", "max"))
    return table.reset_index()[COLUMNS]


def to_latex(table: pd.DataFrame, metric: str) -> str:
    """One booktabs table per protocol: methods x markets, mean with standard deviation, best of a market bold."""
    return "\n".join(_one_latex(protocol, part, metric) for protocol, part in table.groupby("protocol"))


def run_metrics(store: Store, run_id: str) -> dict[str, float]:
    """A run's test means over all users, by metric."""
    query = select(MetricRow.name, MetricRow.value).where(
        MetricRow.run_id == run_id, MetricRow.part == "test", MetricRow.slice == "all"
    )
    with store.read() as session:
        return {name: round(value, 6) for name, value in session.execute(query.order_by(MetricRow.name))}


def _sources(run: RunRow, corpus: CorpusRow) -> str:
    sources = run.spec["sources"]
    everything = sorted(set(market_names(corpus)) - {run.target})
    return "" if not sources or sorted(sources) == everything else f", from {' '.join(sources)}"


def _one_latex(protocol: object, part: pd.DataFrame, metric: str) -> str:
    markets = sorted(part["market"].unique())
    best = part.groupby("market")["mean"].max()
    lines = [rf"\begin{{tabular}}{{l{'r' * len(markets)}}}", r"\toprule"]
    lines += [" & ".join(["", *map(latex, markets)]) + r" \\", r"\midrule"]
    for method, rows in part.groupby("method", sort=False):
        numbers = zip(rows["market"], rows["mean"], rows["std"], strict=True)
        cells = {market: _cell(mean, std, mean == best[market]) for market, mean, std in numbers}
        lines.append(" & ".join([latex(str(method)), *(cells.get(m, "--") for m in markets)]) + r" \\")
    seeds, users = part["seeds"].max(), int(part.groupby("market")["users"].max().sum())
    note = f"% {metric}, test, {protocol}, up to {seeds} seeds, {users} users in all markets together"
    return "\n".join([note, *lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(mean: float, std: float, best: bool) -> str:
    value = f"{mean:.4f}" if std != std else rf"{mean:.4f} $\pm$ {std:.4f}"  # one seed has no deviation (nan)
    return rf"\textbf{{{value}}}" if best else value
