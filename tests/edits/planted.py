"""Backbones, edits with weights that matter, and batches of several tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.edit import Edit, edit_class, made
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.test_sites import rows

TASKS = ("first", "second", "third")


def backbone_of(architecture: str) -> Backbone:
    return Backbone(tiny(copy.deepcopy(CONFIGS[architecture])))


def stirred(edit: Edit, seed: int = 0, by: float = 0.1) -> Edit:
    """The edit with noise on every parameter, so that it changes something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in edit.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return edit


def edits_of(
    backbone: Backbone, method: str, tasks: Sequence[str] = TASKS, **options: Any
) -> dict[str, Edit]:
    """An edit of this method for each task, one for all where it is shared; all of them stirred."""

    if edit_class(method).shared:
        edit = stirred(made(method, backbone, tasks, options))
        return dict.fromkeys(tasks, edit)
    return {task: stirred(made(method, backbone, [task], options), seed) for seed, task in enumerate(tasks)}


def rows_of(tasks: Sequence[str] = TASKS) -> dict[str, list[Encoded]]:
    """Five rows of different lengths for each task."""
    return {task: rows(seed) for seed, task in enumerate(tasks)}


def batch_of(chosen: dict[str, list[Encoded]]) -> RaggedBatch:
    """One batch of them all, sorted by task."""
    return RaggedBatch(
        [row for each in chosen.values() for row in each],
        tasks=[(task, len(each)) for task, each in chosen.items()],
    )
