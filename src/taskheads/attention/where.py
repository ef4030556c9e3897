"""Where in a batch: some rows, some positions; as tokens, and as keys that a pattern looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from taskheads.backbone.ragged import RaggedBatch


@dataclass(frozen=True)
class At:
    """Some tokens of some rows.

    Attributes
    ----------
    positions: in the row, from 0 on, or from the end with -1 for the last token; None for all. In generation
        a pass holds the new tokens alone: positions from 0 on count from the row's first token, and -1 is
        the token that the next one comes out of.
    rows: their numbers in the caller's sequence (`RaggedBatch.rows`); None for all.
    """

    positions: Sequence[int] | None = None
    rows: Sequence[int] | None = None

    def tokens(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> torch.Tensor:
        """Which tokens of the batch they are, bool [N]; `past`: how many came before each row's in earlier
        passes."""
        before = self._before(batch, past)
        position = batch.positions + before[batch.row_of_token]
        return self._chosen(batch, position, (batch.counts + before)[batch.row_of_token])

    def keys(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> torch.Tensor:
        """Which keys they are for each token of the batch, bool [N, longest row]: as the last dimension of
        the sites `scores` and `pattern`."""
        ends = (batch.counts + self._before(batch, past))[batch.row_of_token][:, None]
        position = torch.arange(int(ends.max()), device=ends.device)[None].expand(len(ends), -1)
        return self._chosen(batch, position, ends) & (position < ends)

    def _before(self, batch: RaggedBatch, past: Sequence[int] | None) -> torch.Tensor:
        return torch.as_tensor(past or [0] * len(batch), device=batch.ids.device)

    def _chosen(self, batch: RaggedBatch, position: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        chosen = torch.ones_like(position, dtype=torch.bool)
        if self.positions is not None:
            chosen &= _one_of(position, self.positions) | _one_of(position - end, self.positions)
        if self.rows is not None:
            numbers = torch.tensor(batch.rows, device=position.device)[batch.row_of_token]
            mine = _one_of(numbers, self.rows)
            chosen &= mine if position.dim() == 1 else mine[:, None]
        return chosen


def _one_of(values: torch.Tensor, some: Sequence[int]) -> torch.Tensor:
    return torch.isin(values, torch.tensor(list(some), dtype=values.dtype, device=values.device))
