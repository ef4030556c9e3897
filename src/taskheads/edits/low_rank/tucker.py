"""Differences of low Tucker rank to weights of any order: the primitive of FLoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from taskheads.errors import ConfigError


class Tucker(nn.Module):
    """What is added to a weight [I₁, …, I_N]: `scale` · G ×₁ A₁ ×₂ A₂ … ×_N A_N, with a core G [r₁, …, r_N]
    and a factor A_n [I_n, r_n] for each dimension.

    The core begins at zero, so that nothing is added at first, and the factors as LoRA's A does.
    Raises ConfigError for a rank that is larger than its dimension or below one.
    """

    def __init__(self, shape: Sequence[int], ranks: Sequence[int], scale: float) -> None:
        super().__init__()
        for size, rank in zip(shape, ranks, strict=True):
            if not 0 < rank <= size:
                raise ConfigError(f"a rank of {rank} does not fit a dimension of {size}")
        self.core = nn.Parameter(torch.zeros(*ranks))
        self.factors = nn.ParameterList(
            nn.init.kaiming_uniform_(torch.empty(rank, size), a=math.sqrt(5)).T.contiguous()
            for size, rank in zip(shape, ranks, strict=True)
        )
        self.scale = scale

    def weight(self) -> torch.Tensor:
        """The difference to the weight, [I₁, …, I_N]."""
        return self.scale * _expanded(self.core, list(self.factors))


class TuckerLinear(Tucker):
    """The difference to the weight [out, in] of a linear map: A₁ G A₂ᵀ, LoRA with a core between its
    factors."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__((outputs, inputs), (rank, rank), scale)

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        core, out, into = (each.to(x.dtype) for each in (self.core, *self.factors))
        return torch.addmm(output, (x @ into) @ core.T, out.T, alpha=self.scale)


class TuckerConv2d(Tucker):
    """The difference to the kernel [out, in, height, width] of a convolution, which is never flattened: a
    1 × 1 convolution down, a small one, and a 1 × 1 convolution up.

    ranks: r₁ to r₄. Raises ConfigError for a convolution in groups, whose kernel is not such a tensor.
    """

    def __init__(self, convolution: nn.Conv2d, ranks: Sequence[int], scale: float) -> None:
        if convolution.groups != 1:
            raise ConfigError("a convolution in groups has no Tucker update")
        if not isinstance(convolution.padding, tuple) or convolution.padding_mode != "zeros":
            raise ConfigError("a Tucker update needs a convolution padded with zeros, by numbers")
        super().__init__(tuple(convolution.weight.shape), ranks, scale)
        self.stride, self.padding, self.dilation = (
            convolution.stride,
            convolution.padding,
            convolution.dilation,
        )

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [B, out, h', w'] of the convolution with what is added for its input x [B, in, h, w]."""
        out, into, height, width = (each.to(x.dtype) for each in self.factors)
        eye = [torch.eye(size, dtype=x.dtype, device=x.device) for size in self.core.shape[:2]]
        small = _expanded(self.core.to(x.dtype), [*eye, height, width])
        inner = functional.conv2d(x, into.T[:, :, None, None])
        inner = functional.conv2d(inner, small, None, self.stride, self.padding, self.dilation)
        return output + self.scale * functional.conv2d(inner, out[:, :, None, None])


def _expanded(core: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The core times a factor in each mode."""
    for factor in factors:  # each takes the first mode away and puts its own last: after all, the first order
        core = torch.tensordot(core, factor, dims=([0], [1]))
    return core
