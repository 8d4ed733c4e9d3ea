"""Forms follow the schema; study files come back as they went out; nonsense is told in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import choices, draft
from app.forms import Field, differences, fields, study_yaml
from cmr_core.errors import SpecError
from cmr_core.models.registry import MethodInfo, load
from cmr_core.spec import MethodChoice, StudySpec
from worker.store.study_files import MOST_BYTES, read_study

METHODS = load()


@pytest.mark.parametrize("info", METHODS.values(), ids=METHODS)
def test_untouched_form_stores_nothing(info: MethodInfo) -> None:
    assert differences(info.config, {field.name: field.default for field in fields(info.config)}) == {}


@pytest.mark.parametrize("info", METHODS.values(), ids=METHODS)
def test_every_setting_has_a_field_with_a_description(info: MethodInfo) -> None:
    shown = fields(info.config)
    assert [field.name for field in shown] == list(info.config.model_fields)
    assert all(field.help for field in shown)


def moved(field: Field) -> object:
    """Another value that the field allows."""
    if field.kind == "switch":
        return not field.default
    if field.kind == "choice":
        return next(choice for choice in field.choices if choice != field.default)
    assert isinstance(field.default, int | float)
    low = field.low if field.low is not None else field.above if field.above is not None else 0
    return int(field.default) + 1 if field.kind == "whole" else (field.default + low) / 2 + 1e-9


@pytest.mark.parametrize("info", METHODS.values(), ids=METHODS)
def test_one_change_is_the_only_difference(info: MethodInfo) -> None:
    shown = fields(info.config)
    for field in shown:
        if field.kind == "text" or field.default is None:
            continue
        values = {f.name: f.default for f in shown} | {field.name: moved(field)}
        try:
            found = differences(info.config, values)
        except SpecError:
            continue  # some settings forbid each other; the form shows why
        assert found == {field.name: values[field.name]}


def test_out_of_bounds_is_refused_with_the_name() -> None:
    with pytest.raises(SpecError, match="regularisation"):
        differences(METHODS["ease"].config, {"regularisation": -1.0})


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
scalars = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-1e6, 1e6), st.text(max_size=9))


@given(
    st.builds(
        StudySpec,
        name=names,
        corpus=names,
        targets=st.lists(names, max_size=3, unique=True).map(tuple),
        sources=st.none() | st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
        methods=st.lists(
            st.builds(MethodChoice, method=names, settings=st.dictionaries(names, scalars, max_size=3)),
            min_size=1,
            max_size=3,
        ).map(tuple),
        seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True).map(tuple),
        note=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=30),
    )
)
def test_study_file_comes_back_equal(spec: StudySpec) -> None:
    assert read_study(study_yaml(spec).encode()) == spec


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "ü", "\ufeff", "a\x85b"])
def test_study_file_keeps_unusual_characters(mark: str) -> None:
    choice = MethodChoice(method="ease", settings={"a": mark})
    spec = StudySpec(name="n", corpus="c", methods=(choice,), note=f"x{mark}y")
    assert read_study(study_yaml(spec).encode()) == spec


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not a study"),
        (b"- 1\n- 2", "not a study"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a: [1, 2", "not valid YAML"),
        (b"a: &x [1]\nb: [*x, *x]", "aliases"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"name: x\ncorpus: y\nmethods: []\n", "methods"),
        (b"name: x\ncorpus: y\nmethods: [{method: ease}]\ncolour: red\n", "colour"),
        (b"name: x\ncorpus: y\nmethods: [{method: ease}]\nseeds: [1, 1]\n", "different"),
        (b"name: 2020-13-45\ncorpus: y\nmethods: [{method: ease}]\n", "not valid YAML"),
        (b"name: 2020-12-31\ncorpus: y\nmethods: [{method: ease}]\n", "name"),
        (b"#" * (MOST_BYTES + 1), "at most"),
        (b"[" * 3000, "nested|not valid YAML"),
    ],
)
def test_what_is_no_study_is_told(data: bytes, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read_study(data)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0, 1 2", (0, 1, 2)), ("0-2,7", (0, 1, 2, 7)), (" 5 ", (5,))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert draft.seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "3-1", "0-20", "1.5", "-1", "99999999999"])
def test_no_seeds(text: str) -> None:
    with pytest.raises(SpecError):
        draft.seeds(text)


@given(st.text(max_size=200))
def test_any_name_becomes_one_that_a_study_may_have(name: str) -> None:
    StudySpec(name=draft.file_name(name), corpus="x", methods=(MethodChoice(method="ease"),))


def test_presets_are_told_apart() -> None:
    assert [draft.preset_of(protocol) for _, protocol in draft.PRESETS.values()] == list(draft.PRESETS)


def test_a_study_of_a_paper_opens_on_a_metric_that_the_paper_has() -> None:
    names = ["ndcg@5", "ndcg@10", "recall@5", "recall@10"]
    assert choices.usual(names) == "ndcg@10"
    assert choices.usual(names, {"ndcg@5", "recall@5"}) == "ndcg@5"
    assert choices.usual(names, {"ndcg@10", "recall@10"}) == "ndcg@10"
    assert choices.usual(names, {"auc"}) == "ndcg@10"
    with pytest.raises(SpecError, match="no metrics"):
        choices.usual([])
