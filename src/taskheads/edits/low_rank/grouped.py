"""Rows in slices, to each of which a product of low rank of its own is added.

Slices of the same rank and of about the same size are one batched product: a batch of many tasks has many
small slices, and what these cost is not the multiplications but the number of operations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
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
    ranks = tuple(map(len, downs))
    slices = _arranged(tuple(sizes), tuple(scales), ranks, x.device, x.dtype)
    if not slices.groups:
        return output
    if torch.is_grad_enabled():
        return _Added.apply(output, x, slices, *downs, *ups)
    _add(output, x, slices, downs, ups)
    return output


@dataclass(frozen=True)
class _Alike:
    """Some slices of one rank, each padded to T places, the longest of them.

    which: their numbers among those with a scale. rows: for each place the row that stands there, [g · T]; a
    slice's last row fills its places beyond its end. weights: for each place the slice's scale, or 0 beyond
    its end, [g, T, 1].
    """

    which: list[int]
    rows: torch.Tensor
    weights: torch.Tensor

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of [N, w] at their places, [g, T, w]."""
        return tensor.index_select(0, self.rows).view(len(self.which), -1, tensor.shape[1])

    def stacked(self, factors: Factors) -> torch.Tensor:
        return torch.stack([factors[number] for number in self.which])


@dataclass(frozen=True)
class _Slices:
    """All slices that have a scale, in `groups` that are alike.

    place: of each of their rows, its place among those of all groups, end to end. rows: which rows these
    are; None for all of them.
    """

    groups: tuple[_Alike, ...]
    place: torch.Tensor
    rows: torch.Tensor | None

    def gathered(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What stands at the places of each group, [g, T, w], as rows in their order."""
        flat = [part.flatten(0, 1) for part in parts]
        return (flat[0] if len(flat) == 1 else torch.cat(flat)).index_select(0, self.place)


# Every map of a batch asks for the same; a step of training, or an answer, makes few batches.
@lru_cache(maxsize=16)
def _arranged(
    sizes: tuple[int, ...],
    scales: tuple[float | None, ...],
    ranks: tuple[int, ...],
    device: torch.device,
    kind: torch.dtype,
) -> _Slices:
    starts = np.cumsum([0, *sizes])
    chosen = [number for number, scale in enumerate(scales) if scale is not None]
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for which, number in enumerate(chosen):
        # Of sizes with as many binary digits, padding makes no slice more than twice as long.
        if sizes[number]:
            alike[ranks[which], sizes[number].bit_length()].append(which)
    place, before, groups = np.full(starts[-1], -1), 0, []
    for members in alike.values():
        numbers = [chosen[which] for which in members]
        lengths = np.asarray([sizes[number] for number in numbers])[:, None]
        at = np.arange(lengths.max())[None]
        rows = starts[numbers][:, None] + np.minimum(at, lengths - 1)
        there = at < lengths
        place[rows[there]] = before + np.flatnonzero(there)
        before += there.size
        weights = there * np.asarray([[scales[number]] for number in numbers], float)
        groups.append(
            _Alike(
                members,
                torch.from_numpy(rows.ravel()).to(device),
                torch.from_numpy(weights[..., None]).to(device, kind),
            )
        )
    changed = np.flatnonzero(place >= 0)
    return _Slices(
        tuple(groups),
        torch.from_numpy(place[changed]).to(device),
        None if len(changed) == len(place) else torch.from_numpy(changed).to(device),
    )


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
    for group in slices.groups:
        its, down, up = group.of(x), group.stacked(downs), group.stacked(ups)
        products.append(_Product(its, down, torch.bmm(its, down.mT).mul_(group.weights), up))
    rows = slices.gathered([torch.bmm(each.inner, each.up) for each in products])
    if slices.rows is None:
        output.add_(rows)
    else:
        output[slices.rows] += rows
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
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slices: _Slices = ctx.slices
        to_factors: list[torch.Tensor | None] = [None] * ctx.factors
        to_rows = []
        for group, product in zip(slices.groups, ctx.products, strict=True):
            its = group.of(gradient)
            towards = torch.bmm(its, product.up.mT).mul_(group.weights)
            to_downs, to_ups = torch.bmm(towards.mT, product.x), torch.bmm(product.inner.mT, its)
            for number, down, up in zip(group.which, to_downs.unbind(), to_ups.unbind(), strict=True):
                to_factors[number], to_factors[ctx.factors // 2 + number] = down, up
            if ctx.needs_input_grad[1]:
                to_rows.append(torch.bmm(towards, product.down))
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = slices.gathered(to_rows)
            if slices.rows is not None:
                to_x = gradient.new_zeros(ctx.shape).index_copy_(0, slices.rows, to_x)
        return gradient, to_x, None, *to_factors
