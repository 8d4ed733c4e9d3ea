"""The command line, from the words that a person types to what they see."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from cmr_core.data.market import Corpus
from cmr_core.spec import JobSpec, SplitSpec
from worker.cli import main
from worker.settings import Settings, get_settings
from worker.store.audit import LOCAL
from worker.store.clock import later
from worker.store.corpora import add_corpus
from worker.store.runs import claim, get_run, launch, list_runs
from worker.store.session import Store, open_store
from worker.store.studies import list_studies
from worker.store.tables import RunRow

Cmr = Callable[..., tuple[int, str, str]]

STUDY = """
name: mine
corpus: tiny
targets: [de, jp]
methods: [{method: popularity}, {method: itemknn}]
protocols: [{split: {kind: ratio}}]
"""


@pytest.fixture
def home(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(migrated, folder / "cmr.db")
    monkeypatch.setenv("CMR_HOME", str(folder))
    # nobody listens there: commands must not wait for a broker
    monkeypatch.setattr("worker.queue.enqueue", lambda *_: False)
    get_settings.cache_clear()
    yield folder
    get_settings.cache_clear()


@pytest.fixture
def cmr(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cmr:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cmr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return int(ended.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def filled(home: Path, corpus: Corpus) -> Iterator[Store]:
    opened = open_store(Settings(home=home))
    add_corpus(opened, LOCAL, corpus, "made by a test")
    yield opened
    opened.close()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    return path


# --- data ----------------------------------------------------------------------------------------------------------


def test_files_become_a_corpus_that_is_listed_and_described(cmr: Cmr, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    rows = [f"u{user} i{(user + n) % 6} 5 2020-01-0{n + 1}" for user in range(6) for n in range(4)]
    for market in ("de", "fr"):
        (folder / f"{market}_5core.txt").write_text("\n".join(["userId itemId rate date", *rows]) + "\n")
    (folder / "SHA256SUMS").write_text("not data")
    code, out, _ = cmr("data", "add", folder, "--name", "shop")
    assert code == 0
    assert "Stored shop: 2 markets, 6 items" in out
    code, out, _ = cmr("data", "list")
    assert code == 0
    assert out.startswith("shop\t")
    assert "2 markets" in out
    code, out, _ = cmr("data", "describe", "shop")
    assert code == 0
    assert "audit:" in out


def test_table_with_columns_of_its_own(cmr: Cmr, tmp_path: Path) -> None:
    rows = [f"{country},c{user},{n:03d}" for country in ("de", "fr") for user in range(5) for n in range(4)]
    (tmp_path / "sales.csv").write_text("\n".join(["country,customer,sku", *rows]) + "\n")
    mapping = ["user=customer", "item=sku", "market=country", "rating=", "date="]
    words = [word for pair in mapping for word in ("--column", pair)]
    code, out, err = cmr("data", "add", tmp_path / "sales.csv", "--name", "sales", *words)
    assert (code, err) == (0, "")
    assert "2 markets, 4 items" in out


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--column", "user"], "ROLE=COLUMN"),
        (["--column", "buyer=customer"], "buyer"),
        (["--delimiter", "tab", "--format", "table"], "delimiter"),
    ],
)
def test_options_that_make_no_sense_are_explained(cmr: Cmr, tmp_path: Path, words: list[str], cause: str) -> None:
    (tmp_path / "sales.csv").write_text("user,item\na,b\n")
    code, _, err = cmr("data", "add", tmp_path / "sales.csv", "--name", "sales", *words)
    assert code == 1
    assert cause in err


def test_faulty_file_is_named_with_its_line_and_nothing_is_stored(cmr: Cmr, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("userId itemId rate date\nu1 i1 5 2020-01-01\nu1 i2 five 2020-01-01\n")
    code, _, err = cmr("data", "add", tmp_path / "de.txt", "--name", "shop")
    assert code == 1
    assert "de.txt, line 3" in err
    assert "five" in err
    assert cmr("data", "list")[1] == ""


def test_folder_without_data_is_explained(cmr: Cmr, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cmr("data", "add", tmp_path / "empty", "--name", "shop")
    assert code == 1
    assert "no data file" in err


def test_unknown_public_corpus_names_those_there_are(cmr: Cmr) -> None:
    code, _, err = cmr("data", "fetch", "movies")
    assert code == 1
    assert "xmarket-electronics" in err


def test_candidate_lists_are_stored_listed_and_launched(cmr: Cmr, filled: Store, tmp_path: Path) -> None:
    run, qrel = tmp_path / "run.tsv", tmp_path / "qrel.tsv"
    run.write_text("u000\ti06,i07\nu001\ti09,i00\n")
    qrel.write_text("userId\titemId\trating\nu000\ti07\t1\nu001\ti09\t1\n")
    words = ["data", "lists", "add", run, "--corpus", "tiny", "--market", "jp"]
    code, out, err = cmr(*words, "--qrel", qrel, "--name", "cup")
    assert (code, err) == (0, "")
    assert "Stored cup: 4 candidates for jp" in out
    evaluation = out.splitlines()[-1]
    assert cmr(*words, "--name", "cup")[0] == 1  # other content under the same name
    assert cmr(*words, "--name", "plain")[0] == 0
    first, second = cmr("data", "lists", "list")[1].splitlines()
    assert first.startswith("cup\ttiny\tjp\t4 candidates\t2 held-out items\t")
    assert second.startswith("plain\ttiny\tjp\t4 candidates\theld out by the split\t")
    assert first.split("\t")[-1] in evaluation
    study = "name: {}\ncorpus: tiny\ntargets: [{}]\nmethods: [{{method: popularity}}]\nprotocols:\n"
    study += "  - split: {{kind: ratio}}\n    {}\n"
    (tmp_path / "jp.yaml").write_text(study.format("cup", "jp", evaluation))
    (tmp_path / "de.yaml").write_text(study.format("wrong", "de", evaluation))
    code, out, err = cmr("launch", tmp_path / "jp.yaml", "--inline")
    assert code == 0, err
    assert "1 succeeded" in out
    code, _, err = cmr("launch", tmp_path / "de.yaml", "--dry-run")
    assert code == 1
    assert "for market 'jp'" in err


def test_lists_that_the_corpus_trains_on_are_refused(cmr: Cmr, filled: Store, tmp_path: Path) -> None:
    (tmp_path / "run.tsv").write_text("u000\ti06,i07\n")
    (tmp_path / "qrel.tsv").write_text("u000 i01 1\n")
    words = ["data", "lists", "add", tmp_path / "run.tsv", "--corpus", "tiny", "--market", "jp", "--name", "cup"]
    code, _, err = cmr(*words, "--qrel", tmp_path / "qrel.tsv")
    assert code == 1
    assert "would train on what they are tested on" in err
    assert cmr("data", "lists", "list")[1] == ""


# --- launching -----------------------------------------------------------------------------------------------------


def test_launch_queues_once_and_uses_what_is_there(cmr: Cmr, filled: Store, study: Path) -> None:
    code, out, err = cmr("launch", study)
    assert code == 0
    assert "4 new runs, 0 reused" in out
    assert "The queue does not answer" in err
    assert "0 new runs, 4 reused" in cmr("launch", study)[1]
    assert len(list_runs(filled)) == 4
    listed = cmr("runs", "--state", "queued", "--limit", 3)[1].splitlines()
    assert len(listed) == 3
    assert all("\tqueued\t" in line and "ratio 80/10/10 · catalogue" in line for line in listed)
    assert cmr("runs", "--state", "failed")[1] == ""


def test_dry_run_makes_nothing(cmr: Cmr, filled: Store, study: Path) -> None:
    code, out, _ = cmr("launch", study, "--dry-run")
    assert code == 0
    assert "mine: 4 runs, 0 there already, about 240 s of work" in out
    assert list_studies(filled) == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "not a study"),
        ("name: &a x\ncorpus: *a\n", "aliases"),
        (STUDY + "colour: red\n", "colour"),
        (STUDY.replace("popularity", "popularty"), "no method 'popularty'"),
        (STUDY.replace("tiny", "other"), "no corpus 'other'"),
        (STUDY.replace("de, jp", "de, atlantis"), "no market atlantis"),
        ("\x00", "not valid YAML"),
        ("x" * 70_000, "65536 at most"),
    ],
)
def test_wrong_study_says_what_is_wrong_and_makes_nothing(
    cmr: Cmr, filled: Store, study: Path, tmp_path: Path, text: str, cause: str
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text)
    code, _, err = cmr("launch", wrong)
    assert code == 1
    assert cause in err
    assert "What to do: " in err
    assert list_runs(filled) == []


def test_one_unreadable_file_starts_none_of_the_others(cmr: Cmr, filled: Store, study: Path) -> None:
    code, _, err = cmr("launch", study, study.with_name("missing.yaml"))
    assert code == 1
    assert "missing.yaml cannot be read: No such file" in err
    assert list_runs(filled) == []


# --- studies of the project, and for other machines ---------------------------------------------------------------


def test_studies_of_the_project_are_listed_and_shown(cmr: Cmr) -> None:
    code, out, _ = cmr("study", "list")
    assert code == 0
    assert "dcmpt-ablation\tWhat does each part of DCMPT contribute?" in out.splitlines()
    code, out, _ = cmr("study", "show", "dcmpt-ablation")
    assert code == 0
    assert "paper: DCMPT paper, table 2" in out
    assert "- ratio 80/10/10 · catalogue" in out
    assert "It cannot run here yet: There is no corpus 'xmarket-electronics'. Add one first" in out


def test_study_is_launched_by_name_or_from_a_file(cmr: Cmr, filled: Store, study: Path) -> None:
    code, out, _ = cmr("study", "launch", study, "--dry-run")
    assert (code, out) == (0, "mine: 4 runs, 0 there already, about 240 s of work\n")
    assert "4 runs, 0 there already, about 240 s of work (4 runs" in cmr("study", "show", study)[1]
    code, _, err = cmr("study", "launch", study, "acmr-ablation")
    assert code == 1
    assert "no corpus 'xmarket-electronics'" in err
    code, _, err = cmr("study", "launch", "nothing")
    assert code == 1
    assert "no study 'nothing'" in err


def test_study_goes_to_another_machine_and_is_continued_there(
    cmr: Cmr,
    filled: Store,
    study: Path,
    tmp_path: Path,
    migrated: Path,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cmr("launch", study, "--inline")
    out = tmp_path / "mine.zip"
    assert cmr("study", "export", "mine", out) == (0, f"Wrote {out}: 4 runs\n", "")
    code, _, err = cmr("study", "export", "mine", out)
    assert code == 1
    assert "exists" in err
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(migrated, other / "cmr.db")
    monkeypatch.setenv("CMR_HOME", str(other))
    get_settings.cache_clear()
    code, _, err = cmr("study", "import", out)
    assert code == 1
    assert "corpus 'tiny'" in err
    assert "cmr data add" in err
    opened = open_store(Settings(home=other))
    add_corpus(opened, LOCAL, corpus, "made by a test")
    opened.close()
    code, told, err = cmr("study", "import", out)
    assert code == 0, err
    assert told.endswith("4 runs imported, 0 there already\n")
    assert "0 new runs, 4 reused" in cmr("study", "launch", study)[1]
    assert cmr("export", "mine")[1].count("\n") == 5
    assert cmr("study", "import", study)[0] == 1


# --- runs ----------------------------------------------------------------------------------------------------------


def test_cancel_and_retry_by_the_first_characters(cmr: Cmr, filled: Store, study: Path) -> None:
    cmr("launch", study)
    run = list_runs(filled)[0].id
    assert cmr("cancel", run[:20]) == (0, f"Cancelled {run}\n", "")
    assert get_run(filled, run).state == "cancelled"
    code, _, err = cmr("cancel", run)
    assert code == 1
    assert "ended as cancelled" in err
    code, out, _ = cmr("retry", run)
    assert (code, out) == (0, f"Queued {run}\n")
    assert get_run(filled, run).state == "queued"
    assert "state: queued" in cmr("show", run)[1]


def test_id_must_exist_and_mean_one_run(cmr: Cmr, filled: Store, study: Path) -> None:
    cmr("launch", study)
    for unknown in ("zzz", "%", "_", "../../etc/passwd"):
        code, _, err = cmr("show", unknown)
        assert code == 1, unknown
        assert "no run" in err
    code, _, err = cmr("show", "")
    assert code == 1
    assert "no run" in err


def test_start_that_several_ids_share_is_refused(cmr: Cmr, filled: Store, study: Path) -> None:
    cmr("launch", study)
    job = JobSpec.model_validate(list_runs(filled)[0].spec)
    for seed in range(1, 18):  # of 17 ids two begin alike, because there are 16 hexadecimal digits
        launch(filled, LOCAL, job.model_copy(update={"split": SplitSpec(kind="ratio", seed=seed)}))
    starts = [run.id[0] for run in list_runs(filled)]
    double = next(start for start in starts if starts.count(start) > 1)
    code, _, err = cmr("cancel", double)
    assert code == 1
    assert "Several runs start with" in err
    assert {run.state for run in list_runs(filled)} == {"queued"}


def test_inline_runs_everything_here_and_recommends(cmr: Cmr, filled: Store, study: Path, corpus: Corpus) -> None:
    code, out, err = cmr("launch", study, "--inline")
    assert code == 0, err
    assert out.splitlines()[-1] == "4 succeeded"
    run = next(r for r in list_runs(filled) if r.method == "popularity" and r.target == "de")
    assert "ndcg@10" in cmr("show", run.id)[1]
    user = str(corpus.market("de").users[3])
    code, out, _ = cmr("recommend", run.id, user, "-n", 20)
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    # of ten items the user had five; at least one of them was held out for the test and may be listed
    had = {str(corpus.items[i]) for i in corpus.market("de").item[corpus.market("de").user == 3]}
    assert 5 <= len(rows) <= 7
    assert len(had & {row[1] for row in rows}) <= 2
    code, _, err = cmr("recommend", run.id, "nobody")
    assert code == 1
    assert "no user 'nobody'" in err
    exported = cmr("export", "mine", "--metric", "ndcg@10")[1]
    assert exported.count("\n") == 5


def test_inline_takes_up_what_others_queued_or_died_over(cmr: Cmr, filled: Store, study: Path) -> None:
    assert "4 new runs" in cmr("launch", study)[1]  # no broker answers here: they stay queued
    claimed, held = (claim(filled, run.id, "another") for run in list_runs(filled)[:2])
    assert claimed is not None
    assert held is not None
    with filled.begin() as session:
        session.execute(update(RunRow).where(RunRow.id == claimed.run_id).values(lease_until=later(-1)))
        session.execute(update(RunRow).where(RunRow.id == held.run_id).values(lease_until=later(3)))
    code, out, err = cmr("launch", study, "--inline")
    assert code == 0, err
    assert "0 new runs, 4 reused" in out
    assert out.splitlines()[-1] == "4 succeeded"
    attempts = {run.id: run.attempt for run in list_runs(filled)}
    assert sorted(attempts.values()) == [1, 1, 2, 2]
    assert attempts[held.run_id] == 2  # once its lease had run out, and not before


def test_failed_run_makes_the_launch_fail(
    cmr: Cmr, filled: Store, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmr_core.errors import TrainingError

    def broken(*_: object, **__: object) -> None:
        raise TrainingError("The loss is not finite.", hint="Lower the learning rate.")

    monkeypatch.setattr("cmr_core.experiment.run", broken)
    code, out, err = cmr("launch", study, "--inline")
    assert code == 1
    assert "4 failed" in out
    assert "The loss is not finite. Lower the learning rate." in err


# --- the command line itself ---------------------------------------------------------------------------------------


def test_wrong_setting_names_the_variable(cmr: Cmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMR_PORT", "many")
    get_settings.cache_clear()
    code, _, err = cmr("runs")
    assert code == 1
    assert "CMR_PORT" in err


def test_empty_store_lists_nothing_without_a_fault(cmr: Cmr) -> None:
    for words in (["runs"], ["studies"], ["data", "list"]):
        assert cmr(*words) == (0, "", "")


def test_methods_are_listed_and_one_is_described(cmr: Cmr) -> None:
    from cmr_core.models.registry import load

    code, out, _ = cmr("methods")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == list(load())
    code, out, _ = cmr("methods", "forec")
    assert code == 0
    assert out.startswith("FOREC (forec, cross-market)")
    assert "fork_epochs = 25" in out
    code, _, err = cmr("methods", "nope")
    assert code == 1
    assert "Methods: acmr, " in err


def test_worker_without_a_gpu_says_so(cmr: Cmr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, _, err = cmr("worker", "--device", "gpu")
    assert code == 1
    assert "No GPU was found" in err


def test_every_command_explains_itself(cmr: Cmr) -> None:
    commands = ["up", "worker", "app", "reaper", "migrate", "launch", "runs", "show", "cancel", "retry"]
    commands += ["export", "recommend", "studies", "methods", "check"]
    for words in [
        *([name] for name in commands),
        ["data"],
        ["data", "add"],
        ["data", "fetch"],
        ["data", "lists", "add"],
        *(["study", name] for name in ("list", "show", "launch", "export", "import", "search")),
        [],
    ]:
        code, out, _ = cmr(*words, "--help")
        assert code == 0, words
        assert "Usage:" in out


# --- faults are explained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sede: [1]", ["sede: there is no such key; perhaps seeds is meant"]),
        ("seeds: none", ["seeds: must be a list."]),
        ("seeds: []", ["seeds: must not be empty."]),
        ("seeds: [1]\nseeds: [2]", ["'seeds' stands twice"]),
        ("note: 5", ["note: must be text"]),
        ("sources: [Bad Name]", ["sources.0: must consist of small letters"]),
        ("seeds: [-1]", ["seeds must be different and between 0"]),
    ],
)
def test_study_that_makes_no_sense_is_explained_in_plain_words(
    cmr: Cmr, filled: Store, study: Path, change: str, words: list[str]
) -> None:
    study.write_text(f"{STUDY}{change}\n")
    code, out, err = cmr("launch", study)
    assert (code, out) == (1, "")
    for part in (*words, "mine.yaml", "What to do: "):
        assert part in err
    assert "Input should be" not in err
    assert not list_studies(filled)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("{method: dcmpt, grid: {prompts: []}}", "methods.0.grid.prompts: must not be empty."),
        (
            "{method: dcmpt, settings: {promts: 5}}",
            "setting of DCMPT: promts: there is no such key; perhaps prompts is meant",
        ),
        ("{method: lightgcn, settings: {learning_rate: .nan}}", "must be a finite number, a text, true or false."),
        ("{method: lightgcn, settings: {teacher_learning_rate: 0}}", "teacher_learning_rate: must be greater than 0"),
        ("{method: populrity}", "There is no method 'populrity'"),
    ],
)
def test_faulty_method_of_a_study_is_explained_once(
    cmr: Cmr, filled: Store, study: Path, method: str, words: str
) -> None:
    study.write_text(f"name: mine\ncorpus: tiny\nmethods: [{method}]\nprotocols: [{{split: {{kind: ratio}}}}]\n")
    code, _, err = cmr("launch", study)
    assert code == 1
    assert words in err
    assert err.count(": must") <= 1


def test_paths_that_cannot_be_used_are_named(cmr: Cmr, filled: Store, study: Path, tmp_path: Path) -> None:
    for words in (["data", "add", tmp_path / "none.txt", "--name", "x"], ["launch", tmp_path / "none.yaml"]):
        code, _, err = cmr(*words)
        assert code == 1
        assert "none." in err
        assert "What to do: " in err


def test_home_that_is_a_file_is_named(cmr: Cmr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CMR_HOME", str(tmp_path / "file"))
    get_settings.cache_clear()
    code, _, err = cmr("runs")
    assert code == 1
    assert str(tmp_path / "file") in err
    assert "What to do: " in err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CMR_PORT", "abc", "CMR_PORT: must be a whole number"),
        ("CMR_DATABASE_URL", "mysql://a:hidden@b/c", "CMR_DATABASE_URL: must begin with postgresql+psycopg://"),
        ("CMR_BROKER_URL", "foo://:hidden@b", "CMR_BROKER_URL: must begin with redis://"),
        ("CMR_LEASE_SECONDS", "1", "wrong: CMR_LEASE_SECONDS must be at least twice"),
    ],
)
def test_wrong_setting_is_named_without_its_secret(
    cmr: Cmr, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    code, _, err = cmr("runs")
    assert code == 1
    assert words in err
    assert "hidden" not in err


def test_same_rows_under_a_second_name_are_refused(cmr: Cmr, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("userId itemId rate date\nu1 i1 5 2020-01-01\n")
    assert cmr("data", "add", tmp_path / "de.txt", "--name", "shop")[0] == 0
    assert cmr("data", "add", tmp_path / "de.txt", "--name", "shop")[0] == 0
    code, _, err = cmr("data", "add", tmp_path / "de.txt", "--name", "store")
    assert code == 1
    assert "already, as 'shop'" in err


def test_delimiter_is_never_ignored(cmr: Cmr, tmp_path: Path) -> None:
    (tmp_path / "de.csv").write_text("user,item\na,b\n")
    code, _, err = cmr("data", "add", tmp_path / "de.csv", "--name", "shop", "--delimiter", ";;")
    assert code == 1
    assert "delimiter" in err


def test_unknown_state_or_study_is_no_empty_list(cmr: Cmr, filled: Store) -> None:
    code, _, err = cmr("runs", "--state", "foo")
    assert code == 1
    assert "succeeded" in err
    code, _, err = cmr("runs", "--study", "nope")
    assert code == 1
    assert "cmr studies" in err


def test_worker_for_the_cpu_takes_no_gpu(cmr: Cmr) -> None:
    code, _, err = cmr("worker", "--device", "cpu", "--gpu", "1")
    assert code == 1
    assert "--device gpu" in err
