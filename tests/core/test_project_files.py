"""The files that start, pack and explain the project agree with each other and with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmr_core.spec import StudySpec, parse

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> set[str]:
    """Names of the command line's commands, `data add` and the like included."""
    import typer.main

    from worker.cli import app

    group = typer.main.get_command(app)
    names = set(group.commands)  # type: ignore[attr-defined]
    return names | {f"data {name}" for name in group.commands["data"].commands}  # type: ignore[attr-defined]


def pins(requirements: list[str]) -> dict[str, str]:
    found = {}
    for text in requirements:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;]+)", text)
        assert match or text.startswith("cmr["), f"{text!r} is not pinned exactly"
        if match:
            found[match[1].lower().replace("_", "-")] = match[2]
    return found


def test_every_dependency_is_pinned_as_in_the_constraints() -> None:
    locked = pins((ROOT / "constraints.txt").read_text().split())
    wanted = pins(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    assert wanted.items() <= locked.items()


def test_constraints_name_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line), line


def test_each_compose_service_says_how_it_is() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"], name
        assert {"image", "build"} & set(service), name


def test_compose_has_no_default_secret_and_the_example_has_none_either() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in re.findall(r"\$\{(\w*PASSWORD[^}]*)}", text):
        assert variable.endswith(":?set it in .env"), variable
    for name in ("CMR_REDIS_PASSWORD", "CMR_POSTGRES_PASSWORD"):
        assert re.search(rf"^{name}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)


def test_compose_listens_on_this_machine_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(re.match(r"\$\{CMR_\w*BIND:-127\.0\.0\.1}:", port) for port in ports)


def test_every_variable_of_compose_stands_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())) - {"CMR_TORCH_INDEX"}
    assert used == set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_compose_calls_commands_that_exist() -> None:
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            assert service["command"][0] in commands(), name
            check = service["healthcheck"].get("test", [])
            assert not check or check[:5] == ["CMD", "python", "-P", "-m", "worker.cli"]


def test_gpu_worker_starts_only_with_its_profile() -> None:
    worker = COMPOSE["services"]["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_dockerfile_copies_what_is_there_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert name in allowed, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_and_files_that_exist(document: Path) -> None:
    text = document.read_text()
    known = commands()
    for words in re.findall(r"\./cmr ((?:data )?[a-z]+)", text):
        assert words in known, words
    for link in re.findall(r"]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link


def test_document_on_methods_shows_a_method_that_conforms(tmp_path: Path) -> None:
    """The example is tested in a process of its own, so that the registry of this one stays as it is."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-method.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "example_method.py").write_text(code[1])
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    tests = [
        "-p",
        "example_method",
        "tests/conformance/test_methods.py",
        "-k",
        "recent",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout[-300:]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.name)
def test_studies_name_methods_and_settings_that_exist(path: Path) -> None:
    from cmr_core.models import registry

    study = parse(StudySpec, yaml.safe_load(path.read_text()))
    for choice in study.methods:
        values = {name: options[0] for name, options in choice.grid.items()}
        for name, options in choice.grid.items():
            for option in options:
                registry.get(choice.method).configure({**choice.settings, **values, name: option})


def test_study_in_the_document_on_data_is_valid() -> None:
    from cmr_core.models import registry

    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "your-own-data.md").read_text(), re.DOTALL)
    assert text
    for choice in parse(StudySpec, yaml.safe_load(text[1])).methods:
        registry.get(choice.method).configure({name: options[0] for name, options in choice.grid.items()})


def test_nothing_that_executes_data() -> None:
    """No file of ours can run what it reads: no pickles, no shells, no code from text."""
    words = ["pick" + "le", "torch." + "load", r"(?<![.\w])ev" + r"al\(", r"(?<![.\w])ex" + r"ec\("]
    words += [r"yaml\.lo" + r"ad\(", "shell=" + "True", "unsafe_allow_" + "html=True", "allow_pick" + "le=True"]
    ours = [p for folder in ("cmr_core", "worker", "app", "migrations") for p in (ROOT / folder).rglob("*.py")]
    found = []
    for path in ours:
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)  # words about it are allowed
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if re.search(word, code)]
    assert not found
    assert len(ours) > 40


def test_queue_is_light() -> None:
    """A torch operation before a fork would hang the child, and pages must not pay for it."""
    code = "import sys, worker.queue, worker.cli; sys.exit(bool({'torch', 'streamlit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
