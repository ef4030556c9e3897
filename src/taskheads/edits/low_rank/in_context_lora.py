"""In-Context LoRA: rows that belong together stand in one panel, and a LoRA of the task learns on panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded
from taskheads.edits.low_rank.lora import Lora
from taskheads.edits.maps import Targets
from taskheads.errors import DataError
from taskheads.methods import method


def panel(rows: Sequence[Encoded]) -> Encoded:
    """Rows of tokens as one row, in which every token may attend to those of all (under a causal backbone, to
    those before it). Words and segments keep their places.

    The same rows as rows of their own in a batch are the panel with attention between its parts cut, which is
    what a block-diagonal mask does; exactly so where positions are relative.
    """
    if not rows:
        raise DataError("a panel needs one row at least")
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    segments = [np.zeros(len(row), np.int64) if row.segments is None else row.segments for row in rows]
    words = [
        np.where(row.words < 0, row.words, row.words + start)
        for row, start in zip(rows, starts, strict=True)
        if row.words is not None
    ]
    return Encoded(
        np.concatenate([row.ids for row in rows]),
        np.concatenate(segments) if any(row.segments is not None for row in rows) else None,
        np.concatenate(words) if len(words) == len(rows) else None,
    )


def image_panel(images: torch.Tensor, columns: int) -> torch.Tensor:
    """Images [k, channels, height, width] of equal size as one, `columns` side by side, filled row by row:
    [channels, k / columns · height, columns · width]."""
    if columns < 1 or len(images) % columns:
        raise DataError(f"{len(images)} images do not fill a panel of {columns} columns")
    lines = images.unflatten(0, (-1, columns))  # [lines, columns, channels, height, width]
    return lines.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)


@method("in_context_lora", family="edits", paper="arXiv:2410.23775")
class InContextLora(Lora):
    """In-Context LoRA: a LoRA of each task on an unchanged transformer whose rows are panels, related rows
    laid side by side so that attention relates them.

    Huang et al. 2024, section 3, for images made by a diffusion transformer. Of it here: the LoRA of rank 16
    on all maps of attention, one a task, switched by the task of a row; and the collators of its panels,
    `panel` for tokens and `image_panel` for images.

    Parameters
    ----------
    targets, rank, alpha, layers: as those of `lora`.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        targets: Targets = ("attention", "output"),
        rank: int = 16,
        alpha: float = 16.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, tasks, targets=targets, rank=rank, alpha=alpha, **options)
