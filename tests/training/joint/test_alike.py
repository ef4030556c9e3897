"""Backbones are compared by what they make of the same rows of all tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.backbone.branching import branched
from taskheads.backbone.features import extract
from taskheads.backbone.reads import Read
from taskheads.sharing.similarity import linear_cka
from taskheads.training.joint.alike import tuned_alike
from tests.small_models import tiny_backbone
from tests.training.joint.planted import planted


def test_tasks_are_as_alike_as_their_backbones_outputs() -> None:
    tasks = {name: planted(name) for name in ("topic", "names", "find")}
    first = tiny_backbone()
    moved = {
        name: each + torch.randn(each.shape, generator=torch.Generator().manual_seed(0)) / 10
        for name, each in first.model.named_parameters()
    }
    other = branched(first, moved)
    found = tuned_alike({"topic": first, "names": other, "find": first}, tasks)
    assert found is not None
    read = Read("output", "mean")
    rows = [data.splits["train"].inputs[0] for data in tasks.values()]
    texts = [row if isinstance(row, str) else " ".join(row) for some in rows for row in some]
    outputs = [extract(each, "text", texts, [read])[read] for each in (first, other)]
    expected = linear_cka(*outputs)
    assert 0 < expected < 0.999
    assert found == pytest.approx(np.array([[1, expected, 1], [expected, 1, expected], [1, expected, 1]]))


def test_one_backbone_for_all_tells_nothing() -> None:
    tasks = {name: planted(name) for name in ("topic", "size")}
    assert tuned_alike(dict.fromkeys(tasks, tiny_backbone()), tasks) is None
