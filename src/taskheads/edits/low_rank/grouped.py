"""Rows in slices, to each of which a product of low rank of its own is added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Factors = Sequence[torch.Tensor]


def added(
    output: torch.Tensor,
    x: torch.Tensor,
    sizes: Sequence[int],
    scales: Sequence[float | None],
    downs: Factors,
    ups: Factors,
) -> torch.Tensor:
    """`output` [N, out] with scale · (x Aᵀ) B added to each slice of its rows, in place: whoever made it must
    not need it any more. One step for autograd, which can be differentiated once.

    Parameters
    ----------
    x: [N, in]. sizes: the slices' numbers of rows, end to end.
    scales: one a slice; None leaves its rows as they are, bit for bit.
    downs, ups: A [r, in] and B [r, out] of each slice that has a scale; ranks may differ.
    """
    if torch.is_grad_enabled():
        return _Added.apply(output, x, list(sizes), scales, *downs, *ups)
    _add(output, x, list(sizes), scales, downs, ups)
    return output


def _add(
    output: torch.Tensor,
    x: torch.Tensor,
    sizes: list[int],
    scales: Sequence[float | None],
    downs: Factors,
    ups: Factors,
) -> list[torch.Tensor]:
    """Add to `output`, and return x Aᵀ of each slice that has a scale."""
    inner = []
    # All on one thread: what a batch of many tasks costs is mostly this loop and the one of the gradients.
    for scale, its, mine, down, up in zip(
        *_chosen(scales, scales, output.split(sizes), x.split(sizes)), downs, ups, strict=True
    ):
        inner.append(torch.mm(mine, down.T))
        its.addmm_(inner[-1], up, alpha=scale)
    return inner


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        x: torch.Tensor,
        sizes: list[int],
        scales: Sequence[float | None],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        # Not marked as changed in place: where the map's output is a view, autograd would copy the gradient.
        # The two share a version, so that a step which kept the output for its own gradient still notices.
        made = output.detach()
        half = len(factors) // 2
        inner = _add(made, x, sizes, scales, factors[:half], factors[half:])
        ctx.sizes, ctx.scales = sizes, scales
        ctx.save_for_backward(x, *inner, *factors)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        third = len(kept) // 3
        inner, downs, ups = kept[:third], kept[third : 2 * third], kept[2 * third :]
        to_x = torch.zeros_like(x) if None in ctx.scales else torch.empty_like(x)
        nothing, to_downs, to_ups = x.new_empty(()), [], []
        rows = (each.split(ctx.sizes) for each in (x, gradient, to_x))
        for scale, mine, its, to_mine, product, down, up in zip(
            *_chosen(ctx.scales, ctx.scales, *rows), *(inner, downs, ups), strict=True
        ):
            towards = torch.addmm(nothing, its, up.T, beta=0, alpha=scale)
            to_downs.append(torch.mm(towards.T, mine))
            to_ups.append(torch.addmm(nothing, product.T, its, beta=0, alpha=scale))
            if ctx.needs_input_grad[1]:
                torch.mm(towards, down, out=to_mine)
        return gradient, to_x if ctx.needs_input_grad[1] else None, None, None, *to_downs, *to_ups


def _chosen(scales: Sequence[float | None], *columns: Iterable[Any]) -> list[Iterable[Any]]:
    """Of each column, what belongs to slices that have a scale."""
    there = [scale is not None for scale in scales]
    return [compress(each, there) for each in columns]
