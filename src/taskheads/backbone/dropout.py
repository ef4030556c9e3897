"""Dropout on the CPU from 16 random bits a number, in place of the 64 that torch draws for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_BITS = 16


def dropout(values: torch.Tensor, p: float) -> torch.Tensor:
    """Each of the values is zero with probability `p`, rounded to 2^-16, else as much larger as keeps its
    mean (Srivastava et al. 2014). Elsewhere than on the CPU, torch's own.

    torch's generator says which. It draws its bits one after the other (but where MKL draws them), which is
    most of what dropout takes there.
    """
    if values.device.type != "cpu":
        return nn.functional.dropout(values, p)
    zeros = round(p * (1 << _BITS))
    return _Dropout.apply(values, zeros) if zeros else values


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, zeros: int) -> torch.Tensor:
        drawn = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        bits = drawn.view(torch.int16)[: values.numel()].view(values.shape)
        # Multiplied by as integers, not as truth values, for which torch has no vectors.
        kept = (bits >= zeros - (1 << _BITS - 1)).view(torch.int8)
        ctx.save_for_backward(kept)
        ctx.scale = 1 / (1 - zeros / (1 << _BITS))
        return values.mul(kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept).mul_(ctx.scale), None


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.p) if self.training else values


def put_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of each `nn.Dropout` of the model that does not write over its input."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, Dropout(child.p).train(child.training))
