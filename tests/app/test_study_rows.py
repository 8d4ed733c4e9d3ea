"""Which runs belong to which choice, what a paper calls them, and what is missing."""

from __future__ import annotations

import pandas as pd
import pytest

from app.study import paper, rows, view
from cmr_core.models.registry import load
from cmr_core.published import load as load_published
from cmr_core.spec import MethodChoice, StudySpec
from worker.store import naming

KNOWN = load()


def run(method: str, run_id: str = "r", members: object = None, **settings: object) -> dict[str, object]:
    full = KNOWN[method].configure(settings).model_dump(mode="json")  # type: ignore[arg-type]
    stored = {name: value for name, value in full.items() if value is not None}
    return {
        "run_id": run_id, "configuration": f"{method}-{settings}-{members}", "label": "theirs", "method": method,
        "target": "de", "settings": stored, "members": members, "sources": ["jp", "uk"], "each_seed": None,
        "state": "succeeded",
    }  # fmt: skip


def choice(**fields: object) -> MethodChoice:
    return MethodChoice.model_validate(fields)


def test_a_run_belongs_to_each_grid_that_has_its_point() -> None:
    default = KNOWN["dcmpt"].configure({})
    runs = pd.DataFrame([run("dcmpt", "a"), run("dcmpt", "b", prompts=5), run("dcmpt", "c", weight_wrd=0.1)])
    prompts = naming.belonging(choice(method="dcmpt", grid={"prompts": [5, default.prompts]}), runs, KNOWN)  # type: ignore[attr-defined]
    weights = naming.belonging(choice(method="dcmpt", grid={"weight_wrd": [0.1, 0.5]}), runs, KNOWN)
    assert set(prompts["run_id"]) == {"a", "b"}
    assert set(weights["run_id"]) == {"a", "c"}
    assert prompts.set_index("run_id").at["b", "point"] == {"prompts": 5}


def test_labels_are_the_choices_own_or_made_from_the_settings() -> None:
    runs = pd.DataFrame([run("ease", "a", tune=False), run("ease", "b")])
    spec = StudySpec(
        name="s",
        corpus="c",
        methods=(choice(method="ease", label="Mine", settings={"tune": False}), choice(method="ease")),
    )
    named = naming.named(spec, runs, KNOWN).set_index("run_id")["label"]
    assert dict(named) == {"a": "Mine", "b": "EASE"}


def test_settings_that_came_later_do_not_part_a_run_from_its_study() -> None:
    old = run("dcmpt", "a")
    del old["settings"]["attention_bias"]  # type: ignore[attr-defined]
    runs = pd.DataFrame([old])
    assert len(naming.belonging(choice(method="dcmpt"), runs, KNOWN)) == 1
    assert naming.belonging(choice(method="dcmpt", settings={"attention_bias": True}), runs, KNOWN).empty


def test_members_tell_combinations_apart() -> None:
    members = [{"method": "ease", "settings": {"tune": True}}, {"method": "popularity", "settings": {}}]
    runs = pd.DataFrame([run("blend", "a", members)])
    same = choice(method="blend", members=[{"method": "ease"}, {"method": "popularity"}])
    other = choice(method="blend", members=[{"method": "ease", "settings": {"tune": False}}, {"method": "popularity"}])
    assert len(naming.belonging(same, runs, KNOWN)) == 1
    assert naming.belonging(other, runs, KNOWN).empty


def test_revisions_of_one_method_stand_beside_each_other() -> None:
    old, new = run("ease", "a") | {"revision": None}, run("ease", "b") | {"revision": 2, "configuration": "new"}
    frame = pd.DataFrame([old, new]).assign(seed=0, finished_at=pd.Timestamp("2026-01-01"))
    labels = naming.label_rows(frame, ["de", "jp", "uk"]).set_index("run_id")["label"]
    assert dict(labels) == {"a": "theirs (revision=1)", "b": "theirs (revision=2)"}


def test_a_method_that_is_not_here_keeps_its_runs() -> None:
    strange = run("ease", "a") | {"method": "plugin", "settings": {"depth": 3, "width": 8}}
    runs = pd.DataFrame([strange])
    found = naming.belonging(choice(method="plugin", settings={"depth": 3}), runs, KNOWN)
    assert list(found["label"]) == ["theirs"]
    assert naming.belonging(choice(method="plugin", settings={"depth": 4}), runs, KNOWN).empty


def test_only_runs_with_all_sources_stand_in_tables() -> None:
    spec = StudySpec(
        name="s",
        corpus="c",
        methods=(choice(method="dcmpt"),),
        source_sets=("all", "without-one"),
        sources=("de", "jp", "uk"),
    )
    runs = pd.DataFrame(
        [run("dcmpt", "a"), run("dcmpt", "b") | {"sources": ["jp"]}, run("ease", "c") | {"sources": []}]
    )
    kept = rows.with_all_sources(spec, runs, ["ca", "de", "jp", "uk"])
    assert list(kept["run_id"]) == ["a", "c"]
    alone = spec.model_copy(update={"source_sets": ("only-one",)})
    assert len(rows.with_all_sources(alone, runs, ["ca", "de", "jp", "uk"])) == 3


