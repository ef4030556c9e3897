"""Rows to choose on, for a task which has too few of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from taskheads.tasks.task import Examples, TaskData

# Dev rows below which a choice made on them would be chance.
ENOUGH = 20


def with_dev(data: TaskData) -> TaskData:
    """The data with at least `ENOUGH` dev rows, as far as a fifth of train can make up for those missing.

    A suite has dev rows, but none of them may have this task's label.
    """
    train, dev = data.splits["train"], data.splits["dev"]
    count = min(ENOUGH - len(dev), len(train) // 5)
    if count <= 0:
        return data
    moved = np.linspace(0, len(train) - 1, count).astype(int).tolist()
    kept = sorted(set(range(len(train))) - set(moved))
    return replace(
        data,
        splits=data.splits
        | {"train": _rows((train, kept)), "dev": _rows((dev, range(len(dev))), (train, moved))},
    )


def _rows(*parts: tuple[Examples, Iterable[int]]) -> Examples:
    """These rows of these examples, one part after the other."""

    def taken(lists: Iterable[list]) -> list:
        return [each[row] for each, (_, rows) in zip(lists, parts, strict=True) for row in rows]

    columns = zip(*(examples.inputs for examples, _ in parts), strict=True)
    return Examples(
        tuple(map(taken, columns)),
        taken(examples.targets for examples, _ in parts),
        taken(examples.sources for examples, _ in parts),
    )
