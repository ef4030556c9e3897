"""How the tests of benchmarks get at the scripts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

Script = Callable[[str], Any]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Script]:
    """Import a script of `benchmarks/` as it is when it is run."""
    import torch

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TASKHEADS_DATA", str(data_dir))
    for name in ("RAYON_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
