"""Fits that the conformance tests share."""

from __future__ import annotations

import pytest

from tests.conformance.board import Fits


@pytest.fixture(scope="session")
def fits() -> Fits:
    return Fits()
