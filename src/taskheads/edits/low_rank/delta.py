"""Differences of low rank to linear maps: the primitive of LoRA and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from taskheads.edits.low_rank.grouped import added


class LowRank(nn.Module):
    """What is added to the output of a linear map: `scale` · (x Aᵀ) B, with A [r, in] and B [r, out].

    A begins as PEFT begins it (Kaiming uniform with slope √5), B as zero, so that nothing is added at first.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, inputs), a=math.sqrt(5)))
        self.up = nn.Parameter(torch.zeros(rank, outputs))
        self.rank, self.scale = rank, scale

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        return torch.addmm(output, x @ down.T, up, alpha=self.scale)

    def weight(self) -> torch.Tensor:
        """The same as a difference to the map's weight, [out, in]."""
        return self.scale * self.up.T @ self.down

    @staticmethod
    def by_slice(
        deltas: Sequence[LowRank | None], sizes: Sequence[int]
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What applies each to its own slice of the tokens, in place in what the map gave, which nobody else
        has yet."""
        chosen = [delta for delta in deltas if delta is not None]
        scales = [None if delta is None else delta.scale for delta in deltas]

        def change(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            kind = output.dtype
            # Without the detour of a module's attributes: there may be hundreds.
            downs, ups = ([delta._parameters[name] for delta in chosen] for name in ("down", "up"))
            return added(output, x.to(kind), sizes, scales, _as(kind, downs), _as(kind, ups))

        return change


def _as(kind: torch.dtype, factors: Iterable[Any]) -> list[torch.Tensor]:
    return [each if each.dtype == kind else each.to(kind) for each in factors]
