"""One job from spec to files: the numbers agree with each other, and what makes no sense is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from cmr_core.__main__ import main, read_body
from cmr_core.data.files import read_corpus
from cmr_core.data.layouts import Layout
from cmr_core.data.market import Corpus
from cmr_core.data.split import make_split
from cmr_core.data.synthetic import synthetic
from cmr_core.errors import Cancelled, DeviceError, SpecError
from cmr_core.evaluation import evaluate as evaluation
from cmr_core.evaluation.tables import tables
from cmr_core.experiment import member_jobs, run, torch_device
from cmr_core.models import registry
from cmr_core.models.base import rebuild
from cmr_core.models.registry import get
from cmr_core.spec import JobSpec, parse
from cmr_core.training.monitor import QuietMonitor

FILES = Path(os.environ.get("CMR_TEST_DATA", "../shared/data")) / "xmarket-electronics"
EXPECTED = {"de": 0.406, "jp": 0.383, "in": 0.539, "mx": 0.650}
"""NDCG@10 of EASE (lambda 30) under ratio + catalogue, measured elsewhere with other random splits."""
METHODS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "itemknn-weighted": {"tune": False, "source_weight": 1.0, "shrinkage": 10.0, "neighbours": 100_000},
    "ease-weighted": {"tune": False, "source_weight": 1.0, "regularisation": 50.0},
}
LATEST, RANDOM = {"order": "latest"}, {"order": "random"}
PUBLISHED = RANDOM | {"deduplicate": False, "catalogue": "all"}
REPORTED: list[tuple[str, dict[str, Any], str, dict[str, tuple[float, float]]]] = [
    ("popularity", PUBLISHED, "sampled-global",
     {"de": (0.81, 0.56), "jp": (0.87, 0.63), "in": (0.85, 0.74), "fr": (0.85, 0.59), "ca": (0.65, 0.44),
      "mx": (0.90, 0.74), "uk": (0.77, 0.56)}),
    # jp's .51 and .31 are not here: 25 draws have the means .482 and .289, and deviations of .019 and .013
    ("popularity", RANDOM, "sampled-market",
     {"de": (0.59, 0.37), "in": (0.61, 0.50), "fr": (0.59, 0.35), "ca": (0.58, 0.38), "mx": (0.72, 0.58),
      "uk": (0.62, 0.43)}),
    ("popularity", LATEST, "sampled-market",
     {"de": (0.44, 0.25), "jp": (0.36, 0.20), "in": (0.56, 0.45), "fr": (0.44, 0.24), "ca": (0.51, 0.31),
      "mx": (0.65, 0.52), "uk": (0.51, 0.34)}),
    ("itemknn-weighted", LATEST, "sampled-market",
     {"de": (0.47, 0.34), "jp": (0.38, 0.27), "in": (0.58, 0.50), "fr": (0.43, 0.31), "mx": (0.66, 0.58),
      "uk": (0.50, 0.38)}),
    ("popularity", LATEST, "catalogue",
     {"de": (0.07, 0.04), "jp": (0.09, 0.06), "in": (0.40, 0.37), "fr": (0.05, 0.03), "ca": (0.06, 0.04),
      "mx": (0.41, 0.37), "uk": (0.15, 0.12)}),
    ("ease-weighted", LATEST, "catalogue",
     {"de": (0.22, 0.17), "jp": (0.21, 0.16), "in": (0.48, 0.44), "fr": (0.21, 0.16), "mx": (0.53, 0.50),
      "uk": (0.26, 0.20)}),
]  # fmt: skip
"""Recall@10 and NDCG@10 of the table in section 0.3 of METHODS.md under leave-one-out, where they take seconds."""
CASES = [
    pytest.param(method, split, candidates, target, value, id=f"{method}-{split['order']}-{candidates}-{target}")
    for method, split, candidates, markets in REPORTED
    for target, value in markets.items()
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic(seed=3, scale=0.03)


def job(corpus: Corpus, /, **changes: Any) -> JobSpec:
    body = {"corpus": corpus.digest, "target": "jp", "sources": ["de", "fr"], "method": "ease-weighted"}
    return parse(JobSpec, {**body, "settings": {"regularisation": 10.0}, **changes})


def test_the_whole_path(corpus: Corpus) -> None:
    monitor = QuietMonitor()
    spec = job(corpus)
    outcome = run(spec, corpus, monitor)
    split = make_split(corpus, spec.split)
    assert set(outcome.test.users) == set(split.markets["jp"].test.user)
    means = outcome.test.means()
    assert means["ndcg@10"] == pytest.approx(outcome.test.values["ndcg@10"].mean())
    assert outcome.recommender.details["validation"] == pytest.approx(outcome.valid.means()["ndcg@10"])
    stages = [report.stage for report in monitor.progress]
    assert stages[0] == "split"
    assert stages[-2:] == ["evaluate", "evaluate"]
    assert [(r.done, r.total) for r in monitor.progress if r.stage == "evaluate"] == [(50, 100), (100, 100)]
    assert [stage.name for stage in outcome.stages] == ["split", "fit", "evaluate"]
    assert sum(stage.seconds for stage in outcome.stages) <= outcome.seconds
    assert {stage for stage, *_ in outcome.curves} == {"fit"}
    assert outcome.environment["torch"] == torch.__version__
    assert outcome.environment["device"] == "cpu"


def test_a_long_evaluation_tells_how_far_it_is_and_stops(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CELLS", 1)  # a block is one user

    class Stopping(QuietMonitor):
        def cancelled(self) -> bool:
            return bool(self.progress) and self.progress[-1].stage == "evaluate" and self.progress[-1].done > 60

    monitor = Stopping()
    with pytest.raises(Cancelled):
        run(job(corpus), corpus, monitor)
    seen = [report.done for report in monitor.progress if report.stage == "evaluate"]
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-2] <= 60 < seen[-1] < 70


def test_the_same_job_gives_the_same_numbers(corpus: Corpus) -> None:
    one, other = run(job(corpus), corpus, QuietMonitor()), run(job(corpus), corpus, QuietMonitor())
    assert one.test.means() == other.test.means()
    for name, value in one.recommender.arrays().items():
        np.testing.assert_array_equal(value, other.recommender.arrays()[name])


EACH: dict[str, Any] = {"kind": "leave-one-out", "each_seed": True}
DRAWN = {"candidates": "sampled-market", "negatives": 20}


@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_can_draw_its_own_split_and_candidates(corpus: Corpus, seed: int) -> None:
    plain: dict[str, Any] = {"method": "popularity", "settings": {}, "sources": [], "seed": seed}
    own = run(job(corpus, split=EACH, evaluation=DRAWN, **plain), corpus, QuietMonitor())
    fixed: dict[str, Any] = {"split": {"kind": "leave-one-out", "seed": seed}, "evaluation": DRAWN | {"seed": seed}}
    same = run(job(corpus, **fixed, **plain), corpus, QuietMonitor())
    np.testing.assert_array_equal(own.test.held_item, same.test.held_item)
    np.testing.assert_array_equal(own.test.held_rank, same.test.held_rank)
    held = tables(own.test, job(corpus, split=EACH, evaluation=DRAWN, **plain), corpus)["per_user"]["n_train"]
    split = make_split(corpus, job(corpus, **fixed).split).markets["jp"]
    np.testing.assert_array_equal(held, np.bincount(split.train.user, minlength=split.n_users)[own.test.users])
    elsewhere = run(job(corpus, split=EACH, evaluation=DRAWN, **plain | {"seed": 9}), corpus, QuietMonitor())
    assert (elsewhere.test.held_item != own.test.held_item).any()


def test_seeds_with_splits_of_their_own_are_of_one_protocol(corpus: Corpus) -> None:
    first, second = (job(corpus, split=EACH, evaluation=DRAWN, seed=seed) for seed in (0, 1))
    assert first.protocol() == second.protocol() != job(corpus, split=EACH | {"each_seed": False}).protocol()
    assert first.protocol_text().endswith("a split per seed")
    assert "each_seed" not in job(corpus).split.canonical()
    assert [one.drawn().split.seed for one in (first, second)] == [0, 1]
    with pytest.raises(SpecError, match="leave both `seed`s at 0"):
        job(corpus, split=EACH | {"seed": 1})
    with pytest.raises(SpecError, match="leave both `seed`s at 0"):
        job(corpus, split=EACH, evaluation={"seed": 1})
    with pytest.raises(SpecError, match="imported lists belong to one split"):
        job(corpus, split=EACH, evaluation={"candidates": "given", "given": "a" * 64})


def test_a_single_market_method_does_not_see_the_sources(corpus: Corpus) -> None:
    changes: dict[str, Any] = {"method": "ease", "settings": {}}
    without = run(job(corpus, sources=[], **changes), corpus, QuietMonitor())
    assert run(job(corpus, **changes), corpus, QuietMonitor()).test.means() == without.test.means()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": "0" * 64}, "about corpus 000000000000"),
        ({"target": "xx"}, "no market 'xx'"),
        ({"sources": ["de", "yy"]}, "no market 'yy'"),
        ({"method": "no-such"}, "no method 'no-such'"),
        ({"settings": {"no_such": 1}}, "no_such"),
        ({"revision": 7}, "made for revision 7 of EASE, weighted markets, and revision 1 is installed"),
        ({"sources": []}, "learns from source markets"),
    ],
)
def test_nonsense_is_refused_before_any_work(corpus: Corpus, changes: dict[str, Any], words: str) -> None:
    monitor = QuietMonitor()
    with pytest.raises(SpecError, match=words):
        run(job(corpus, **changes), corpus, monitor)
    assert not monitor.progress


def test_a_revision_parts_what_was_run_before_from_what_is_run_now(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = job(corpus), job(corpus, revision=2)
    assert first.fingerprint() != second.fingerprint()
    assert first.configuration() != second.configuration()
    assert first.fingerprint() == hashed_without_revision(first)
    member = {"method": "popularity", "settings": {}}
    blends = [
        job(corpus, method="blend", settings={}, members=[member | added, {"method": "ease", "settings": {}}])
        for added in ({}, {"revision": 1}, {"revision": 2})
    ]
    assert blends[0].fingerprint() == blends[1].fingerprint() != blends[2].fingerprint()
    assert [one.revision for one in member_jobs(blends[2])] == [2, 1]
    with pytest.raises(SpecError, match="made for revision 2 of Popularity"):
        run(blends[2], corpus, QuietMonitor())
    raised = replace(get("ease"), revision=4)
    monkeypatch.setitem(registry._methods, "ease", raised)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"target": "jp", "method": "ease"}), encoding="utf-8")
    spec = parse(JobSpec, read_body(path, corpus))
    assert spec.revision == 4  # a file that names none means the installed one
    run(spec, corpus, QuietMonitor())
    members = [{"method": "ease"}, {"method": "popularity"}, {"method": "ease", "revision": 3}]
    path.write_text(json.dumps({"target": "jp", "method": "blend", "members": members}), encoding="utf-8")
    assert [one.revision for one in parse(JobSpec, read_body(path, corpus)).members] == [4, 1, 3]


def hashed_without_revision(spec: JobSpec) -> str:
    body = spec.model_dump(mode="json", exclude={"budget", "members", "revision"}) | {"device": "cpu"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_a_missing_gpu_is_an_error(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="this machine has none"):
        run(job(corpus, budget={"device": "gpu"}), corpus, QuietMonitor())


LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def printed(code: str, told: dict[str, str]) -> str:
    """What a process of its own prints after `settle`, as torch and oneDNN ask once; `told`: what the user has set."""
    around = {name: value for name, value in os.environ.items() if name not in LIMITS}
    whole = f"from cmr_core.experiment import environment, settle; settle(1); {code}"
    done = subprocess.run(
        [sys.executable, "-c", whole], env={**around, **told}, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


@pytest.mark.parametrize("wanted", [None, "default"])
def test_a_process_takes_the_vector_instructions_that_other_machines_have_too(wanted: str | None) -> None:
    found = printed("print(environment('cpu')['vectors'])", {"ATEN_CPU_CAPABILITY": wanted} if wanted else {})
    has = torch.cpu.get_capabilities()
    wide = "AVX2" if has.get("avx2") else found  # no claim about other kinds of processor
    assert found == ("DEFAULT" if wanted else wide)


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx2"), reason="this processor has no AVX2")
def test_so_does_the_library_that_torch_leaves_some_functions_to() -> None:
    """GELU is oneDNN's, which rounds otherwise with each kind of vector instructions."""
    code = "import torch; x = torch.linspace(-4, 4, 1000); print(torch.nn.functional.gelu(x).numpy().tobytes().hex())"
    settled = printed(code, {})
    assert settled == printed(code, {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == printed(code, {"DNNL_MAX_CPU_ISA": "AVX2"})
    assert settled != printed(code, {"DNNL_MAX_CPU_ISA": "SSE41"})  # what the user has set is left alone


def test_on_a_gpu_every_sum_has_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        assert torch_device("cpu") == "cpu"
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch_device("gpu") == "cuda:0"
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(before)


def test_a_cancel_is_seen_at_every_report(corpus: Corpus) -> None:
    everything = QuietMonitor()
    run(job(corpus), corpus, everything)
    for after in range(len(everything.progress)):
        monitor = QuietMonitor(cancel_after=after)
        with pytest.raises(Cancelled):
            run(job(corpus), corpus, monitor)
        assert len(monitor.progress) <= after + 1


def test_a_job_file_without_a_corpus_means_the_data_at_hand(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"target": "jp", "method": "popularity"}), encoding="utf-8")
    assert read_body(path, corpus)["corpus"] == corpus.digest
    other = replace(corpus, markets={name: corpus.markets[name] for name in ("jp", "de")})
    path.write_text(json.dumps({"target": "jp", "method": "popularity", "corpus": other.digest}), encoding="utf-8")
    assert read_body(path, corpus)["corpus"] == other.digest


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"target": "jp"}', '{"target": "jp", "method": "ease", "x": 1}'])
def test_a_bad_job_file_is_refused(corpus: Corpus, tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        parse(JobSpec, read_body(path, corpus))


@pytest.fixture
def market_files(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for name in ("de", "jp"):
        lines = ["userId itemId rate date"]
        for user in range(12):
            for item in rng.choice(15, size=7, replace=False):
                lines.append(f"u{user} p{item} 5 2019-01-{rng.integers(1, 28):02d}")
        paths.append(tmp_path / f"{name}_5core.txt")
        paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [str(path) for path in paths]


def test_the_command_line_writes_what_it_says(
    tmp_path: Path, market_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "job.json", tmp_path / "out"
    body = {"target": "jp", "sources": ["de"], "method": "itemknn-weighted", "split": {"kind": "ratio"}}
    path.write_text(json.dumps(body), encoding="utf-8")
    assert main([str(path), "--data", *market_files, "--out", str(out)]) == 0
    assert "ndcg@10" in capsys.readouterr().out
    summary = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    per_user, top = pd.read_parquet(out / "per_user.parquet"), pd.read_parquet(out / "topk.parquet")
    assert summary["test"]["ndcg@10"] == pytest.approx(per_user["ndcg@10"].mean())
    assert summary["protocol"] == "ratio 80/10/10 · catalogue"
    first = top[(top.user == per_user.user[0]) & (top["rank"] == 1)].iloc[0]
    assert first.user_id == per_user.user_id[0]
    assert len(pd.read_parquet(out / "held_out.parquet")) >= len(per_user)
    model = rebuild("item-item", load_file(out / "model.safetensors"), None, {})  # type: ignore[arg-type]
    assert model.score(np.array([first.user]))[0, first["item"]] == pytest.approx(first.score)


@pytest.mark.parametrize(
    ("body", "words"), [({"target": "jp", "method": "ease", "corpus": "0" * 64}, "Load the data"), ({}, "target")]
)
def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, market_files: list[str], capsys: pytest.CaptureFixture[str], body: dict[str, str], words: str
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    assert main([str(path), "--data", *market_files]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def xmarket() -> Corpus:
    if not FILES.is_dir():
        pytest.skip("the XMarket files are not here; set CMR_TEST_DATA to the folder that holds xmarket-electronics")
    return read_corpus(sorted(FILES.glob("*_5core.txt")), name="xmarket", layout=Layout(kind="xmarket"))


@pytest.mark.parametrize(("method", "split", "candidates", "target", "reported"), CASES)
def test_the_references_reproduce_the_table_of_the_specification(
    xmarket: Corpus,
    method: str,
    split: dict[str, Any],
    candidates: str,
    target: str,
    reported: tuple[float, float],
) -> None:
    """Within .02, as the mean of five draws: one draw of candidates, and of the order of a day, moves `in` by .02.

    One draw is enough where it moves less, in larger markets; in middle ones not where all of it is drawn.
    """
    unsteady = ("jp", "in", "de", "fr", "mx") if split == RANDOM else ("jp", "in")
    found = []
    for seed in range(5 if target in unsteady else 1):
        spec = job(
            xmarket,
            target=target,
            sources=sorted(set(xmarket.markets) - {target}),
            method=method,
            settings=METHODS[method],
            split={"kind": "leave-one-out", "seed": seed, **split},
            evaluation={"candidates": candidates, "seed": seed},
        )
        means = run(spec, xmarket, QuietMonitor()).test.means()
        found.append((means["recall@10"], means["ndcg@10"]))
    assert np.mean(found, axis=0) == pytest.approx(reported, abs=0.02)


@pytest.mark.parametrize("target", sorted(EXPECTED))
def test_ease_on_the_xmarket_files_is_where_it_should_be(target: str) -> None:
    if not FILES.is_dir():
        pytest.skip("the XMarket files are not here; set CMR_TEST_DATA to the folder that holds xmarket-electronics")
    corpus = read_corpus([FILES / f"{target}_5core.txt"], name="xmarket", layout=Layout(kind="xmarket"))
    settings = {"regularisation": 30.0, "tune": False}
    spec = job(corpus, target=target, sources=[], method="ease", settings=settings, split={"kind": "ratio"})
    assert run(spec, corpus, QuietMonitor()).test.means()["ndcg@10"] == pytest.approx(EXPECTED[target], abs=0.03)
