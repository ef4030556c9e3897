"""How alike tasks are by what their tuned backbones make of the same rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.features import extract
from taskheads.backbone.reads import Read
from taskheads.sharing.similarity import representation_similarity
from taskheads.tasks.task import TaskData

# Rows of all tasks together that are compared on.
_ROWS = 512
_READ = Read("output", "mean")


def tuned_alike(backbones: Mapping[str, Backbone], tasks: Mapping[str, TaskData]) -> np.ndarray | None:
    """`representation_similarity` [T, T] of the tasks' backbones, in the order of `tasks`: of the mean
    vectors of their outputs, for rows of all tasks in equal shares, from train.

    Where two tasks have one backbone it is 1; None where all have, which tells nothing.
    """
    distinct = list(dict.fromkeys(backbones[name] for name in tasks))
    if len(distinct) < 2:
        return None
    texts: list[str] = []
    for data in tasks.values():
        rows = data.splits["train"].thinned(max(1, _ROWS // len(tasks))).inputs[0]
        texts += [row if isinstance(row, str) else " ".join(row) for row in rows]
    seen = [extract(each, "text", texts, [_READ])[_READ] for each in distinct]
    found = representation_similarity([each for each in seen if isinstance(each, torch.Tensor)])
    at = [distinct.index(backbones[name]) for name in tasks]
    return found[np.ix_(at, at)]
