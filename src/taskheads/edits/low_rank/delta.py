"""Differences of low rank to linear maps: the primitive of LoRA and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from taskheads.edits.low_rank.grouped import products


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
        self.rank, self.scale = rank, scale

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        return torch.addmm(output, x @ down, up, alpha=self.scale)

    def weight(self) -> torch.Tensor:
        """The same as a difference to the map's weight, [out, in]."""
        return self.scale * (self.down @ self.up).T

    def of_rank(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B, filled up with zeros to a rank that is not lower than theirs."""
        if rank == self.rank:
            return self.down, self.up
        more = rank - self.rank
        return functional.pad(self.down, (0, more)), functional.pad(self.up, (0, 0, 0, more))

    @staticmethod
    def by_slice(
        deltas: Sequence[LowRank | None], sizes: Sequence[int]
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What applies each to its own slice of the tokens.

        Without gradients slice by slice, in place in what the map gave, which nobody else has yet. With them
        by two products for all slices, so that autograd has few steps to take however many tasks there are;
        a slice without a delta is then multiplied by zeros.
        """
        given = [delta for delta in deltas if delta is not None]
        rank = max(delta.rank for delta in given)
        parts = [(delta, size) for delta, size in zip(deltas, sizes, strict=True) if size]
        counts = [size for _, size in parts]

        def in_place(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            kind = output.dtype
            slices = zip(parts, x.to(kind).split(counts), output.split(counts), strict=True)
            # What is done for each slice is all on one thread: asked for without the detours of a module's
            # attributes, of `@`, and of a conversion to the kind that it is.
            for (delta, _), mine, its in slices:
                if delta is not None:
                    own: dict[str, Any] = delta._parameters
                    down, up = own["down"], own["up"]
                    if down.dtype != kind:
                        down, up = down.to(kind), up.to(kind)
                    its.addmm_(torch.mm(mine, down), up, alpha=delta.scale)
            return output

        def together(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            kind = output.dtype
            nothing = [torch.zeros_like(each) for each in given[0].of_rank(rank)]
            factors = [nothing if delta is None else delta.of_rank(rank) for delta, _ in parts]
            down, up = (torch.stack(each).to(kind) for each in zip(*factors, strict=True))
            scales = np.repeat([0.0 if delta is None else delta.scale for delta, _ in parts], counts)
            inner = products(x.to(kind), down, counts) * down.new_tensor(scales)[:, None]
            # Not into the map's output: where that is a view, autograd would copy the gradient.
            return products(inner, up, counts).add_(output)

        return lambda x, output: (together if torch.is_grad_enabled() else in_place)(x, output)
