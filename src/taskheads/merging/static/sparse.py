"""Task vectors made sparse before they are added: TIES, DARE, Breadcrumbs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from taskheads.errors import ConfigError
from taskheads.merging.arithmetic import elected, magnitude, summed, within
from taskheads.merging.static.merge import Block, Combine, Group, Map, Merge, between
from taskheads.merging.static.selection import kth_largest
from taskheads.methods import method

_INFINITY = float("inf")
# Of a task vector's elements so many are looked at for where its threshold is about.
_SAMPLE, _LARGEST_SAMPLE = 1 << 16, 1 << 20


@method("ties", family="merging", paper="arXiv:2306.01708")
@dataclass(frozen=True)
class Ties(Merge):
    """TIES: trim, elect sign, merge. Of each task vector the largest elements stay; per element the sign with
    the greater sum wins; the mean of those that have it is the merged task vector (Yadav et al. 2023).

    Parameters
    ----------
    density: the share of elements that stay, by magnitude; 0.2 is the paper's. Elements as large as the last
        one that stays do so too.
    scale: the factor λ of the merged task vector; 1 is the paper's where there is no validation data.
    per_tensor: whether the share is of each tensor, as mergekit has it. By default it is of all the tensors
        of a task vector together, as in the paper: tensors that hardly moved lose more.

    Weights count in the election and in the mean; equal ones are the paper's method. They must be positive.
    """

    density: float = 0.2
    scale: float = 1.0
    per_tensor: bool = False

    def __post_init__(self) -> None:
        between("ties: density", self.density, 0, 1)

    def surveyed(self, groups: Iterable[Group], each: Map = map) -> Merge:
        return self if self.per_tensor else _Trimmed(thresholds([*groups], self.density, each), self.scale)

    def prepare(self, group: Group) -> Combine:
        return _Trimmed(thresholds([group], self.density), self.scale).prepare(group)


@dataclass(frozen=True)
class _Trimmed(Merge):
    """TIES with the least magnitude that stays of each task vector."""

    least: Sequence[float]
    scale: float

    def prepare(self, group: Group) -> Combine:
        _positive("ties", group.weights)

        def combine(block: Block) -> np.ndarray:
            models = [*zip(block.raw_models, self.least, strict=True)]
            masks = [within(model, block.raw_base, least, _INFINITY) for model, least in models]
            return elected(block.raw_base, block.raw_models, masks, group.weights, self.scale)

        return combine


@method("dare", family="merging", paper="arXiv:2311.03099")
@dataclass(frozen=True)
class Dare(Merge):
    """DARE: each element of each task vector is dropped at random and the others are divided by the share
    that stays, so that the expected sum is that of task arithmetic (Yu et al. 2023).

    Parameters
    ----------
    density: the share that stays (1 - the paper's drop rate), in steps of 1/65536.
    scale: one factor for all task vectors.
    seed: what is drawn depends on this, the tensor's name, the model's number and the element's, and on
        nothing else.
    """

    density: float = 0.5
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        between(f"{type(self).__name__.lower()}: density", self.density, 1e-4, 1)

    def prepare(self, group: Group) -> Combine:
        drawn, enlarged = dropping(group, self.density, self.seed)
        factors = [self.scale * enlarged * weight for weight in group.weights]
        return lambda block: summed(block.raw_base, block.raw_models, drawn(block), factors)


@method("dare_ties", family="merging", paper="arXiv:2311.03099")
@dataclass(frozen=True)
class DareTies(Dare):
    """DARE in the place of TIES' trimming: task vectors with elements dropped at random and the others
    enlarged; then the sign is elected and those that have it are averaged (Yu et al. 2023, section 3)."""

    def prepare(self, group: Group) -> Combine:
        _positive("dare_ties", group.weights)
        drawn, enlarged = dropping(group, self.density, self.seed)
        scale = self.scale * enlarged
        return lambda block: elected(block.raw_base, block.raw_models, drawn(block), group.weights, scale)


@method("breadcrumbs", family="merging", paper="arXiv:2312.06795")
@dataclass(frozen=True)
class Breadcrumbs(Merge):
    """Model breadcrumbs: of each tensor of a task vector both the smallest and the very largest elements are
    dropped, and what stays is added up (Davari & Belilovsky 2023).

    Parameters
    ----------
    density: the share that stays. top: the share of the largest, which are dropped as outliers.
    scale: one factor for all task vectors; the paper's is 0.3 to 1.
    """

    density: float = 0.15
    top: float = 0.01
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("breadcrumbs: density", self.density, 0, 1)
        between("breadcrumbs: top", self.top, 0, 1)
        if self.density + self.top > 1:
            raise ConfigError("breadcrumbs: density and top are more than the whole")

    def prepare(self, group: Group) -> Combine:
        least = thresholds([group], self.density + self.top)
        above = thresholds([group], self.top) if self.top else [_INFINITY] * len(group.models)
        factors = [self.scale * weight for weight in group.weights]

        def combine(block: Block) -> np.ndarray:
            models = [*zip(block.raw_models, least, above, strict=True)]
            masks = [within(model, block.raw_base, low, high) for model, low, high in models]
            return summed(block.raw_base, block.raw_models, masks, factors)

        return combine


def thresholds(groups: Sequence[Group], density: float, each: Map = map) -> list[float]:
    """For each task vector, of the tensors of all groups together, the magnitude of the last of its
    ⌊density · n⌋ largest elements, of one at least; infinity where the density is 0. `each` is a `map`."""
    models = range(len(groups[0].models)) if groups else range(0)
    count = sum(group.like.size for group in groups)
    if not density or not count:
        return [_INFINITY] * len(models)
    if density == 1:
        return [0.0] * len(models)
    stride = max(1, count // min(max(count >> 5, _SAMPLE), _LARGEST_SAMPLE))

    def sizes(number: int) -> Iterator[np.ndarray]:
        for group in groups:
            for block in group.blocks():
                yield magnitude(block.raw(group.models[number]), block.raw_base)

    def least(number: int) -> float:
        sample = np.concatenate([_strided(group, number, stride) for group in groups])
        return kth_largest(partial(sizes, number), max(1, int(density * count)), count, sample)

    return list(each(least, models))


def _strided(group: Group, number: int, stride: int) -> np.ndarray:
    """The magnitudes of some elements of a task vector."""
    model, base = group.models[number], group.like
    parts = ((np.ascontiguousarray(each.raw[::stride]), each.dtype) for each in (model, base))
    return magnitude(*parts)


def dropping(
    group: Group, density: float, seed: int
) -> tuple[Callable[[Block], Sequence[np.ndarray]], float]:
    """From a block to a mask for each task vector, in which this share of elements is set, at random; and the
    reciprocal of the share. Blocks must come in order.

    Each tensor of each model has a generator with a key of its own, so that what is drawn does not depend on
    the order of the work.
    """
    kept = round(density * 65536)
    draws = []
    for number in range(len(group.models)):
        key = hashlib.blake2b(repr((seed, group.name, number)).encode(), digest_size=16).digest()
        draws.append(np.random.SFC64(int.from_bytes(key, "little")))

    def drawn(block: Block) -> Sequence[np.ndarray]:
        size = block.stop - block.start
        words = (draw.random_raw(-(-size // 4)).astype("<u8", copy=False) for draw in draws)
        return [each.view("<u2")[:size] < kept for each in words]

    return drawn, 65536 / kept


def _positive(name: str, weights: Sequence[float]) -> None:
    if min(weights) <= 0:
        raise ConfigError(f"{name} elects signs by weight: all weights must be above 0")
