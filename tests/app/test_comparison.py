"""Tables and charts of hand-made results."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pandas as pd
import pytest

from app import charts, comparison, describing, words
from app.comparison import STRONGEST, Comparison, compare, strongest
from cmr_core.data.describe import describe
from cmr_core.data.synthetic import synthetic
from cmr_core.models.registry import load
from cmr_core.published import load as load_published
from cmr_core.published import load_costs
from worker.store.naming import label_rows

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
FAMILIES = {"pop": "reference", "cross": "cross-market", "weak": "single-market"}
USERS = 60
METHODS = {"pop": 0.5, "cross": 0.8, "weak": 0.2}


def results(**changes: object) -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{method}-{target}-{seed}",
            "configuration": method * 4,
            "label": method.upper(),
            "method": method,
            "target": target,
            "seed": seed,
            "value": level,
            "n": USERS,
            "seconds": 10.0 * (1 + seed),
            "finished_at": NOW,
            "parameters": {"trainable": 5, "frozen": 100, "closed_form": 2} if method == "cross" else None,
            "sources": [name for name in ("de", "jp", "uk") if name != target] if method == "cross" else [],
        }
        for method, level in METHODS.items()
        for target in ("de", "jp")
        for seed in ((0, 1) if method == "cross" else (0,))
    ]
    return label_rows(pd.DataFrame(rows).assign(**changes), ["de", "jp", "uk"])


def per_user(run_id: str, finished: str) -> pd.DataFrame:
    method = run_id.split("-")[0]
    noise = np.random.default_rng(len(run_id)).uniform(-0.1, 0.1, USERS)
    return pd.DataFrame({"user": range(USERS), "ndcg@10": METHODS[method] + noise + int(run_id[-1]) * 0.01})


@pytest.fixture(scope="module")
def table() -> Comparison:
    return compare(results(), "ndcg@10", per_user, FAMILIES)


def test_cells_are_means_over_users_and_seeds(table: Comparison) -> None:
    cell = table.cells[(table.cells["label"] == "CROSS") & (table.cells["target"] == "de")].iloc[0]
    expected = np.mean([per_user(f"cross-de-{seed}", "")["ndcg@10"].mean() for seed in (0, 1)])
    assert cell["mean"] == pytest.approx(expected)
    assert cell["low"] < cell["mean"] < cell["high"]
    assert (cell["n"], cell["seeds"]) == (USERS, 2)


def test_reference_is_the_strongest_that_uses_no_other_market(table: Comparison) -> None:
    others = table.cells[table.cells["label"] != "POP"]
    assert set(others["reference"]) == {"POP"}
    assert table.cells.loc[table.cells["label"] == "POP", "reference"].isna().all()


def test_grid_marks_best_second_better_and_worse(table: Comparison) -> None:
    text, style = comparison.grid(table)
    assert list(text.index) == ["CROSS", "POP", "WEAK"]
    assert text.loc["CROSS", "de"].endswith(" ▲")
    assert text.loc["WEAK", "de"].endswith(" ▼")
    assert text.loc["POP", "de"].endswith(" (ref)")
    assert list(style["de"]) == ["best", "second", ""]
    assert set(style["mean"]) == {""}


def test_what_stays_below_popularity_is_faint() -> None:
    cells = compare(results(), "ndcg@10", per_user, FAMILIES).cells
    named = cells.assign(method=cells["method"].replace("pop", comparison.POPULARITY))
    assert list(comparison.grid(Comparison("ndcg@10", named))[1]["de"]) == ["best", "second", "below"]
    top = named[named["label"] != "CROSS"].assign(place=lambda rows: rows["place"] - 1)
    assert list(comparison.grid(Comparison("ndcg@10", top))[1]["de"]) == ["best", "second below"]
    above = named.assign(mean=named["mean"].where(named["label"] != "POP", 0.1))
    assert list(comparison.grid(Comparison("ndcg@10", above))[1]["de"]) == ["best", "second", ""]


def test_rows_of_different_numbers_of_seeds_say_so() -> None:
    runs = results()
    alike = compare(runs[runs["seed"] == 0], "ndcg@10", per_user, FAMILIES)
    assert "seeds" not in comparison.grid(alike)[0]
    fewer = runs[(runs["method"] != "cross") | (runs["seed"] == 0) | (runs["target"] == "de")]
    text, _ = comparison.grid(compare(fewer, "ndcg@10", per_user, FAMILIES))
    assert text["seeds"].to_dict() == {"CROSS": "1–2", "POP": "1", "WEAK": "1"}


def test_a_method_that_lacks_a_market_stands_below_those_that_have_all() -> None:
    runs = results()
    part = runs[(runs["method"] != "cross") | (runs["target"] == "de")]
    assert list(compare(part, "ndcg@10", per_user, FAMILIES).labels) == ["POP", "WEAK", "CROSS"]
    assert list(comparison.means(part)["label"].drop_duplicates()) == ["POP", "WEAK", "CROSS"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_references_that_are_alike_it_is_always_the_same(order: tuple[str, str]) -> None:
    means = dict(zip(order, (0.1 + 0.2, 0.3), strict=True))  # 0.30000000000000004 and 0.3
    cells = pd.DataFrame({"label": list(means), "method": "pop", "mean": list(means.values())})
    other = pd.DataFrame({"label": ["CROSS", "weak"], "method": ["cross", "weak"], "mean": [0.9, 0.2]})
    assert strongest(pd.concat([cells, other]), FAMILIES) == "a"
    assert strongest(other.head(1), FAMILIES) is None


def test_chosen_reference() -> None:
    cells = compare(results(), "ndcg@10", per_user, FAMILIES, "CROSS").cells
    assert set(cells.loc[cells["label"] != "CROSS", "reference"]) == {"CROSS"}
    assert (cells.loc[cells["label"] == "POP", "losses"] == USERS).all()


def test_no_single_market_method_means_no_test() -> None:
    only = results()
    cells = compare(only[only["method"] == "cross"], "ndcg@10", per_user, FAMILIES, STRONGEST).cells
    assert cells["p_holm"].isna().all()
    assert not cells["significant"].any()
    assert list(comparison.grid(Comparison("ndcg@10", cells))[1]["de"]) == ["best"]


def test_missing_market_is_a_dash_and_no_mean() -> None:
    part = results()
    part = part[(part["method"] != "weak") | (part["target"] == "de")]
    text, _ = comparison.grid(compare(part, "ndcg@10", per_user, FAMILIES))
    assert text.loc["WEAK", "jp"] == "—"
    assert text.loc["WEAK", "mean"] == "—"


def test_other_sources_are_another_row() -> None:
    frame = results()
    few = frame[frame["method"] == "cross"].assign(sources=[["uk"]] * 4, label="CROSS")
    both = label_rows(pd.concat([frame, few], ignore_index=True), ["de", "jp", "uk"])
    assert {"CROSS", "CROSS, from uk"} <= set(both["label"])


def test_equal_labels_of_two_configurations_are_told_apart() -> None:
    frame = results(label="same")
    assert set(frame["label"]) == {f"same #{(method * 4)[:4]}" for method in METHODS}


def test_configurations_that_differ_in_a_setting_or_two_are_named_by_these() -> None:
    frame = results(label="same").assign(label="same")
    rates = {"pop": {"rate": 0.1, "epochs": 5, "on": True}, "cross": {"rate": 0.2, "epochs": 5}, "weak": {"rate": 0.3}}
    named = label_rows(frame.assign(settings=frame["method"].map(rates)), ["de", "jp", "uk"])
    assert set(named["label"]) == {"same (rate=0.1)", "same (rate=0.2)", "same (rate=0.3)"}
    much = {"pop": {"a": 1, "b": 1, "c": 1}, "cross": {"a": 2, "b": 2, "c": 2}, "weak": {"a": 3, "b": 3, "c": 3}}
    alike = {"pop": {"a": 1}, "cross": {"a": 1}, "weak": {"a": 2}}
    for settings in (much, alike):
        named = label_rows(frame.assign(settings=frame["method"].map(settings)), ["de", "jp", "uk"])
        assert set(named["label"]) == {f"same #{(method * 4)[:4]}" for method in METHODS}


def test_seeds_of_one_configuration_are_one_row_whatever_their_launches_called_it() -> None:
    frame = results()
    cross = frame["method"] == "cross"
    later = cross & (frame["seed"] == 1)
    frame = frame.assign(label=frame["label"].where(~later, "Another name"))
    frame = frame.assign(finished_at=frame["finished_at"].where(~later, NOW + dt.timedelta(days=1)))
    named = label_rows(frame.iloc[::-1], ["de", "jp", "uk"])
    assert set(named["label"]) == {"CROSS", "POP", "WEAK"}  # of the run that finished first
    assert list(compare(named, "ndcg@10", per_user, FAMILIES).cells.set_index("label").loc["CROSS", "seeds"]) == [2, 2]


def test_a_seed_that_ran_on_two_devices_counts_once() -> None:
    frame = results()
    gpu = frame[(frame["method"] == "cross") & (frame["seed"] == 0)]
    gpu = gpu.assign(run_id=gpu["run_id"] + "-gpu-9", value=0.1, finished_at=NOW + dt.timedelta(days=1))
    both = label_rows(pd.concat([gpu, frame], ignore_index=True), ["de", "jp", "uk"])
    assert len(both) == len(frame)
    mine = both[both["label"] == "CROSS"]
    assert sorted(mine["run_id"]) == ["cross-de-0-gpu-9", "cross-de-1", "cross-jp-0-gpu-9", "cross-jp-1"]  # the newest
    assert comparison.means(both).set_index("label").loc["CROSS", "mean"].tolist() == pytest.approx([0.45, 0.45])


def test_a_name_made_of_a_difference_may_be_anothers_name() -> None:
    frame = results()
    names = {"pop": "same", "cross": "same", "weak": "same (rate=0.2)"}
    rates = {"pop": {"rate": 0.1}, "cross": {"rate": 0.2}, "weak": {"rate": 0.2, "on": True}}
    both = frame.assign(label=frame["method"].map(names), settings=frame["method"].map(rates))
    named = label_rows(both, ["de", "jp", "uk"]).groupby("label")["configuration"].nunique()
    assert dict(named) == {"same (rate=0.1)": 1, "same (rate=0.2) #cros": 1, "same (rate=0.2) #weak": 1}


def test_costs_count_what_is_updated(table: Comparison) -> None:
    frame = comparison.costs(table, results(), "de", "parameters").set_index("label")
    assert frame.loc["CROSS", "x"] == 7
    seconds = comparison.costs(table, results(), None, "seconds").set_index("label")
    assert seconds.loc["CROSS", "x"] == 15
    assert seconds.loc["POP", "x"] == 10


def test_costs_of_all_markets_are_those_of_methods_that_have_them_all() -> None:
    runs = results()
    runs = runs[~((runs["label"] == "WEAK") & (runs["target"] == "jp"))]
    found = compare(runs, "ndcg@10", per_user, FAMILIES)
    assert set(comparison.costs(found, runs, None, "seconds")["label"]) == {"CROSS", "POP"}
    assert set(comparison.costs(found, runs, "de", "seconds")["label"]) == {"CROSS", "POP", "WEAK"}


def test_export_names_protocol_users_and_date(table: Comparison) -> None:
    frame = comparison.export_rows(table, "events 80/10/10")
    assert set(frame["protocol"]) == {"events 80/10/10"}
    assert set(frame["date"]) == {"2026-01-02"}
    assert set(frame["users"]) == {USERS}


def test_groups_come_cold_first_in_the_tables_order() -> None:
    rows = [(label, f"item:{g}", 0.1, n) for label in ("B", "A") for g, n in (("5-19", 4), ("0", 2), ("20+", 9))]
    frame = pd.DataFrame(rows, columns=["label", "slice", "value", "n"])
    found = comparison.by_group(frame, "item", ["A", "B"])
    assert list(found["label"]) == ["A"] * 3 + ["B"] * 3
    assert [g.split()[0] for g in found["group"][:3]] == ["0", "5-19", "20+"]
    assert comparison.by_group(frame, "user", ["A", "B"]).empty


def test_published_numbers_fit_metric_and_market(table: Comparison) -> None:
    found = comparison.published(table, load_published())
    assert set(found["target"]) == {"de", "jp"}
    row = found[(found["label"] == "DCMPT (DCMPT paper, table 2)") & (found["target"] == "jp")]
    assert list(row["value"]) == [0.566]
    assert found["protocol"].str.len().gt(0).all()


def test_published_numbers_of_the_nearest_protocol_come_first(table: Comparison) -> None:
    for protocol, source in (
        ("ratio 80/10/10", "DCMPT paper, table 1"),
        ("leave-one-out (random)", "ACMR paper, table 3"),
    ):
        found = comparison.published(table, load_published(), protocol)
        assert set(found["label"][found["fits"]].str.contains(source)) == {True}
        assert found["fits"].is_monotonic_decreasing
    assert not comparison.published(table, load_published(), "events 80/10/10")["fits"].any()


def test_gains_stand_at_the_richness_of_their_market(table: Comparison) -> None:
    frame = comparison.gains(table, {"de": 1000.0, "jp": 50.0})
    assert set(frame["label"]) == {"CROSS", "WEAK"}
    assert (frame.loc[frame["label"] == "CROSS", "y"] > 0).all()
    assert (frame.loc[frame["label"] == "WEAK", "y"] < 0).all()
    assert set(frame.loc[frame["target"] == "jp", "x"]) == {50.0}
    figure = charts.richness(frame, charts.palette(table.labels, {}), "pairs", "gain")
    assert [list(trace.x) for trace in figure.data] == [["jp", "de"]] * 2
    assert list(figure.layout.xaxis.ticktext) == ["jp<br>50", "de<br>1,000"]


def test_means_need_no_users_and_put_the_best_first() -> None:
    cells = comparison.means(results())
    assert list(cells["label"].drop_duplicates()) == ["CROSS", "POP", "WEAK"]
    assert set(cells["n"]) == {USERS}
    assert all(
        "error_y" not in trace.to_plotly_json()
        for trace in charts.bars(
            cells, results(), charts.palette(dict(zip(cells["label"], cells["method"], strict=True)), {}), "x"
        ).data
    )


def test_published_costs() -> None:
    assert {(c.method, c.parameters) for c in load_costs()} >= {("DCMPT", 46_000.0), ("FOREC", 22_000_000.0)}


# --- charts ---------------------------------------------------------------------------------------------------------


def test_colours_are_one_per_method() -> None:
    colors = [info.color for info in load().values()]
    assert len(set(colors)) == len(colors)


def test_configurations_of_a_method_share_its_hue_and_differ() -> None:
    shades = charts.palette({"a": "m", "b": "m", "c": "m", "d": "other"}, {"m": "#4c78a8", "other": "#59a14f"})
    assert shades["a"] == "#4c78a8"
    assert shades["d"] == "#59a14f"
    assert len(set(shades.values())) == 4


def test_bars_have_intervals_and_a_dot_per_seed(table: Comparison) -> None:
    colors = charts.palette(table.labels, {"cross": "#123456"})
    figure = charts.bars(table.cells, results(), colors, "NDCG@10")
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert bars["CROSS"].marker.color == "#123456"
    assert all(value > 0 for value in bars["CROSS"].error_y.array)
    dots = [trace for trace in figure.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in dots] == [4]  # one method has two seeds, on two markets


def test_best_epoch_is_starred() -> None:
    values = {"loss": (3, 2, 1), "valid": (0.1, 0.3, 0.2), "weight:ca": (1, 2, 3), "norm": (1, 5, 2)}
    rows = [("fit", step, name, value) for name, line in values.items() for step, value in enumerate(line)]
    points = pd.DataFrame(rows, columns=["stage", "step", "name", "value"])
    figure = charts.curves(points)
    stars = [trace for trace in figure.data if trace.marker.symbol == "star"]
    assert [(star.x[0], star.y[0]) for star in stars] == [(1, 0.3)]
    titles = [title.text for title in figure.layout.annotations]
    assert titles == ["Loss", "Validation", "Source weights", "Diagnostics"]


def test_frontier_is_what_nothing_beats() -> None:
    frame = pd.DataFrame({"label": list("abcd"), "x": [1, 10, 10, 100], "y": [0.2, 0.5, 0.4, 0.3]})
    assert list(charts.frontier(frame)["label"]) == ["a", "b"]


def test_papers_numbers_have_no_part_in_the_frontier() -> None:
    ours = pd.DataFrame({"label": list("ab"), "x": [10.0, 100.0], "y": [0.2, 0.3], "symbol": "circle"})
    papers = pd.DataFrame({"label": ["p"], "x": [1.0], "y": [0.9], "symbol": "diamond-open"})
    points = pd.concat([ours, papers], ignore_index=True).assign(low=np.nan, high=np.nan, text="")
    line, *markers = charts.tradeoff(points, {}, "x", "y").data
    assert list(line.x) == [10, 100]
    assert [trace.name for trace in markers] == ["a", "b", "p"]


def test_no_chart_sets_a_background_or_text_colour(table: Comparison) -> None:
    colors = charts.palette(table.labels, {})
    figures = [charts.bars(table.cells, results(), colors, "x"), charts.outcomes(pd.DataFrame(
        {"label": ["a"], "win": [1], "tie": [0], "loss": [2]}))]  # fmt: skip
    for figure in figures:
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None


def test_tail_and_overlap_of_a_corpus() -> None:
    description = describe(synthetic(seed=0, scale=0.02))
    tail = describing.tail(description)
    assert all(points[0] == (1.0, 1.0) for points in tail.values())
    assert all(a[1] >= b[1] for points in tail.values() for a, b in itertools.pairwise(points))
    overlap = describing.overlap(description)
    assert (np.diag(overlap) == 1).all()
    assert overlap.to_numpy().max() == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (float("nan"), "—"), (0.01, "< 0.1 s"), (3.14, "3.1 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"),
     (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text
