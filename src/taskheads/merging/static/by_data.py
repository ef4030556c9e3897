"""Means that weigh each model by what its data say: Fisher and RegMean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from taskheads.errors import ModelError
from taskheads.merging.arithmetic import widened
from taskheads.merging.files.stored import Stored
from taskheads.merging.static.averages import shares
from taskheads.merging.static.merge import Block, Combine, Group, Merge, between
from taskheads.methods import method


@method("fisher", family="merging", paper="arXiv:2111.09832")
@dataclass(frozen=True)
class Fisher(Merge):
    """Fisher-weighted mean: per element θ = Σ wₜ Fₜ θₜ / Σ wₜ Fₜ, with Fₜ the diagonal of model t's Fisher
    information, from `taskheads.merging.learned.statistics.fisher_diagonal` (Matena & Raffel 2022).

    Where no model has information on an element (all Fₜ are 0, or a tensor has no statistics) it is the mean.
    """

    needs_base: ClassVar[bool] = False
    statistics: ClassVar[str] = "fisher"

    def prepare(self, group: Group) -> Combine:
        weights, known = shares(group.weights), _all_or_none(group)
        if any(each.shape != group.like.shape for each in known):
            raise ModelError(f"the Fisher information of {group.name!r} has not the tensor's shape")

        def combine(block: Block) -> np.ndarray:
            mean = block.mean(weights)
            if not known:
                return mean
            information = [weight * block.of(each) for weight, each in zip(weights, known, strict=True)]
            total: np.ndarray = np.sum(information, 0)
            sums = np.sum([f * model for f, model in zip(information, block.models, strict=True)], 0)
            return np.where(total > 0, sums / np.where(total > 0, total, 1.0), mean)

        return combine


@method("regmean", family="merging", paper="arXiv:2212.09849")
@dataclass(frozen=True)
class RegMean(Merge):
    """RegMean: each linear map becomes the one whose outputs are, over all tasks' inputs, nearest to those of
    the tasks' own maps: W = (Σ wₜ Wₜ Gₜ)(Σ wₜ Gₜ)⁻¹ with Gₜ = Xₜᵀ Xₜ, from
    `taskheads.merging.learned.statistics.input_grams` (Jin et al. 2023).

    Parameters
    ----------
    diagonal: the factor of the elements of G off its diagonal, the paper's α; 0.9 is what it takes mostly.
        It keeps the sum of G from being singular; where it is so all the same the least-norm solution is
        taken.

    A weight is [outputs, inputs], its Gram matrix [inputs, inputs]. All other tensors are averaged.
    """

    diagonal: float = 0.9
    needs_base: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    statistics: ClassVar[str] = "gram"

    def __post_init__(self) -> None:
        between("regmean: diagonal", self.diagonal, 0, 1)

    def prepare(self, group: Group) -> Combine:
        weights, known = shares(group.weights), _all_or_none(group)
        if not known:
            return lambda block: block.mean(weights)
        inputs = group.like.shape[-1]
        if any(each.shape != (inputs, inputs) for each in known):
            raise ModelError(f"the Gram matrix of {group.name!r} is not [{inputs}, {inputs}]")
        grams = [weight * self._shrunk(each) for weight, each in zip(weights, known, strict=True)]

        def combine(block: Block) -> np.ndarray:
            maps = [model.reshape(group.like.shape) for model in block.models]
            left: np.ndarray = np.sum([w @ g for w, g in zip(maps, grams, strict=True)], 0)
            return (left @ np.linalg.pinv(np.sum(grams, 0), hermitian=True)).reshape(-1)

        return combine

    def _shrunk(self, gram: Stored) -> np.ndarray:
        full = widened(gram.raw, gram.dtype).reshape(gram.shape)
        return self.diagonal * full + (1 - self.diagonal) * np.diag(np.diag(full))


def _all_or_none(group: Group) -> Sequence[Stored]:
    known = [each for each in group.statistics if each is not None]
    if known and len(known) < len(group.models):
        raise ModelError(f"the statistics of {group.name!r} are there for some models and not for others")
    return known
