"""Task vectors made sparse before they are added: TIES, DARE, Breadcrumbs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from taskheads.errors import ConfigError
from taskheads.merging.arithmetic import agreed, keep_some
from taskheads.merging.static.merge import Block, Combine, Group, Merge, between
from taskheads.merging.static.selection import kth_largest
from taskheads.methods import method


@method("ties", family="merging", paper="arXiv:2306.01708")
@dataclass(frozen=True)
class Ties(Merge):
    """TIES: trim, elect sign, merge. Of each task vector the largest elements stay; per element the sign with
    the greater sum wins; the mean of those that have it is the merged task vector (Yadav et al. 2023).

    Parameters
    ----------
    density: the share of elements that stay of each tensor, by magnitude; 0.2 is the paper's. Elements as
        large as the last one that stays do so too. (The paper takes the share of all tensors together.)
    scale: the factor λ of the merged task vector; 1 is the paper's where there is no validation data.

    Weights count in the election and in the mean; equal ones are the paper's method. They must be positive.
    """

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("ties: density", self.density, 0, 1)

    def prepare(self, group: Group) -> Combine:
        _positive("ties", group.weights)
        least = thresholds(group, self.density)
        return lambda block: _on_base(block, agreed(block.deltas(), group.weights, least), self.scale)


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
        drop = dropping(group, self.density, self.seed)

        def combine(block: Block) -> np.ndarray:
            total = block.base
            for delta, weight in zip(drop(block), group.weights, strict=True):
                delta *= self.scale * weight
                total += delta
            return total

        return combine


@method("dare_ties", family="merging", paper="arXiv:2311.03099")
@dataclass(frozen=True)
class DareTies(Dare):
    """DARE in the place of TIES' trimming: task vectors with elements dropped at random and the others
    enlarged; then the sign is elected and those that have it are averaged (Yu et al. 2023, section 3)."""

    def prepare(self, group: Group) -> Combine:
        _positive("dare_ties", group.weights)
        drop, none = dropping(group, self.density, self.seed), [0.0] * len(group.models)
        return lambda block: _on_base(block, agreed(drop(block), group.weights, none), self.scale)


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
        least = thresholds(group, self.density + self.top)
        above = thresholds(group, self.top) if self.top else [float("inf")] * len(group.models)

        def combine(block: Block) -> np.ndarray:
            total = block.base
            for delta, low, high, weight in zip(block.deltas(), least, above, group.weights, strict=True):
                size = np.abs(delta)
                total = total + (self.scale * weight) * np.where((size >= low) & (size < high), delta, 0.0)
            return total

        return combine


def thresholds(group: Group, density: float) -> list[float]:
    """For each task vector of a group the magnitude of the last of its ⌊density · n⌋ largest elements, of one
    at least; infinity where the density is 0."""
    count = group.like.size
    if not density or not count:
        return [float("inf")] * len(group.models)
    if density == 1:
        return [0.0] * len(group.models)
    k = max(1, int(density * count))

    def sizes(number: int) -> Iterator[np.ndarray]:
        for block in group.blocks():
            delta = block.delta(number)
            yield np.abs(delta, out=delta)

    return [kth_largest(partial(sizes, number), k) for number in range(len(group.models))]


def dropping(group: Group, density: float, seed: int) -> Callable[[Block], Sequence[np.ndarray]]:
    """From a block to its task vectors with elements dropped at random, the others divided by the share that
    stays. Blocks must come in order.

    Each tensor of each model has a generator with a key of its own, so that what is drawn does not depend on
    the order of the work.
    """
    kept = round(density * 65536)
    draws = []
    for number in range(len(group.models)):
        key = hashlib.blake2b(repr((seed, group.name, number)).encode(), digest_size=16).digest()
        draws.append(np.random.SFC64(int.from_bytes(key, "little")))

    def drop(block: Block) -> Sequence[np.ndarray]:
        deltas = block.deltas()
        if kept < 65536:
            for delta, draw in zip(deltas, draws, strict=True):
                words = draw.random_raw(-(-delta.size // 4)).astype("<u8", copy=False)
                keep_some(delta, words.view("<u2")[: delta.size], kept)
        return deltas

    return drop


def _on_base(block: Block, delta: np.ndarray, scale: float) -> np.ndarray:
    delta *= scale
    delta += block.base
    return delta


def _positive(name: str, weights: Sequence[float]) -> None:
    if min(weights) <= 0:
        raise ConfigError(f"{name} elects signs by weight: all weights must be above 0")
