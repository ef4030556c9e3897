"""Rows in slices, to each of which a product of low rank of its own is added.

Slices of the same rank and of about the same size are one batched product: a batch of many tasks has many
small slices, and what these cost is not the multiplications but the number of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from taskheads.backbone.groups import Arrangement, of_one_kind

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
    ranks = tuple(map(len, downs))
    slices = _arranged(tuple(sizes), tuple(scales), ranks, x.device, x.dtype)
    if not slices.groups:
        return output
    if torch.is_grad_enabled():
        return _Added.apply(output, x, slices, *downs, *ups)
    _add(output, x, slices, downs, ups)
    return output


@dataclass(frozen=True)
class _Members:
    """The slices of one group: of one rank, each padded to T places.

    which: their numbers among those with a scale. weights: for each place the slice's scale, or 0 beyond its
    end, [g, T, 1].
    """

    which: list[int]
    weights: torch.Tensor

    def stacked(self, factors: Factors) -> torch.Tensor:
        return torch.stack([factors[number] for number in self.which])


@dataclass(frozen=True)
class _Slices:
    """All slices that have a scale, in groups; `arranged` says where their rows stand."""

    arranged: Arrangement
    groups: tuple[_Members, ...]

    def split(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """[N, w] → [g, T, w] for each group."""
        parts = zip(self.groups, self.arranged.split(rows), strict=True)
        return [part.view(len(group.which), -1, rows.shape[1]) for group, part in parts]

    def gathered(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """[g, T, w] of each group → its rows in the order of all."""
        return self.arranged.taken([part.flatten(0, 1) for part in parts])


# Every map of a batch asks for the same; a step of training, or an answer, makes few batches.
@lru_cache(maxsize=16)
def _arranged(
    sizes: tuple[int, ...],
    scales: tuple[float | None, ...],
    ranks: tuple[int, ...],
    device: torch.device,
    kind: torch.dtype,
) -> _Slices:
    chosen = [number for number, scale in enumerate(scales) if scale is not None]
    number_of = {number: which for which, number in enumerate(chosen)}
    rank_of = dict(zip(chosen, ranks, strict=True))
    arranged = of_one_kind(sizes, [rank_of.get(number) for number in range(len(sizes))], device)
    groups = []
    for group in arranged.groups:
        its = torch.tensor([scales[number] for number in group.rows], dtype=kind, device=device)
        weights = its[:, None, None].expand(-1, group.length, 1)
        if group.filled is not None:
            weights = weights * group.filled[..., None]
        groups.append(_Members([number_of[number] for number in group.rows.tolist()], weights))
    return _Slices(arranged, tuple(groups))


@dataclass(frozen=True)
class _Product:
    """What a group's product is of: its rows of x [g, T, in], A [g, r, in], scale · x Aᵀ [g, T, r] and B
    [g, r, out]."""

    x: torch.Tensor
    down: torch.Tensor
    inner: torch.Tensor
    up: torch.Tensor


def _add(
    output: torch.Tensor, x: torch.Tensor, slices: _Slices, downs: Factors, ups: Factors
) -> list[_Product]:
    """Add to `output`, and return what was multiplied."""
    products = []
    for group, its in zip(slices.groups, slices.split(x), strict=True):
        down, up = group.stacked(downs), group.stacked(ups)
        products.append(_Product(its, down, torch.bmm(its, down.mT).mul_(group.weights), up))
    rows = slices.gathered([torch.bmm(each.inner, each.up) for each in products])
    if slices.arranged.tokens is None:
        output.add_(rows)
    else:
        output[slices.arranged.tokens] += rows
    return products


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, x: torch.Tensor, slices: _Slices, *factors: torch.Tensor
    ) -> torch.Tensor:
        # Not marked as changed in place: where the map's output is a view, autograd would copy the gradient.
        # The two share a version, so that a step which kept the output for its own gradient still notices.
        made = output.detach()
        half = len(factors) // 2
        ctx.slices, ctx.factors, ctx.shape = slices, len(factors), x.shape
        ctx.products = _add(made, x, slices, factors[:half], factors[half:])
        ctx.save_for_backward(x)  # what products are of may be a view of it
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slices: _Slices = ctx.slices
        _ = ctx.saved_tensors  # raises where x was changed in place
        to_factors: list[torch.Tensor | None] = [None] * ctx.factors
        to_rows = []
        for group, product, its in zip(slices.groups, ctx.products, slices.split(gradient), strict=True):
            towards = torch.bmm(its, product.up.mT).mul_(group.weights)
            to_downs, to_ups = torch.bmm(towards.mT, product.x), torch.bmm(product.inner.mT, its)
            for number, down, up in zip(group.which, to_downs.unbind(), to_ups.unbind(), strict=True):
                to_factors[number], to_factors[ctx.factors // 2 + number] = down, up
            if ctx.needs_input_grad[1]:
                to_rows.append(torch.bmm(towards, product.down))
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = slices.gathered(to_rows)
            if slices.arranged.tokens is not None:
                to_x = gradient.new_zeros(ctx.shape).index_copy_(0, slices.arranged.tokens, to_x)
        return gradient, to_x, None, *to_factors
