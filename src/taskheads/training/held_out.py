"""Rows to choose on, for a task which has too few of them."""

from __future__ import annotations

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
    more, fewer = train.at(moved), train.at(kept)
    longer = Examples(
        tuple([*old, *new] for old, new in zip(dev.inputs, more.inputs, strict=True)),
        [*dev.targets, *more.targets],
        [*dev.sources, *more.sources],
    )
    return replace(data, splits=data.splits | {"train": fewer, "dev": longer})
