"""The written tables: the same figures as the store's, and nothing that a person wrote is lost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from app import report
from cmr_core.errors import NotFoundError
from worker.store.session import Store
from worker.store.studies import list_studies


def test_the_tables_hold_the_stores_means_and_keep_what_stands_before_them(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"# Mine\n\nWords.\n\n{report.MARK}\n\nold tables\n", encoding="utf-8")
    study = list_studies(store)[-1]
    report.write(store, study.name, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\nWords.\n\n" + report.MARK)
    assert "old tables" not in text
    rows = pd.read_csv(tmp_path / "results.csv", comment="#")
    for protocol, runs in report.study_results(store, study.name, "ndcg@10").items():
        expected = runs.groupby(["label", "target"])["value"].mean()
        mine = rows[(rows["protocol"] == protocol) & (rows["metric"] == "ndcg@10")].set_index(["label", "target"])
        assert set(mine.index) == set(expected.index)
        assert mine["mean"].to_numpy() == pytest.approx(expected.reindex(mine.index).to_numpy(), abs=1e-9)
        assert f"### {protocol}: NDCG@10" in text


def test_an_unknown_study_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        report.study_results(store, "nobody", "ndcg@10")


def test_a_table_in_markdown() -> None:
    frame = pd.DataFrame({"uk": ["**0.2**"], "jp": ["0.1"]}, index=["EASE"])
    assert report.markdown(frame) == "|  | uk | jp |\n| --- | ---: | ---: |\n| EASE | **0.2** | 0.1 |"
