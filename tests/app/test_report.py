"""The written tables: the same figures as the store's, and nothing that a person wrote is lost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from app import report, report_page
from cmr_core.errors import NotFoundError, SpecError
from cmr_core.evaluation.compare import holm
from cmr_core.spec import MethodChoice
from tests.app import seed
from worker.settings import Settings
from worker.store.session import Store, open_store
from worker.store.studies import launch_study, list_studies


def test_the_tables_hold_the_stores_means_and_keep_what_stands_before_them(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"# Mine\n\nWords.\n\n{report.MARK}\n\nold tables\n", encoding="utf-8")
    study = list_studies(store)[-1]
    report.write(store, [study.name], tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\nWords.\n\n" + report.MARK)
    assert "old tables" not in text
    rows = pd.read_csv(tmp_path / "results.csv", comment="#")
    for protocol, runs in report.study_results(store, [study.name], "ndcg@10").items():
        expected = runs.groupby(["label", "target"])["value"].mean()
        mine = rows[(rows["protocol"] == protocol) & (rows["metric"] == "ndcg@10")].set_index(["label", "target"])
        assert set(mine.index) == set(expected.index)
        assert mine["mean"].to_numpy() == pytest.approx(expected.reindex(mine.index).to_numpy(), abs=1e-9)
        assert f"### {protocol}: NDCG@10" in text


def test_a_second_sitting_adds_to_the_first_and_replaces_what_it_has_again(store: Store, tmp_path: Path) -> None:
    study = list_studies(store)[-1].name
    report.write(store, [study], tmp_path)
    once, page = pd.read_csv(tmp_path / "results.csv"), (tmp_path / "results.md").read_text(encoding="utf-8")
    report.write(store, [study], tmp_path, add=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), once)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == page
    (tmp_path / "results.md").unlink()
    report.main(["--out", str(tmp_path)])
    assert page.endswith((tmp_path / "results.md").read_text(encoding="utf-8"))
    other = once.assign(label="Earlier " + once["label"], mean=0.001, reference="Somebody else", date="2020-01-31")
    pd.concat([once.assign(mean=0.5), other]).to_csv(tmp_path / "results.csv", index=False)
    report.write(store, [study], tmp_path, add=True)
    lines = pd.read_csv(tmp_path / "results.csv")
    assert len(lines) == len(once) + len(other)
    assert lines["mean"].iloc[: len(once)].to_numpy() == pytest.approx(once["mean"].to_numpy())
    kept = lines[lines["label"].str.startswith("Earlier ")]
    assert kept["reference"].isna().all()  # it was tested against another reference
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| Earlier " in text
    assert f"Of an earlier sitting: {kept['label'].iloc[0]} (2020-01-31)" in text


def test_each_line_has_the_value_of_each_seed(store: Store) -> None:
    lines = report.rows(store, [list_studies(store)[-1].name])
    for line in lines.itertuples():
        pairs = dict(pair.split(":") for pair in str(line.by_seed).split())
        values = [float(value) for value in pairs.values()]
        assert len(values) == line.seeds
        assert list(pairs) == [str(seed) for seed in range(line.seeds)]
        assert sum(values) / len(values) == pytest.approx(line.mean, abs=1e-6)


def test_methods_below_popularity_are_named_in_the_two_largest_markets() -> None:
    lines = pd.DataFrame(
        [("Popularity", "popularity", "ca", 0.3, 90), ("EASE", "ease", "ca", 0.2, 90), ("ACMR", "acmr", "ca", 0.4, 90),
         ("Popularity", "popularity", "uk", 0.1, 80), ("EASE", "ease", "uk", 0.2, 80), ("EASE", "ease", "jp", 0.0, 9)],
        columns=["label", "method", "target", "mean", "users"],
    )  # fmt: skip
    text = report_page.below_popularity(lines)
    assert text.endswith("ca (0.3000): EASE (0.2000). uk (0.1000): none.")


def test_what_is_significantly_better_is_named_with_its_markets() -> None:
    lines = pd.DataFrame(
        [("EASE", "ca", 0.3, None, None, False), ("EASE", "uk", 0.3, None, None, False),
         ("Worse", "ca", 0.1, -0.2, 0.01, True), ("Worse", "uk", 0.1, -0.2, 0.01, True),
         ("Good", "uk", 0.5, 0.2, 0.01, True), ("Good", "ca", 0.4, 0.1, 0.03, True),
         ("Best", "uk", 0.9, 0.6, 0.01, True), ("Best", "ca", 0.3, 0.0, 1.0, False)],
        columns=["label", "target", "mean", "difference", "p_holm", "significant"],
    )  # fmt: skip
    found = "Best (uk; mean 0.6000); Good (ca uk; mean 0.4500)."
    assert report_page.stand_out(lines) == f"Significantly better than the market's reference, of 6 tests: {found}"
    assert report_page.stand_out(lines[lines["label"] == "Worse"]).endswith("of 2 tests: no row on any market.")
    assert report_page.stand_out(lines[lines["label"] == "EASE"]) == ""
    half = lines.drop(lines.index[[5]])  # Good has no ca any more, and so no mean
    assert report_page.stand_out(half).endswith("Best (uk; mean 0.6000); Good (uk).")


def test_rows_with_few_seeds_are_named_and_those_that_draw_nothing_need_none() -> None:
    lines = pd.DataFrame(
        [("EASE", "ease", "ca", 1), ("ACMR", "acmr", "ca", 3), ("ACMR", "acmr", "uk", 1), ("BPR", "lightgcn", "ca", 3)],
        columns=["label", "method", "target", "seeds"],
    )
    said = report_page.seeds_here(lines)
    assert said == "3 seeds or more on every market: 1 of the 2 rows that draw at random. Fewer somewhere: ACMR (1)."
    assert report_page.seeds_here(lines[lines["label"] == "BPR"]).endswith("1 of the 1 row that draws at random.")


def test_noise_is_what_two_seeds_differ_by() -> None:
    lines = pd.DataFrame(
        [("ca", "0:0.10 1:0.20"), ("ca", "0:0.50 2:0.50"), ("uk", "0:0.3"), ("jp", "0.1 0.9")],
        columns=["target", "by_seed"],
    )
    # differences 0.1 and 0: 95 % of the way from one to the other
    assert report_page.noise(lines, "one").endswith("less than: ca 0.0950.")
    assert "its own split" in report_page.noise(lines, "one · a split per seed")
    assert report_page.noise(lines[lines["target"] != "ca"], "one") == ""


def test_the_order_of_the_papers_methods_is_held_against_ours() -> None:
    means = {
        "MAML": ("maml", 0.1, 0.3),
        "FOREC": ("forec", 0.3, 0.3),
        "DCMPT": ("dcmpt", 0.5, 0.1),
        "DCMPT, mine": ("dcmpt", 0.9, 0.9),
        "Popularity": ("popularity", 0.8, 0.8),
        "NATR": ("natr", 0.9),
    }
    lines = pd.DataFrame(
        [
            (label, method, t, v)
            for label, (method, *vs) in means.items()
            for t, v in zip(("ca", "uk"), vs, strict=False)
        ],
        columns=["label", "method", "target", "mean"],
    )
    theirs = pd.DataFrame(
        {"ca": [0.2, 0.4, 0.6, 0.9], "uk": [0.2, 0.4, 0.6, 0.9]}, index=["MAML", "FOREC", "DCMPT", "NATR"]
    )
    # means .2, .3, .3 and .2, .4, .6: ranks 1, 2.5, 2.5 and 1, 2, 3; of NATR we have one market only
    assert f"3 systems' means with the paper's: {1.5 / (1.5 * 2) ** 0.5:.2f}." in report_page.paper_order(lines, theirs)
    assert report_page.paper_order(lines, theirs).endswith("(NATR 0.9000): 0 of our 5 rows.")
    assert report_page.paper_order(lines, theirs.iloc[1:]) == ""


def test_protocols_agree_as_far_as_they_order_complete_methods_alike() -> None:
    def of(protocol: str, **means: tuple[float, ...]) -> list[tuple[object, ...]]:
        return [
            (protocol, name, t, v) for name, values in means.items() for t, v in zip(("uk", "jp"), values, strict=False)
        ]

    first = of("first", a=(0.1, 0.3), b=(0.3, 0.3), c=(0.5, 0.1), d=(0.9, 0.9), e=(1.0,))  # means .2 .3 .3 .9
    second = of("second", a=(0.4, 0.4), b=(0.2, 0.4), c=(0.5, 0.5), d=(0.1, 0.1), e=(0.0, 0.0))  # .4 .3 .5 .1
    few = of("few", a=(0.1, 0.1), b=(0.2, 0.2))
    columns = ["protocol", "label", "target", "mean"]
    lines = pd.DataFrame([*first, *second, *few], columns=columns)
    found = report_page.agreement(lines)
    assert list(found.index) == ["second — first"]  # the larger table, then the smaller
    level = lines[lines["label"] != "e"]  # as large as each other: by name, whichever was added last
    assert list(report_page.agreement(level).index) == ["first — second"]
    assert list(report_page.agreement(level[::-1]).index) == ["first — second"]
    # ranks 1, 2.5, 2.5, 4 and 3, 2, 4, 1: covariance -3, spreads 4.5 and 5
    assert list(found.iloc[0]) == [f"{-3 / (4.5 * 5) ** 0.5:.2f}", "4"]


def test_a_cost_that_nobody_noted_is_a_dash() -> None:
    lines = pd.DataFrame({"label": ["A", "B"], "target": "uk", "processor_seconds": [2.0, None], "updated": [9, None]})
    shown = report_page.durations(lines)
    assert list(shown.loc["A"]) == ["2.0", "2", "9"]
    assert list(shown.loc["B"]) == ["—", "—", "—"]


def test_an_unknown_study_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        report.study_results(store, ["nobody"], "ndcg@10")


def test_the_command_says_what_is_wrong_without_a_traceback(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no study 'nobody'"):
        report.main(["nobody", "--out", str(tmp_path)])


def test_a_store_without_tables_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = open_store(Settings(home=tmp_path))
    monkeypatch.setattr(report, "open_store", lambda: empty)
    with pytest.raises(SystemExit, match=r"cannot be read: no such table.*\nWhat to do: set CMR_HOME"):
        report.main(["nobody", "--out", str(tmp_path)])
    empty.close()


def test_a_table_in_markdown() -> None:
    frame = pd.DataFrame({"uk": ["**0.2**"], "jp": ["0.1"]}, index=["EASE"])
    assert report_page.markdown(frame) == "|  | uk | jp |\n| --- | ---: | ---: |\n| EASE | **0.2** | 0.1 |"


def test_of_several_studies_the_first_that_has_a_run_counts(store: Store, tmp_path: Path) -> None:
    runs = pd.DataFrame(
        [
            ("A", "jp", 2, 2, "new"), ("A", "jp", 0, 1, "new"), ("A", "jp", 0, 2, "old"), ("A", "jp", 0, 3, "new"),
            ("A", "jp", 1, 2, "old"), ("A", "uk", 0, 2, "old"), ("A", "uk", 1, 3, "old"),
        ],
        columns=["label", "target", "seed", "place", "configuration"],
    )  # fmt: skip
    chosen = report.of_several(runs)
    # jp: the first study's seed and a further one of the same configuration; uk: the first that has it at all
    assert chosen.index.tolist() == [0, 1, 5, 6]
    name = list_studies(store)[-1].name
    once, twice = (report.rows(store, names) for names in ([name], [name, name]))
    pd.testing.assert_frame_equal(once, twice)


def test_studies_with_a_seed_each_are_one_row_under_the_first_ones_name(own: Store) -> None:
    for seeds, name in (((0,), "Mine"), ((1, 2), None)):
        methods = (MethodChoice(method="lightgcn", label=name, settings=seed.QUICK | {"teacher_epochs": 2}),)
        spec = seed.study(name=f"part-{seeds[0]}", methods=methods, seeds=seeds, targets=("jp",))
        for run_id in launch_study(own, seed.ANALYST, spec).created:
            seed.execute(own, run_id)
    lines = report.rows(own, ["part-0", "part-1"])
    assert set(lines["label"]) == {"Mine"}
    assert set(lines["seeds"]) == {3}


def test_rows_have_the_names_of_the_study_and_not_of_who_launched_its_runs_first(own: Store) -> None:
    methods = (MethodChoice(method="ease", label="My EASE", settings={"tune": False}),)
    launched = launch_study(own, seed.ANALYST, seed.study(name="mine", methods=methods))
    assert not launched.created
    assert set(report.rows(own, ["mine"])["label"]) == {"My EASE"}


def test_protocols_that_read_alike_are_tables_of_their_own(own: Store) -> None:
    alike = [{"split": {"kind": "ratio"}, "evaluation": {"select": name}} for name in ("ndcg@10", "recall@10")]
    spec = seed.study(name="alike", methods=(MethodChoice(method="popularity"),), protocols=alike, seeds=(0,))
    for run_id in launch_study(own, seed.ANALYST, spec).created:
        seed.execute(own, run_id)
    found = report.study_results(own, ["alike"], "ndcg@10")
    assert len(found) == 2
    assert all(len(runs) == 2 and text.startswith("ratio 80/10/10 · catalogue (") for text, runs in found.items())


def test_what_a_table_says_together_follows_from_all_its_lines(store: Store, tmp_path: Path) -> None:
    study = list_studies(store)[-1].name
    new = report.rows(store, [study])
    first = new.groupby(["protocol", "metric"]).head(1)
    better = first.assign(label="Better", method="dcmpt", mean=1.0, place=1.0, p_wilcoxon=0.01, p_holm=0.01)
    better["reference"] = new.groupby(["protocol", "metric", "target"])["reference"].transform("first")
    both = report.added(new, better)
    for _, table in both.groupby(["protocol", "metric"]):
        expected = holm(table["p_wilcoxon"].to_numpy())
        assert table["p_holm"].to_numpy() == pytest.approx(expected, nan_ok=True)
        assert table["significant"].tolist() == (expected < 0.05).tolist()
        for _, market in table.groupby("target"):
            assert market["place"].tolist() == market["mean"].rank(ascending=False, method="min").tolist()
    assert both.loc[both["label"] == "Better", "p_holm"].gt(0.01).all()
    # and so does a file on its own, in which nothing else changes; seeds of old lines are not known
    old = both.assign(by_seed="0.1250", p_holm=0.5, place=9.0)
    old.to_csv(tmp_path / "results.csv", index=False)
    report.main(["--out", str(tmp_path)])
    pd.testing.assert_frame_equal(report.read(tmp_path / "results.csv"), both.assign(by_seed="0.1250"))


def test_what_ran_on_a_gpu_is_named(store: Store, tmp_path: Path) -> None:
    lines = report.rows(store, [list_studies(store)[-1].name])
    assert set(lines["devices"]) == {"cpu"}
    assert "On a GPU" not in "".join(report_page.sections(lines))
    first = lines["label"].iloc[0]
    text = "".join(
        report_page.sections(lines.assign(devices=lines["devices"].where(lines["label"] != first, "cpu gpu")))
    )
    assert f"On a GPU: {first} (" in text


def test_pooled_lines_have_the_seeds_of_both_sittings(store: Store) -> None:
    lines = report.rows(store, [list_studies(store)[-1].name])
    line = lines[lines["seeds"] == 1].head(1)
    now = line.assign(mean=0.6, ci95_low=0.5, ci95_high=0.8, by_seed="1:0.600000", seconds=4.0, processor_seconds=4.0)
    then = line.assign(
        mean=0.3, ci95_low=0.24, ci95_high=0.45, seeds=2, by_seed="0:0.200000 2:0.400000", devices="gpu",
        seconds=1.0, processor_seconds=1.0,
    )  # fmt: skip
    found = report.pooled(now, then).iloc[0]
    assert found["by_seed"] == "0:0.200000 1:0.600000 2:0.400000"
    assert (found["seeds"], found["pooled"], found["devices"]) == (3, 2, "cpu gpu")
    assert found["mean"] == pytest.approx(0.4)  # (.2 + .6 + .4) / 3
    # deviations to the left .1 (one seed) and .06 (two), to the right .2 and .15
    assert found["ci95_low"] == pytest.approx(0.4 - (0.1 + 2 * 0.06) / 3)
    assert found["ci95_high"] == pytest.approx(0.4 + (0.2 + 2 * 0.15) / 3)
    assert found["processor_seconds"] == pytest.approx(2.0)
    assert found[["reference", "p_wilcoxon", "difference"]].isna().all()


def test_pooling_leaves_alone_what_has_its_seeds(store: Store, tmp_path: Path) -> None:
    lines = report.rows(store, [list_studies(store)[-1].name])
    pd.testing.assert_frame_equal(report.pooled(lines, lines.assign(mean=9.0)), lines)
    pd.testing.assert_frame_equal(report.pooled(lines, lines.assign(label="Another")), lines)
    more = lines.assign(by_seed=lines["by_seed"] + " 9:0.500000", mean=9.0)  # has the same values and one more
    pd.testing.assert_frame_equal(report.pooled(lines, more), more)
    with pytest.raises(SpecError, match="does not say which seeds"):
        report.pooled(lines, lines.assign(by_seed="0.1 0.2"))


def test_the_page_says_which_rows_are_pooled(store: Store, tmp_path: Path) -> None:
    study = list_studies(store)[-1].name
    report.write(store, [study], tmp_path)
    assert "Seeds of several sittings" not in (tmp_path / "results.md").read_text(encoding="utf-8")
    lines = report.read(tmp_path / "results.csv")
    first = lines["label"].iloc[0]
    mine = lines["label"] == first
    lines.loc[mine, "by_seed"] = "9:0.500000"
    lines.drop(columns="pooled").to_csv(tmp_path / "results.csv", index=False)  # as earlier versions wrote it
    report.write(store, [study], tmp_path, pool=True)
    assert f"without a test: {first} (1 seed of an earlier one)" in (tmp_path / "results.md").read_text(
        encoding="utf-8"
    )


def test_the_tables_never_mix_splits(own: Store) -> None:
    drawn = [{"split": {"kind": "leave-one-out", "order": "random", "each_seed": True},
              "evaluation": {"candidates": "sampled-global", "negatives": 5}}]  # fmt: skip
    for name, seeds in (("popularity", (0, 1)), ("ease", (1, 2))):
        choice = MethodChoice(method=name, settings={"tune": False} if name == "ease" else {})
        spec = seed.study(name=f"mixed-{name}", methods=(choice,), protocols=drawn, seeds=seeds, targets=("jp",))
        for run_id in launch_study(own, seed.ANALYST, spec).created:
            seed.execute(own, run_id)
    lines = report.rows(own, ["mixed-popularity", "mixed-ease"])
    assert len(lines) == 4
    assert all(line.startswith("1:") and " " not in line for line in lines["by_seed"])
