"""A planted model that is torn between its context and what it knows, by how well it knows it."""

from __future__ import annotations

import torch

from taskheads.attention.conflicts import Conflict
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import Planted, plant, prompts
from taskheads.attention.planted.wiring import SUBJECTS
from taskheads.backbone.ragged import RaggedBatch

# How loud the memory of each subject is; the context of any is 2.
LOUDNESS = (1.0, 1.6, 3.0, 5.0, 8.0)


def torn(architecture: str, count: int = 40) -> tuple[Planted, AttentionHeads, Conflict]:
    """The model, its heads, and rows in which context and memory say different things."""
    planted = plant(architecture, ["context", "memory"])  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    layer, head = planted.heads["memory"]
    with torch.no_grad():
        heads.output_weight(layer)[head, list(SUBJECTS)] *= torch.tensor(LOUDNESS)[:, None]
    asked = prompts("context", count)
    return planted, heads, Conflict(RaggedBatch(asked.rows), asked.answers, asked.others)


def subjects(conflict: Conflict) -> torch.Tensor:
    """Which subject each row is about, from 0 on."""
    batch = conflict.batch
    return batch.ids[batch.starts + batch.counts - 1] - SUBJECTS[0]
