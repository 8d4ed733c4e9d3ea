"""Who may import whom, read from the source; and what importing the queue must not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("cmr_core", "worker", "app", "migrations", "tests", "benchmarks")
LAYERS = ("errors spec interfaces", "data", "evaluation", "training", "models", "explain", "experiment export __main__")
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
FORBIDDEN = {  # package -> top-level modules that it never imports
    "cmr_core": ("celery", "kombu", "streamlit", "sqlalchemy", "alembic", "redis", "worker", "app", "migrations"),
    "worker": ("streamlit", "app", "tests", "benchmarks"),
    "app": ("celery", "kombu", "redis", "tests", "benchmarks", "migrations"),
    "migrations": ("app", "cmr_core", "celery", "streamlit"),
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that the file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports out in full"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_in_one_direction(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(package)
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert files(package)
    assert wrong == []


def test_pages_see_the_worker_only_through_store_queue_and_settings() -> None:
    allowed = ("worker.store", "worker.queue", "worker.settings")
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files("app")
        for name in imported(path)
        if name.startswith("worker.") and not name.startswith(allowed)
    ]
    assert wrong == []


def test_each_part_of_the_core_imports_only_to_its_left() -> None:
    wrong = []
    for path in files("cmr_core"):
        here = path.relative_to(ROOT / "cmr_core").parts[0].removesuffix(".py")
        for name in imported(path):
            parts = name.split(".")
            if here == "__init__" or parts[0] != "cmr_core" or len(parts) < 2:
                continue
            if LEVEL[parts[1]] > LEVEL[here]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_only_the_settings_read_the_environment() -> None:
    """Passing the environment on to a child process is no reading of settings."""
    reading = ("os.getenv", 'os.environ["CMR_', 'os.environ.get("CMR_', "environ.get('CMR_")
    wrong = [
        str(path.relative_to(ROOT))
        for package in ("cmr_core", "worker", "app", "migrations")
        for path in files(package)
        if any(word in path.read_text(encoding="utf-8") for word in reading)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module", ["worker.queue", "worker.tasks", "worker.reaper", "worker.store.session", "worker.cli"]
)
def test_importing_it_does_not_bring_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"{module} imports torch"
