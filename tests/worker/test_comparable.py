"""Runs of different splits are never averaged in one table; worked by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from cmr_core.spec import JobSpec, SplitSpec
from tests.worker.test_cli_table import Study
from worker.commands.table import study_table
from worker.store.audit import LOCAL
from worker.store.comparable import left_out, same_splits
from worker.store.runs import find_or_create
from worker.store.session import Store
from worker.store.tables import MetricRow, StudyRunRow

DRAWN = SplitSpec(kind="leave-one-out", order="random", each_seed=True)


def runs(each_seed: bool | None, **seeds: tuple[int, ...]) -> pd.DataFrame:
    """Runs by label and market (`ease_jp`), on every seed one."""
    rows = [(*name.split("_"), seed, each_seed) for name, mine in seeds.items() for seed in mine]
    return pd.DataFrame(rows, columns=["label", "target", "seed", "each_seed"])


def cells(frame: pd.DataFrame) -> dict[str, list[int]]:
    groups = frame.groupby(["label", "target"])["seed"]
    return {f"{label}_{target}": sorted(seeds) for (label, target), seeds in groups}


@pytest.mark.parametrize("each_seed", [None, False])
def test_on_one_split_all_seeds_count(each_seed: bool | None) -> None:
    frame = runs(each_seed, ease_jp=(0,), acmr_jp=(0, 1, 2), knn_jp=(7,))
    assert same_splits(frame) is frame
    assert left_out(frame, frame) == ""


def test_with_a_split_per_seed_a_market_rests_on_the_seeds_that_its_rows_share() -> None:
    frame = runs(True, ease_jp=(0, 1, 2, 3), acmr_jp=(0, 2), mf_jp=(0, 1, 2), ease_uk=(1, 2), acmr_uk=(1, 2))
    kept = same_splits(frame)
    assert cells(kept) == {"ease_jp": [0, 2], "acmr_jp": [0, 2], "mf_jp": [0, 2], "ease_uk": [1, 2], "acmr_uk": [1, 2]}
    assert "3 of 13 runs are left out" in left_out(frame, kept)
    assert "common" not in left_out(frame, kept)


def test_a_row_that_shares_no_seed_is_left_out_and_named_and_takes_nothing_from_the_others() -> None:
    frame = runs(True, ease_jp=(0, 1, 2), acmr_jp=(0, 1), mf_jp=(7,))
    kept = same_splits(frame)
    assert cells(kept) == {"ease_jp": [0, 1], "acmr_jp": [0, 1]}
    assert left_out(frame, kept).endswith("No seed in common with the others: mf in jp.")


def test_rows_of_a_table_may_be_called_otherwise() -> None:
    frame = runs(True, a_jp=(0, 1), b_jp=(1,)).rename(columns={"label": "set"})
    assert same_splits(frame, "set")["seed"].tolist() == [1, 1]


def test_no_runs_are_no_runs() -> None:
    frame = runs(True)
    assert same_splits(frame) is frame


def test_the_exported_table_is_about_shared_splits(store: Store, digest: str) -> None:
    study = Study(store, digest)
    for method, values in {"ease": (0.1, 0.5, 0.9), "popularity": (0.2, 0.4)}.items():
        for seed, value in enumerate(values):
            job = JobSpec(corpus=digest, target="de", method=method, seed=seed, split=DRAWN)
            with store.begin() as session:
                row, _ = find_or_create(session, store, LOCAL, job, method)
                row.state = "succeeded"
                session.add(StudyRunRow(study_id="s", run_id=row.id))
                session.add(MetricRow(run_id=row.id, part="test", slice="all", name="ndcg@10", value=value, n=6))
    cells, said = study_table(study.store, "s", "ndcg@10")
    assert "1 of 5 runs is left out" in said
    table = cells.set_index("method")
    assert dict(table["mean"]) == pytest.approx({"ease": 0.3, "popularity": 0.3})
    assert set(table["seeds"]) == {2}
