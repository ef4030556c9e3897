"""What every test may ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from taskheads.backbone.backbone import Backbone

Write = Callable[[str, Any], Path]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features are kept in a folder of the tests, not among the user's, which other code may have made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKHEADS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public benchmark sets: `TASKHEADS_DATA`, by default `../shared/data`.

    Without it the tests on real data are skipped, but never where `CI` is set: there they fail.
    """
    default = Path(__file__).parents[1] / "../shared/data"
    folder = Path(os.environ.get("TASKHEADS_DATA", default)).resolve()
    if not folder.is_dir():
        message = f"the benchmark data is not in {folder}: set TASKHEADS_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Backbone:
    """The small pretrained sentence encoder; read it, do not change it."""
    from taskheads.backbone.backbone import Backbone

    return Backbone.load("minilm")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, content)`: bytes or a text as they are, a list of rows as JSON Lines."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
