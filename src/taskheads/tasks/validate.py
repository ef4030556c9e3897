"""What must be true of a task's examples before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskheads.errors import DataError
from taskheads.tasks.labels import malformed_tags, unknown_label_error, unknown_labels
from taskheads.tasks.task import SPLITS, Examples, Task


def validate(task: Task, splits: Mapping[str, Examples]) -> None:
    """Check a task whose rows have been checked one by one (by `examples.labelled`).

    Raises
    ------
    DataError: no train rows, one class only (or one number), a malformed BIO tag, or a label in dev or test
        that `task.labels` does not have. The message names the file, row, column and value.
    """
    if not len(splits["train"]):
        other = next((splits[name] for name in SPLITS if len(splits[name])), None)
        raise DataError(
            f"task {task.name!r} has no train rows",
            file=other.sources[0][0] if other else None,
            column=task.label,
        )
    if task.kind == "embed":
        return
    if task.kind == "tag":
        for name in SPLITS:
            _check_bio(task, splits[name])
    _check_variety(task, splits["train"])
    for name in SPLITS if task.labels else ():
        for index, label in unknown_labels(task, splits[name]):
            raise unknown_label_error(task, splits[name], index, label)


def _check_bio(task: Task, examples: Examples) -> None:
    tags_here = {tag for tags in examples.targets for tag in tags}
    bad = set(malformed_tags(tags_here.union(map(str, task.labels))))
    for tags, (path, row) in zip(examples.targets, examples.sources, strict=True) if bad else ():
        for position, tag in enumerate(tags, start=1):
            if tag in bad:
                problem = f"malformed BIO tag of word {position}: O, B-… and I-… are tags"
                raise DataError(problem, file=path, row=row, column=task.label, value=tag)


def _check_variety(task: Task, train: Examples) -> None:
    """Nothing can be learned from targets that never change."""
    seen: Any = next(iter(train.targets))
    if task.kind == "tag":
        seen = seen[0]
        same = all(tag == seen for tags in train.targets for tag in tags)
    elif task.kind == "multilabel":
        same = all(set(labels) == set(seen) for labels in train.targets)
    else:
        same = all(target == seen for target in train.targets)
    if same:
        what = "one class only" if task.labels or task.kind == "multilabel" else "one number only"
        raise DataError(
            f"{what} in the {len(train)} train rows: there is nothing to learn",
            file=train.sources[0][0],
            row=train.sources[0][1],
            column=task.label,
            value=seen,
        )
