"""Which runs compare: where every seed has a split of its own, those of the same seeds.

Not imported where runs are only executed: it brings pandas.
"""

from __future__ import annotations

import pandas as pd

MOST = 3  # rows that the words name


def same_splits(runs: pd.DataFrame, row: str = "label") -> pd.DataFrame:
    """Of the runs of one protocol those that compare: in each market the seeds that all its rows have.

    Where all runs are on one split (no `each_seed`), all of them. Otherwise a seed more is a split more, and a mean
    over other splits is no answer to the same question. `runs` has the columns of `naming.RUN`; `row` names the column
    that says which row of a table a run belongs to. A row that shares no seed with those that have more is left out:
    it compares with nothing.
    """
    if not (runs["each_seed"] == True).any():  # noqa: E712 - None where the protocol does not say it
        return runs
    kept: list[object] = []
    for _, mine in runs.groupby("target"):
        seeds = mine.groupby(row)["seed"].agg(set)
        order = sorted(seeds.index, key=lambda name: (-len(seeds[name]), str(name)))
        shared, rows = set(seeds[order[0]]), []
        for name in order:
            if shared & seeds[name]:
                shared &= seeds[name]
                rows.append(name)
        kept += list(mine.index[mine[row].isin(rows) & mine["seed"].isin(shared)])
    return runs.loc[runs.index.isin(kept)]


def left_out(before: pd.DataFrame, after: pd.DataFrame, row: str = "label") -> str:
    """What `same_splits` has left out, in words; empty where it has left out nothing."""
    many = len(before) - len(after)
    if not many:
        return ""
    cells = [set(zip(frame[row], frame["target"], strict=True)) for frame in (before, after)]
    alone = sorted(cells[0] - cells[1])
    verb = "is" if many == 1 else "are"
    said = "Every seed has a split of its own, so a market's rows rest on the seeds that all of them have: "
    said += f"{many} of {len(before)} runs {verb} left out."
    if alone:
        names = ", ".join(f"{name} in {target}" for name, target in alone[:MOST])
        more = f" and {len(alone) - MOST} more" if len(alone) > MOST else ""
        said += f" No seed in common with the others: {names}{more}."
    return said
