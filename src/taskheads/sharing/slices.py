"""Where each task's rows stand in the tensors of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.running import Batch


@dataclass(frozen=True)
class Slices:
    """Rows sorted by task: each task is a contiguous slice of the tokens, or of the rows, of every tensor.

    Attributes
    ----------
    sizes: for each task its tokens where the pass is ragged, else its rows.
    ragged: tensors are [1, N, ...] or [N, ...], N counting the tokens of all rows; else [rows, ...] or
        [rows · longest, ...].
    longest: the length to which rows are padded; 1 in a ragged pass and for images.
    """

    sizes: tuple[int, ...]
    ragged: bool
    longest: int = 1

    @classmethod
    def of(cls, batch: Batch, rows: Sequence[int], *, ragged: bool) -> Slices:
        """The slices of a batch whose first `rows[0]` rows are the first task's, and so on."""
        if sum(rows) != len(batch):
            raise ValueError(f"the tasks have {sum(rows)} rows, the batch has {len(batch)}")
        if not isinstance(batch, RaggedBatch):
            return cls(tuple(rows), ragged=False)
        if not ragged:
            return cls(tuple(rows), ragged=False, longest=max(batch.lengths))
        ends = [sum(rows[: task + 1]) for task in range(len(rows))]
        tokens = [sum(batch.lengths[end - count : end]) for end, count in zip(ends, rows, strict=True)]
        return cls(tuple(tokens), ragged=True)

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def axis(self, shape: Sequence[int]) -> int | None:
        """The axis along which a tensor of this shape holds the batch's tokens or rows; None without one."""
        if self.ragged and len(shape) > 1 and shape[0] == 1 and shape[1] == self.total:
            return 1
        return 0 if len(shape) > 0 and shape[0] in (self.total, self.total * self.longest) else None

    def scaled(self, length: int) -> list[int]:
        """The tasks' sizes along an axis of `length`, which holds each token or row equally often."""
        return [size * (length // self.total) for size in self.sizes]

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """[n, ...] → [T, ...]: the sum of each task's part."""
        return torch.stack([part.sum(0) for part in values.split(self.scaled(len(values)))])
