"""A study's methods-by-markets table: one row per configuration, seeds inside it, one table per protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from cmr_core.errors import SpecError
from cmr_core.evaluation.latex import latex
from worker.store.corpora import get_corpus, market_names
from worker.store.studies import get_study, study_spec
from worker.store.tables import MetricRow, RunRow, StudyRunRow

if TYPE_CHECKING:
    import pandas as pd

    from worker.store.session import Store

COLUMNS = ["protocol", "method", "market", "mean", "std", "seeds", "users"]


class StudyTable(NamedTuple):
    cells: pd.DataFrame  # columns as in COLUMNS
    left_out: str  # which runs rest on splits that others lack, in words; empty where all count


def study_table(store: Store, study_id: str, metric: str) -> StudyTable:
    """Mean and standard deviation over seeds of a test metric, for each protocol, method and market.

    Only succeeded runs count, so `seeds` says how many there were. Methods have the names that the study gives them,
    told apart as on the pages: one that learned from some of the source markets only is a row of its own, which names
    them. Where every seed has a split of its own, the rows of a market rest on the seeds that they share.
    """
    import pandas as pd

    from worker.store import naming
    from worker.store.comparable import left_out, same_splits

    query = (
        select(*naming.RUN, MetricRow.value, MetricRow.n)
        .join(MetricRow, MetricRow.run_id == RunRow.id)
        .join(StudyRunRow, StudyRunRow.run_id == RunRow.id)
        .where(StudyRunRow.study_id == study_id, RunRow.state == "succeeded")
        .where(MetricRow.part == "test", MetricRow.slice == "all", MetricRow.name == metric)
        .order_by(RunRow.label, RunRow.target, RunRow.seed)
    )
    with store.read() as session:
        runs = pd.DataFrame(session.execute(query).all(), columns=[column.key for column in query.selected_columns])
    if runs.empty:
        return StudyTable(pd.DataFrame(columns=COLUMNS), "")
    named = _named(store, study_id, runs)
    markets = market_names(get_corpus(store, str(runs["corpus"].iloc[0])))
    texts = naming.protocol_names(dict(zip(runs["protocol"], runs["text"], strict=True)))
    parts = [naming.label_rows(mine, markets) for _, mine in named.groupby("protocol")]
    kept = [same_splits(mine) for mine in parts]
    said = [left_out(mine, same) for mine, same in zip(parts, kept, strict=True)]
    rows = pd.concat(kept).assign(text=lambda frame: frame["protocol"].map(texts))
    groups = rows.groupby(["text", "label", "target"])
    table = groups.agg(mean=("value", "mean"), std=("value", "std"), seeds=("value", "size"), users=("n", "max"))
    cells = table.rename_axis(["protocol", "method", "market"]).reset_index()[COLUMNS]
    return StudyTable(cells, " ".join(filter(None, said)))


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


def _named(store: Store, study_id: str, runs: pd.DataFrame) -> pd.DataFrame:
    from cmr_core.models.registry import load
    from worker.store.naming import named

    try:
        spec = study_spec(get_study(store, study_id))
    except SpecError:  # of another version: its runs keep their own names
        return runs
    return named(spec, runs, load())


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
