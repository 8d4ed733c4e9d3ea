"""A filled store, made once; each test that changes something gets a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.app import seed
from worker.settings import get_settings
from worker.store.session import Store, open_store

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a filled store, not to be changed."""
    home = tmp_path_factory.mktemp("filled")
    seed.fill(home).close()
    return home


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Store]]:
    """Let the pages use the store in a folder."""

    def at(home: Path) -> Store:
        monkeypatch.setenv("CMR_HOME", str(home))
        get_settings.cache_clear()
        st.cache_resource.clear()
        return open_store()

    yield at
    get_settings.cache_clear()
    st.cache_resource.clear()


@pytest.fixture
def store(use: Callable[[Path], Store], filled: Path) -> Store:
    """The filled store, for reading."""
    return use(filled)


@pytest.fixture
def own(use: Callable[[Path], Store], filled: Path, tmp_path: Path) -> Store:
    """A copy of the filled store, for changing."""
    shutil.copytree(filled, tmp_path / "home")
    return use(tmp_path / "home")


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """Open a page at an address: `open_page("runs", study="...")`."""

    def at(page: str, **params: str | list[str]) -> AppTest:
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        app.run()
        app.switch_page(f"views/{page}.py")
        for key, value in params.items():
            app.query_params[key] = value
        return app.run()

    return at
