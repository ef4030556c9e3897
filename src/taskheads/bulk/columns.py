"""The types of answers as columns: told by the tasks, so that they are the same whatever the rows hold."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from taskheads.errors import ConfigError
from taskheads.tasks.labels import is_bio
from taskheads.tasks.task import Task

_SPAN = {"label": pa.string(), "start": pa.int64(), "end": pa.int64(), "text": pa.string()}


def schema_of(tasks: Iterable[Task], *, scores: bool = False) -> pa.Schema:
    """A column of nullable structs for each task, with the fields of its answers in JSON.

    Labels are strings, but int64 where the task is ordinal; numbers are float64, embeddings lists of float32;
    with `scores`, the probabilities of all labels are a map from label to float64. A row that lacks a task's
    inputs is null.

    Raises ConfigError for a kind of task whose answers have no columns.
    """
    return pa.schema([pa.field(task.name, _type_of(task, scores)) for task in tasks])


def _type_of(task: Task, scores: bool) -> pa.DataType:
    fields = _fields(task)
    if scores and task.labels and task.kind != "tag":
        fields["scores"] = pa.map_(pa.string(), pa.float64())
    return pa.struct(list(fields.items()))


def _fields(task: Task) -> dict[str, pa.DataType]:
    match task.kind:
        case "classify":
            return {"label": pa.string(), "score": pa.float64()}
        case "pair" if task.labels:
            return {"label": pa.string(), "score": pa.float64()}
        case "multilabel":
            return {"labels": pa.list_(pa.string())}
        case "regress" | "pair":
            return {"value": pa.float64()}
        case "ordinal":
            return {"value": pa.int64(), "score": pa.float64()}
        case "tag" if is_bio(map(str, task.labels)):
            return {"tags": pa.list_(pa.string()), "spans": pa.list_(pa.struct(list(_SPAN.items())))}
        case "tag":
            return {"tags": pa.list_(pa.string())}
        case "embed":
            return {"embedding": pa.list_(pa.float32()), "similarity": pa.float64()}
    raise ConfigError(f"answers of {task.kind} tasks are not written as Parquet; name a .jsonl file")