def test_a_target_that_is_no_source_makes_no_row_of_its_own() -> None:
    spec = StudySpec(
        name="s", corpus="c", methods=(choice(method="dcmpt"),), sources=("uk", "us"), targets=("jp", "us")
    )
    times = {"seed": 0, "finished_at": None}
    runs = pd.DataFrame(
        [
            run("dcmpt", "a") | times | {"target": "us", "sources": ["uk"]},
            run("dcmpt", "b") | times | {"target": "jp", "sources": ["uk", "us"]},
        ]
    )
    shown = view.View("1", spec, ("ca", "jp", "uk", "us"), "", "ndcg@10", runs, runs, KNOWN)
    assert list(shown.labelled()["label"]) == ["theirs", "theirs"]


def test_a_combination_without_a_name_has_its_methods_and_not_another_launchs() -> None:
    members = [{"method": "ease", "settings": {}}, {"method": "popularity", "settings": {}}]
    mine = choice(method="blend", members=members)
    found = naming.belonging(mine, pd.DataFrame([run("blend", "a", members)]), KNOWN)
    assert list(found["label"]) == [KNOWN["blend"].label]


def test_missing_runs_are_counted_by_state() -> None:
    states = ["succeeded"] * 3 + ["queued"] * 2 + ["failed"]
    assert view.missing(pd.DataFrame({"state": states})) == "3 of 6 runs are missing: 2 waiting, 1 failed."
    assert view.missing(pd.DataFrame({"state": ["succeeded", "lost"]})) == "1 of 2 runs is missing: 1 silent."
    assert view.missing(pd.DataFrame({"state": ["succeeded"]})) == ""


# --- papers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "ours", "theirs"),
    [
        ("DCMPT paper, table 1", ["neumf"], "NMF"),
        ("DCMPT paper, table 1", ["acmr"], "Bert4XMR"),
        ("DCMPT paper, table 1", ["cat-sr"], "CAT-SR"),
        ("DCMPT paper, table 2", ["no-prompt"], "w/o prompt"),
        ("DCMPT paper, table 2", ["w/o wrd"], "w/o WRD"),
        ("ACMR paper, table 3", ["neumf"], "NeuMF"),
        ("ACMR paper, table 3", ["neumf-all"], "NeuMF++"),
        ("ACMR paper, table 3", ["wide-deep-all"], "Wide&Deep++"),
        ("ACMR paper, table 3", ["m3rec"], "M3Rec"),
        ("ACMR paper, table 3", ["cross-stitch"], "Cross-Stitch"),
        ("ACMR paper, table 4", ["pre-train without target"], "pre-train without target"),
        ("ACMR paper, table 3", ["ease-weighted"], None),
    ],
)
def test_the_papers_names_of_our_methods(source: str, ours: list[str], theirs: str | None) -> None:
    names = list(dict.fromkeys(p.method for p in load_published() if p.source == source))
    assert paper.counterpart(ours, names) == theirs


def test_a_changed_method_does_not_stand_beside_the_papers() -> None:
    facts = [("DCMPT", "dcmpt"), ("DCMPT (prompts=5)", "dcmpt"), ("NeuMF, all", "neumf-all")]
    rows = [{"label": label, "method": method, "point": {}, "settings": {}} for label, method in facts]
    assert paper.pairs(paper.names(pd.DataFrame(rows), KNOWN), ["DCMPT", "NMF"]) == {"DCMPT": "DCMPT"}


def test_a_method_with_its_published_settings_stands_beside_the_papers() -> None:
    rows = [run("acmr", "a"), run("acmr", "b", **KNOWN["acmr"].published)]
    frame = pd.DataFrame([row | {"label": f"mine {at}", "point": {}} for at, row in enumerate(rows)])
    assert paper.pairs(paper.names(frame, KNOWN), ["ACMR"]) == {"mine 1": "ACMR"}


def test_how_near_our_figures_are_to_the_papers() -> None:
    cells = pd.DataFrame(
        [("A", "de", 0.50), ("A", "jp", 0.55), ("A", "uk", 0.9), ("B", "de", 0.1), ("C", "xx", 0.3)],
        columns=["label", "target", "mean"],
    )
    theirs = pd.DataFrame({"de": [0.48, 0.4], "jp": [0.6, 0.4], "uk": [None, 0.1]}, index=["a", "b"], dtype=float)
    theirs.loc["c"] = 0.3
    pairs = {"A": "a", "B": "b", "C": "c"}
    assert paper.nearness(cells, theirs, pairs) == "a 1 of 2 (de; farthest: jp -.0500), b 0 of 1 (farthest: de -.3000)"
    assert paper.nearness(cells, theirs, pairs, reach=0.06).startswith("a 2 of 2 (de, jp; ")
    assert paper.nearness(cells, theirs, {}) == ""


def test_the_papers_numbers_are_a_table_in_its_order() -> None:
    table = paper.numbers("DCMPT paper, table 2", "ndcg@10", ["de", "xx", "jp"], load_published())
    assert list(table.index)[:2] == ["DCMPT", "w/o pretrain"]
    assert list(table.columns) == ["de", "jp"]
    assert table.at["w/o prompt", "jp"] == 0.214
    assert paper.numbers("no such paper", "ndcg@10", ["de"], load_published()).empty
