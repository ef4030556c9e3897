"""A small model on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_models import tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a task of every kind; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model().save(folder)
    return folder
