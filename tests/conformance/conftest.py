"""Fits that the conformance tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.conformance.board import Fits


@pytest.fixture(scope="session")
def fits() -> Fits:
    return Fits()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from a second thread, and on a busy machine lose a factor of ten."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
