"""Rows whose context says one thing while the model has another by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from taskheads.attention.asked import last_vectors
from taskheads.attention.changed import Changing
from taskheads.attention.measures import Measure, logit_difference
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch

Source = Literal["context", "memory"]


@dataclass(frozen=True)
class Conflict:
    """A batch of such rows.

    Attributes
    ----------
    batch: rows that are answered by the token after their last one.
    context, memory: for each row the token that the context says, and the one that the model knows.
    """

    batch: RaggedBatch
    context: Sequence[int]
    memory: Sequence[int]

    def difference(self, language_head: nn.Module) -> Measure:
        """The logit of what the context says less that of what the model knows [rows]."""
        return logit_difference(language_head, self.context, self.memory)

    def answered_by(self, source: Source, language_head: nn.Module) -> Measure:
        """1 for a row whose likeliest token is what this source says, 0 for any other [rows]."""
        says = torch.as_tensor(self.context if source == "context" else self.memory)
        return lambda vectors: (language_head(vectors).argmax(-1) == says.to(vectors.device)).float()


@torch.inference_mode()
def share(
    backbone: Backbone,
    language_head: nn.Module,
    conflict: Conflict,
    source: Source,
    changing: Changing | None = None,
) -> float:
    """The share of rows that are answered as `source` says."""
    batch = conflict.batch
    changes = None if changing is None else changing(batch, [0] * len(batch))
    return float(
        conflict.answered_by(source, language_head)(last_vectors(backbone, batch, changes)).double().mean()
    )
