"""Rows in slices, each times a matrix of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

# One call for all slices, where torch has it (2.10 on): it asks for rows that begin at multiples of 16 bytes.
_grouped_mm = getattr(functional, "grouped_mm", None)
_KINDS = (torch.float32, torch.bfloat16, torch.float16)


def products(x: torch.Tensor, matrices: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Slice by slice of `x` [N, in], end to end and with so many rows each, its product with its own of the
    `matrices` [slices, in, out]: [N, out], one step for autograd."""
    return _Products.apply(x.contiguous(), matrices, list(sizes))


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrices: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, matrices)
        return _each(x, matrices, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, matrices = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_x = _each(gradient, matrices.mT, ctx.sizes) if ctx.needs_input_grad[0] else None
        to_matrices = _across(x, gradient, ctx.sizes) if ctx.needs_input_grad[1] else None
        return to_x, to_matrices, None


def _each(x: torch.Tensor, matrices: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """x_s M_s of each slice s, end to end."""
    if _in_one_call(x, matrices):
        return _grouped_mm(x, matrices, offs=_ends(sizes))  # type: ignore[misc]
    return torch.cat([part @ matrix for part, matrix in zip(x.split(sizes), matrices, strict=True)])


def _across(x: torch.Tensor, y: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """x_sᵀ y_s of each slice s, [slices, in, out]."""
    if _in_one_call(x, y):
        return _grouped_mm(x.T, y, offs=_ends(sizes))  # type: ignore[misc]
    return torch.stack([mine.T @ its for mine, its in zip(x.split(sizes), y.split(sizes), strict=True)])


def _in_one_call(*factors: torch.Tensor) -> bool:
    return _grouped_mm is not None and all(
        each.is_cpu and each.dtype in _KINDS and each.shape[-1] * each.element_size() % 16 == 0
        for each in factors
    )


def _ends(sizes: list[int]) -> torch.Tensor:
    return torch.tensor(sizes).cumsum(0, dtype=torch.int32)
