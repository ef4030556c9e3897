"""Rungs on a few rows."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskheads.compare.bench.FEWEST", 4)
