"""The answers of a cluster, which is a local one here, are those of one process, in the order of the rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskheads.bulk.cluster import Worker
from taskheads.bulk.draft import kept_rows
from taskheads.bulk.job import Job
from taskheads.bulk.predict import Prediction
from taskheads.errors import ConfigError, DataError
from taskheads.model.model import Model
from taskheads.model.prediction import BLOCK
from tests.small_models import rows

TASKS = ["topic", "find"]
ROWS = [*rows(2 * BLOCK + 100), "a text alone", {"title": "home"}, *rows(50)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Three processors, which all tests share."""
    ray = pytest.importorskip("ray", reason="the extra `distributed` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def close(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, abs=1e-5) if isinstance(a, float) else a == b


def test_it_goes_on_where_one_process_stopped_and_answers_the_same(
    cluster: None, folder: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.jsonl"
    expected = list(Prediction(folder, source, tasks=TASKS, scores=True))
    told: list[int] = []

    def interrupted(_stage: str, done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Prediction(folder, source, tasks=TASKS, scores=True, progress=interrupted).write(output)
    assert kept_rows(output) == BLOCK
    Prediction(
        folder,
        source,
        tasks=TASKS,
        scores=True,
        engine="ray",
        workers=2,
        progress=lambda _stage, done, _total: told.append(done),
    ).write(output, resume=True)
    made = [json.loads(line) for line in output.read_text().splitlines()]
    assert told == [2 * BLOCK, len(ROWS)]
    assert made[:BLOCK] == expected[:BLOCK]
    assert len(made) == len(expected)
    assert all(close(a, b) for a, b in zip(made, expected, strict=True))


def test_a_row_that_cannot_be_read_is_named(cluster: None, folder: Path, write, tmp_path: Path) -> None:
    path = write("rows.jsonl", ["a", "b", 7])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3, value 7: an object or a text is needed"):
        Prediction(folder, path, tasks=["topic"], engine="ray").write(tmp_path / "a.jsonl")
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_worker_names_the_row_that_it_cannot_answer(folder: Path, write) -> None:
    path = write("rows.jsonl", '"a"\n\n{"text": 7}\n')
    asked = Job.of(Model.load(folder), folder, path, tasks=["topic"])
    (block,) = asked.blocks()
    (told,) = Worker(asked)({"block": [json.dumps({"rows": vars(block)})]})["made"]
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3, column 'text', value 7: a text is needed"):
        raise DataError(**json.loads(told)["error"])


def test_what_a_cluster_cannot_do(cluster: None, folder: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match="a cluster cannot read a pipe"):
        next(iter(Prediction(folder, "-", engine="ray")))
    with pytest.raises(ConfigError, match="64 workers need as many processors; the cluster has 3"):
        next(iter(Prediction(folder, source, engine="ray", workers=64)))


def test_without_ray_it_says_what_to_install(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"package ray.*pip install 'taskheads\[distributed\]'"):
        next(iter(Prediction(folder, source, engine="ray")))
