"""Differences of low rank to linear maps: the primitive of LoRA and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

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

    @staticmethod
    def by_slice(
        deltas: Sequence[LowRank | None], sizes: Sequence[int]
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What applies each to its own slice of the tokens, as one step for autograd."""
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        parts = [
            (slice(start, start + size), delta)
            for start, size, delta in zip(starts, sizes, deltas, strict=True)
            if delta is not None and size
        ]
        slices = [(part, delta.scale) for part, delta in parts]
        factors = [factor for _, delta in parts for factor in (delta.down, delta.up)]
        return lambda x, output: _Sliced.apply(output, x, slices, *factors)


class _Sliced(torch.autograd.Function):
    """`LowRank` slice by slice, added in place to what the map gave: nobody else has it yet, and the gradient
    of a linear map does not need its output. What is changed in place must come first, where it is a view."""

    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, x: torch.Tensor, slices: Any, *factors: torch.Tensor
    ) -> torch.Tensor:
        kind = output.dtype
        rows = x.to(kind)
        inner = []
        for number, (part, scale) in enumerate(slices):
            down, up = factors[2 * number : 2 * number + 2]
            inner.append(rows[part] @ down.to(kind))
            output[part].addmm_(inner[-1], up.to(kind), alpha=scale)
        ctx.mark_dirty(output)
        ctx.slices = slices
        ctx.save_for_backward(rows, *factors, *inner)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        rows, *kept = ctx.saved_tensors
        count = len(ctx.slices)
        factors, inner = kept[: 2 * count], kept[2 * count :]
        kind = gradient.dtype
        to_rows = torch.zeros_like(rows) if ctx.needs_input_grad[1] else None
        found: list[torch.Tensor | None] = []
        for number, (part, scale) in enumerate(ctx.slices):
            down, up = factors[2 * number : 2 * number + 2]
            above = gradient[part]
            to_inner = (above @ up.T.to(kind)).mul_(scale)
            found += [
                (rows[part].T @ to_inner).to(down.dtype),
                (inner[number].T @ above).mul_(scale).to(up.dtype),
            ]
            if to_rows is not None:
                torch.mm(to_inner, down.T.to(kind), out=to_rows[part])
        return gradient, to_rows, None, *found
