"""Weighted sums of models and of task vectors, and means on the sphere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from taskheads.errors import ConfigError
from taskheads.merging.arithmetic import Raw, inner_products
from taskheads.merging.static.merge import Group, Mix, between
from taskheads.methods import method


def shares(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum. Raises ConfigError where that is zero."""
    total = math.fsum(weights)
    if not total:
        raise ConfigError("weights whose sum is zero have no mean; use task_arithmetic to subtract")
    return [weight / total for weight in weights]


@method("linear", family="merging", paper="arXiv:2203.05482")
@dataclass(frozen=True)
class Linear(Mix):
    """Model soup: the mean of the models' weights, θ = Σ wₜ θₜ / Σ wₜ (Wortsman et al. 2022)."""

    needs_base: ClassVar[bool] = False

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        return shares(group.weights), 0.0


@method("task_arithmetic", family="merging", paper="arXiv:2212.04089")
@dataclass(frozen=True)
class TaskArithmetic(Mix):
    """Task arithmetic: θ = θ₀ + scale · Σ wₜ (θₜ - θ₀); a negative weight forgets the task (Ilharco et al.
    2023).

    Parameters
    ----------
    scale: one factor for all task vectors; 1, so that one model of weight 1 is that model. For several models
        the paper chooses it on validation data, commonly 0.3 to 0.4.
    """

    scale: float = 1.0

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        weights = [self.scale * weight for weight in group.weights]
        return weights, 1 - math.fsum(weights)


@method("slerp", family="merging", paper="Shoemake 1985, SIGGRAPH, doi:10.1145/325334.325242")
@dataclass(frozen=True)
class Slerp(Mix):
    """Spherical interpolation of two models, tensor by tensor: with Ω the angle between them as vectors,
    θ = (sin((1 - t) Ω) θ₁ + sin(t Ω) θ₂) / sin Ω.

    Parameters
    ----------
    t: 0 is the first model, 1 the second.

    The weights of the recipe have no part in it. Where the vectors are almost parallel (cosine above 0.9995)
    the sines cannot be told from their arguments, and the result is the linear mean.
    """

    t: float = 0.5
    needs_base: ClassVar[bool] = False
    models: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        between("slerp: t", self.t, 0, 1)

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        products = gram(2, (block.raw_models for block in group.blocks()))
        norms = math.sqrt(products[0][0] * products[1][1])
        cosine = products[1][0] / norms if norms else 1.0
        weights = [1 - self.t, self.t]
        if abs(cosine) <= 0.9995:
            angle = math.acos(cosine)
            weights = [math.sin(weight * angle) / math.sin(angle) for weight in weights]
        return weights, 0.0


@method("model_stock", family="merging", paper="arXiv:2403.19522")
@dataclass(frozen=True)
class ModelStock(Mix):
    """Model stock: each tensor of the mean of N models is drawn to the base by the angle between the task
    vectors, θ = t θ̄ + (1 - t) θ₀ with t = N cos Ω / (1 + (N - 1) cos Ω) (Jang et al. 2024).

    cos Ω is the mean over all pairs of models of the cosine of their task vectors in this tensor, not below
    0. The weights of the recipe have no part in it. Task vectors that are zero count as parallel.
    """

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        count = len(group.models)
        if count < 2:
            raise ConfigError("model_stock needs two models or more: it is about the angle between them")
        deltas = ([(delta, "F64") for delta in block.deltas()] for block in group.blocks())
        products = gram(count, deltas)
        cosines = []
        for a in range(count):
            for b in range(a):
                norms = math.sqrt(products[a][a] * products[b][b])
                cosines.append(products[a][b] / norms if norms else 1.0)
        cosine = max(0.0, math.fsum(cosines) / len(cosines))
        ratio = count * cosine / (1 + (count - 1) * cosine)
        return [ratio / count] * count, 1 - ratio


@method("passthrough", family="merging", paper="arXiv:2312.15166")
@dataclass(frozen=True)
class Passthrough(Mix):
    """A tensor as it is, of the one model that is given. With slices of layers in a plan it is depth
    up-scaling (Kim et al. 2023): layers of one or of several models on top of each other."""

    needs_base: ClassVar[bool] = False
    models: ClassVar[int | None] = 1

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        return [1.0], 0.0


def gram(count: int, blocks: Iterable[Sequence[Raw]]) -> list[list[float]]:
    """The inner products of `count` long vectors, which come block by block: row a has ⟨a, b⟩ for b ≤ a."""
    total = np.zeros((count, count))
    for vectors in blocks:
        # Not by BLAS, whose sums depend on its threads.
        total = total + inner_products(vectors)
    return total.tolist()
