"""Differences of low rank to linear maps: the primitive of LoRA and its kin."""

from __future__ import annotations

import math

import torch
from torch import nn


class LowRank(nn.Module):
    """What is added to the output of a linear map: `scale` · (x A) B, with A [in, r] and B [r, out].

    A begins as PEFT begins it (Kaiming uniform with slope √5), B as zero, so that nothing is added at first.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(rank, inputs), a=math.sqrt(5)).T.contiguous()
        )
        self.up = nn.Parameter(torch.zeros(rank, outputs))
        self.scale = scale

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        return torch.addmm(output, x @ down, up, alpha=self.scale)

    def weight(self) -> torch.Tensor:
        """The same as a difference to the map's weight, [out, in]."""
        return self.scale * (self.down @ self.up).T
