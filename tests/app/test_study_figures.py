"""A study's figures of hand-made results: differences, costs, halves, effects of sources, charts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from app import charts
from app.study import ablation, efficiency, richness, sensitivity, transfer
from app.study.ablation import Group
from cmr_core.published import load, load_costs

USERS = 80
NOTHING = pd.DataFrame()


def table(level: float, user_noise: int = 0) -> pd.DataFrame:
    noise = np.random.default_rng(user_noise).uniform(-0.05, 0.05, USERS)
    return pd.DataFrame({"user": range(USERS), "ndcg@10": level + noise})


# --- ablation -------------------------------------------------------------------------------------------------------

GROUP = Group("DCMPT", ("w/o prompt", "w/o wrd"), NOTHING, NOTHING)


def cells() -> pd.DataFrame:
    rows = [
        (label, target, gap, gap - 0.01, gap + 0.01, gap < -0.1, 0.5, 50, None if label == "DCMPT" else "DCMPT")
        for target in ("jp", "de")
        for label, gap in (("w/o wrd", -0.02), ("DCMPT", 0.0), ("w/o prompt", -0.2))
    ]
    columns = ["label", "target", "difference", "diff_low", "diff_high", "significant", "p_holm", "n", "reference"]
    return pd.DataFrame(rows, columns=columns)


def test_differences_come_in_the_studys_order_and_without_the_full_method() -> None:
    found = ablation.differences(cells(), GROUP)
    assert list(found["label"]) == ["w/o prompt"] * 2 + ["w/o wrd"] * 2
    assert list(found["target"]) == ["de", "jp"] * 2
    assert list(found["low"]) == pytest.approx([-0.21, -0.21, -0.03, -0.03])


def test_published_differences_are_the_papers_own() -> None:
    found = ablation.published(GROUP, "DCMPT paper, table 2", "ndcg@10", ["de", "jp"], load())
    values = found.set_index(["label", "target"])["value"]
    assert values["w/o prompt", "de"] == pytest.approx(0.252 - 0.390)
    assert values["w/o wrd", "jp"] == pytest.approx(0.468 - 0.566)
    for source, metric in (("", "ndcg@10"), ("DCMPT paper, table 2", "hit@10"), ("ACMR paper, table 3", "ndcg@10")):
        assert ablation.published(GROUP, source, metric, ["de"], load()).empty


def test_the_ablation_chart_pairs_bars_with_open_diamonds_of_their_colour() -> None:
    theirs = ablation.published(GROUP, "DCMPT paper, table 2", "ndcg@10", ["de", "jp"], load())
    figure = charts.ablation(ablation.differences(cells(), GROUP), theirs, "NDCG@10")
    bars = {trace.name: trace.marker.color for trace in figure.data if trace.type == "bar"}
    diamonds = {trace.name.removesuffix(" (paper)"): trace for trace in figure.data if trace.type == "scatter"}
    assert set(bars) == set(diamonds) == {"w/o prompt", "w/o wrd"}
    assert all(diamond.marker.color == bars[name] for name, diamond in diamonds.items())
    assert {diamond.marker.symbol for diamond in diamonds.values()} == {"diamond-open"}


# --- sensitivity ----------------------------------------------------------------------------------------------------


def test_numbers_ascend_and_words_keep_their_order() -> None:
    assert sensitivity.ordered((100.0, 5, 0.1)) == ["0.1", "5", "100"]
    assert sensitivity.ordered(("zero", "glorot")) == ["zero", "glorot"]
    assert sensitivity.ordered((True, False)) == ["True", "False"]


def test_small_multiples_mark_the_default_and_name_each_market_once() -> None:
    rows = pd.DataFrame(
        [(v, t, 0.2, 0.1, 0.3, 9) for t in ("de", "jp") for v in ("10", "5")],
        columns=["value", "target", "mean", "low", "high", "n"],
    )
    panels = [("a", ["5", "10", "20"], "10", rows), ("b", ["5", "10"], None, rows)]
    figure = charts.sensitivity(panels, charts.series_colors(["de", "jp"]), "NDCG@10")
    assert [list(trace.x) for trace in figure.data] == [["5", "10"]] * 4
    assert [trace.name for trace in figure.data if trace.showlegend] == ["de", "jp"]
    assert [(shape.x0, shape.xref) for shape in figure.layout.shapes] == [(1, "x")]


def test_crossed_settings_are_a_heat_map_per_market() -> None:
    matrix = pd.DataFrame([[0.1, np.nan], [0.3, 0.4]], index=["0", "10"], columns=["20", "100"])
    figure = charts.crossed({"de": matrix, "jp": matrix + 1}, "neighbours", "shrinkage")
    assert [trace.type for trace in figure.data] == ["heatmap"] * 2
    assert np.array_equal(figure.data[1].z, matrix + 1, equal_nan=True)
    assert [note.text for note in figure.layout.annotations] == ["de", "jp"]


# --- efficiency -----------------------------------------------------------------------------------------------------


def cost_runs() -> pd.DataFrame:
    facts = [("a", "DCMPT", "dcmpt", 0), ("b", "DCMPT", "dcmpt", 1), ("c", "EASE", "ease", 0)]
    return pd.DataFrame(
        [
            {
                "run_id": run, "label": label, "method": method, "target": "uk", "seed": seed, "value": 0.5,
                "point": {}, "seconds": 10.0, "environment": {"peak_memory_mib": "400"} if run == "a" else {},
                "parameters": {"trainable": 46, "frozen": 9, "closed_form": 4},
            }
            for run, label, method, seed in facts
        ]
    )  # fmt: skip


STAGES = pd.DataFrame(
    [
        ("a", "backbone", 6.0, False, 3), ("a", "adapt", 2.0, False, 4), ("b", "backbone", 1.0, True, 3),
        ("b", "adapt", 4.0, False, 4), ("c", "fit", 1.0, False, math.nan),
    ],
    columns=["run_id", "name", "seconds", "cached", "epochs"],
).assign(key=None)  # fmt: skip


def test_an_epoch_is_of_the_methods_own_stage_and_the_total_adds_what_others_built() -> None:
    found = efficiency.costs(cost_runs(), STAGES).set_index("label")
    assert found.at["DCMPT", "epoch"] == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert found.at["DCMPT", "total"] == pytest.approx((10 + (10 + 6 - 1)) / 2)
    assert found.at["EASE", "total"] == 10
    assert math.isnan(found.at["EASE", "epoch"])
    assert found.at["DCMPT", "parameters"] == 50
    assert found.at["DCMPT", "memory"] == 400
    assert math.isnan(found.at["EASE", "memory"])


def test_a_shared_stage_that_nobody_built_here_makes_the_total_unknown() -> None:
    foreign = STAGES.assign(cached=STAGES["name"] == "backbone")
    found = efficiency.costs(cost_runs(), foreign).set_index("label")
    assert math.isnan(found.at["DCMPT", "total"])
    assert found.at["EASE", "total"] == 10


def test_a_shared_stage_is_the_one_of_its_key_and_not_another_of_its_name() -> None:
    wide = pd.DataFrame(
        [("c", "backbone", 600.0, False, 3, "wide"), ("c", "adapt", 1.0, False, math.nan, None)],
        columns=[*STAGES.columns[:5], "key"],
    )
    narrow = STAGES[STAGES["run_id"] != "c"]
    narrow = narrow.assign(key=narrow["name"].map({"backbone": "narrow"}))
    found = efficiency.costs(cost_runs(), pd.concat([wide, narrow])).set_index("label")
    assert found.at["DCMPT", "total"] == pytest.approx((10 + (10 + 6 - 1)) / 2)


def test_of_runs_without_keys_a_shared_stage_is_one_of_its_name() -> None:
    waited = STAGES.assign(key=STAGES["name"].where(STAGES["run_id"] == "b"))  # by a run that was built later
    wide = pd.DataFrame([("c", "backbone", 600.0, False, 3, "wide")], columns=waited.columns)
    found = efficiency.costs(cost_runs(), pd.concat([waited, wide])).set_index("label")
    assert found.at["DCMPT", "total"] == pytest.approx((10 + (10 + 6 - 1)) / 2)
    foreign = pd.concat([waited[waited["run_id"] != "a"], wide])  # nobody here can have built what b waited for
    assert math.isnan(efficiency.costs(cost_runs(), foreign).set_index("label").at["DCMPT", "total"])


def test_the_papers_costs_stand_beside_and_its_other_methods_below() -> None:
    runs = cost_runs()
    names = {"DCMPT": ["DCMPT", "dcmpt"], "EASE": ["EASE", "ease"]}
    found = efficiency.beside(efficiency.costs(runs, STAGES), load_costs(), names).set_index("label")
    assert found.at["DCMPT", "paper_parameters"] == 46_000
    assert found.at["DCMPT", "paper_seconds"] == 9 * 60
    assert math.isnan(found.at["EASE", "paper_quality"])
    assert found.at["FOREC (paper only)", "paper_epoch"] == 21.0
    assert math.isnan(found.at["FOREC (paper only)", "quality"])
    assert efficiency.beside(efficiency.costs(runs, STAGES), [], names)["paper_quality"].isna().all()


# --- sparse and rich ------------------------------------------------------------------------------------------------


def test_the_sparser_half_stands_first() -> None:
    facts = {name: {"pairs": size, "density": 1 / size, "users": 1} for name, size in (("a", 9), ("b", 1), ("c", 5))}
    half = richness.halves(["a", "b", "c"], facts, "pairs")
    assert half == {"b": richness.SPARSE, "c": richness.SPARSE, "a": richness.RICH}
    assert list(richness.halves(["a", "b", "c"], facts, "density")) == ["a", "c", "b"]
    assert set(richness.halves(["ca", "de", "fr"], {}, "paper")) == {"ca", "fr"}


def test_halves_keep_the_methods_order_and_summarise_markets() -> None:
    rows = [(label, t, m, m, m, 5) for label in ("Z", "A") for t, m in (("rich", 0.4), ("poor", 0.1), ("mid", 0.3))]
    found = richness.frame(
        pd.DataFrame(rows, columns=["label", "target", "mean", "low", "high", "n"]),
        {"poor": richness.SPARSE, "mid": richness.SPARSE, "rich": richness.RICH},
    )
    assert list(found["label"]) == ["Z"] * 3 + ["A"] * 3
    assert list(found["target"][:3]) == ["poor", "mid", "rich"]
    sparse = richness.summary(found).set_index(["label", "half"]).loc[("A", richness.SPARSE)]
    assert (sparse["mean"], sparse["spread"], sparse["markets"]) == (pytest.approx(0.2), pytest.approx(0.2), 2)
    figure = charts.halves(found, (richness.SPARSE, richness.RICH), {"Z": "#111111", "A": "#222222"}, "NDCG@10")
    assert [trace.name for trace in figure.data if trace.showlegend] == ["Z", "A"]


# --- market transfer ------------------------------------------------------------------------------------------------

LEVELS = {"": 0.30, "ca": 0.35, "uk": 0.31, "in": 0.29, "ca in": 0.38, "ca uk": 0.42, "in uk": 0.30, "ca in uk": 0.40}
VALID = LEVELS | {"ca in": 0.39}


def effects(levels: dict[str, float] = LEVELS, valid: dict[str, float] = VALID) -> pd.DataFrame:
    runs = pd.DataFrame(
        [{"run_id": key, "finished_at": "now", "set": key, "valid": valid[key]} for key in levels], dtype=object
    )
    one = transfer.market("jp", ("ca", "in", "uk"), runs, "ndcg@10", lambda run, at: table(levels[run]))
    return transfer.assemble([one])


def test_effects_are_what_a_source_adds_and_what_it_gives_alone() -> None:
    found = effects().set_index(["kind", "source"])
    assert found.at[("adding", "ca"), "difference"] == pytest.approx(0.40 - 0.30)
    assert found.at[("adding", "in"), "difference"] == pytest.approx(0.40 - 0.42)
    assert found.at[("adding", "uk"), "valid"] == pytest.approx(0.40 - 0.39)
    assert found.at[("alone", "in"), "difference"] == pytest.approx(0.29 - 0.30)
    assert found.at[("alone", transfer.TOGETHER), "difference"] == pytest.approx(0.10)
    assert (found["low"] <= found["difference"] + 1e-12).all()
    assert (found["difference"] <= found["high"] + 1e-12).all()
    assert found["significant"].all()


def test_effects_whose_runs_are_missing_are_left_out() -> None:
    few = {key: LEVELS[key] for key in ("ca in uk", "ca in")}
    found = effects(few)
    assert list(zip(found["kind"], found["source"], strict=True)) == [("adding", "uk")]
    assert effects({"ca": 0.3}).empty


def test_the_matrix_is_blank_where_nothing_is_known() -> None:
    values, texts = transfer.matrix(effects(), "adding")
    assert list(values.index) == ["ca", "in", "uk"]
    assert texts.at["ca", "jp"] == "+.1000▲"
    assert texts.at["in", "jp"] == "-.0200▼"
    assert list(transfer.matrix(effects(), "alone")[0].index) == ["ca", "in", "uk", transfer.TOGETHER]
    figure = charts.effects(values, texts, "source", "target")
    assert figure.data[0].zmin == -figure.data[0].zmax
    assert charts.effects(values * 0, texts, "source", "target").data[0].zmax == 1


def test_validation_decides_and_the_test_reports() -> None:
    said = transfer.advice(effects(), "jp", "EASE")
    assert said == (
        "use ca (adds 0.1000, significant) and uk (adds 0.0200, significant); "
        "leave out in (takes 0.0200, significant). "
        "All sources together: +0.1000, significant, against EASE on the target alone."
    )
    contrary = effects(valid=VALID | {"in uk": 0.45})
    assert "leave out" in transfer.advice(contrary, "jp", "EASE")
    assert "ca (adds 0.1000, significant and against what validation said)" in transfer.advice(contrary, "jp", "EASE")


def test_where_all_sources_lose_on_validation_one_or_none_is_recommended() -> None:
    one = transfer.advice(effects(valid=VALID | {"ca in uk": 0.2}), "jp", "EASE")
    assert one.startswith("use ca alone (adds 0.0500, significant).")
    none = transfer.advice(effects(valid=dict.fromkeys(LEVELS, 0.2) | {"": 0.5}), "jp", "EASE")
    assert none.startswith("use no source: on validation none was better than the target alone.")


# --- many methods ---------------------------------------------------------------------------------------------------


def test_many_methods_get_a_line_each_and_the_best_is_on_top() -> None:
    rows = pd.DataFrame([(f"m{at}", s, 1 / (at + 1), 5) for at in range(45) for s in ("de", "jp")])
    rows.columns = pd.Index(["label", "series", "value", "n"])
    figure = charts.dots(rows, charts.series_colors(["de", "jp"]), "NDCG@10")
    assert [trace.name for trace in figure.data] == ["de", "jp"]
    assert list(figure.layout.yaxis.categoryarray)[-1] == "m0"
    assert figure.layout.height > 45 * 20


def test_long_names_are_cut_in_legends_and_whole_under_the_pointer() -> None:
    name = "DCMPT (" + ", ".join(f"setting{at}=1" for at in range(20)) + ", ablation=no-prompt)"
    frame = pd.DataFrame([(name, "20+", 0.5, 3)], columns=["label", "group", "value", "n"])
    (trace,) = charts.groups(frame, {name: "#123456"}, "NDCG@10").data
    assert len(trace.name) <= 45
    assert trace.name.startswith("DCMPT")
    assert trace.name.endswith("no-prompt)")
    assert name in trace.hovertemplate


def test_more_methods_than_a_legend_holds_stand_beside_the_chart() -> None:
    def legend(many: int) -> str:
        rows = [(f"m{at}", "20+", 0.5, 3) for at in range(many)]
        frame = pd.DataFrame(rows, columns=["label", "group", "value", "n"])
        colors = dict.fromkeys(frame["label"], "#123456")
        return str(charts.groups(frame, colors, "x").layout.legend.orientation)

    assert legend(charts.MANY) == "h"
    assert legend(charts.MANY + 1) == "v"
