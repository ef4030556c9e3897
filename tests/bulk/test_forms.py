"""Answers as Parquet: typed by the tasks, and the same as in JSON Lines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from taskheads.bulk import blocks, draft, forms, job
from taskheads.bulk.columns import schema_of
from taskheads.bulk.forms import Parquet
from taskheads.bulk.predict import Prediction
from taskheads.errors import ConfigError
from taskheads.tasks.task import Kind, Task
from tests.small_models import KINDS, rows, tiny_model


def plain(answer: Any) -> Any:
    """An answer as JSON has it: fields that are null are not there, maps are objects."""
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items() if value is not None}
    if isinstance(answer, list) and answer and isinstance(answer[0], tuple):
        return dict(answer)
    return [plain(each) for each in answer] if isinstance(answer, list) else answer


def close(a: Any, b: Any) -> bool:
    """Equal but for embeddings, which are float32 in one and six decimals in the other."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list) and a and isinstance(a[0], float):
        return a == pytest.approx(b, abs=1e-6)
    return a == b


@pytest.mark.parametrize("scores", [False, True])
def test_parquet_holds_the_answers_of_json(scores: bool, folder: Path, write, tmp_path: Path) -> None:
    # The first rows have no answer of most tasks: the types cannot come from them.
    asked = [{"title": "home"}] * 3 + rows(9) + [{"query": "home"}, "a text"]
    for ending in ("jsonl", "parquet"):
        source = write("rows.jsonl", asked)
        Prediction(folder, source, scores=scores).write(tmp_path / f"a.{ending}")
    expected = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found.column_names == list(KINDS)
    for row, answers in zip(found.to_pylist(), expected, strict=True):
        assert {name for name in row if row[name] is None} == {name for name in row if answers[name] is None}
        for name, answer in answers.items():
            if answer is not None:
                assert close(plain(row[name]), answer), name
    assert found.schema.equals(schema_of(tiny_model().tasks.values(), scores=scores))


def test_types_do_not_depend_on_the_rows(folder: Path, write, tmp_path: Path) -> None:
    schemas = []
    for asked in ([{"title": "home"}], rows(3), []):
        Prediction(folder, write("rows.jsonl", asked)).write(tmp_path / "a.parquet")
        schemas.append(parquet.read_schema(tmp_path / "a.parquet"))
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    assert schemas[0].field("stars").type == pa.struct([("value", pa.int64()), ("score", pa.float64())])
    assert schemas[0].field("like").type == pa.struct([("value", pa.float64())])


def test_row_groups_are_filled_whatever_the_blocks(
    folder: Path, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocks, draft, job):
        monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(forms, "_ROW_GROUP", 12)
    Prediction(folder, write("rows.jsonl", rows(30)), tasks=["topic"]).write(tmp_path / "a.parquet")
    metadata = parquet.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [12, 12, 6]
    made = parquet.read_table(tmp_path / "a.parquet").column("topic").to_pylist()
    assert made == [
        answer["topic"] for answer in Prediction(folder, tmp_path / "rows.jsonl", tasks=["topic"])
    ]


def test_every_kind_of_task_has_columns() -> None:
    task = Task("a", "classify", ("text",), "label", "accuracy", ("a", "b"))
    for kind in get_args(Kind):
        (field,) = schema_of([dataclasses.replace(task, kind=kind)])
        assert len(field.type) >= 1, kind
    with pytest.raises(ConfigError, match=r"strange tasks are not written as Parquet"):
        Parquet([dataclasses.replace(task, kind="strange")], scores=False)  # type: ignore[arg-type]
