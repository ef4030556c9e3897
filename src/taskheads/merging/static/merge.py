"""What a static merge is: a function on tensors of the same name, applied block by block."""

from __future__ import annotations

import abc
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from taskheads.errors import ConfigError, ModelError
from taskheads.merging.arithmetic import Raw, difference, mixed, narrowed, weighted_sum, widened
from taskheads.merging.files.stored import Stored
from taskheads.tasks.suggest import did_you_mean, listed

BLOCK = 1 << 16  # elements: a block of float64 or two stay in a core's cache


class Block:
    """The same elements of the base and of every model of a group; in float64 when they are looked at.

    Attributes
    ----------
    start, stop: the numbers of its first element and of the one after its last, in row-major order.
    """

    def __init__(self, group: Group, start: int, stop: int) -> None:
        self._group, self.start, self.stop = group, start, stop

    def of(self, stored: Stored) -> np.ndarray:
        """These elements of any tensor of the same size."""
        return widened(*self.raw(stored))

    def raw(self, stored: Stored) -> Raw:
        """These elements as they are stored, and their type."""
        return stored.raw[self.start : self.stop], stored.dtype

    @cached_property
    def base(self) -> np.ndarray:
        """The base's elements, for methods which need a base."""
        return widened(*self.raw_base)

    @cached_property
    def models(self) -> list[np.ndarray]:
        """Each model's elements."""
        return [widened(*raw) for raw in self.raw_models]

    @property
    def raw_base(self) -> Raw:
        """The base's elements as they are stored."""
        assert self._group.base is not None
        return self.raw(self._group.base)

    @property
    def raw_models(self) -> list[Raw]:
        """Each model's elements as they are stored."""
        return [self.raw(model) for model in self._group.models]

    def deltas(self) -> list[np.ndarray]:
        """All task vectors: each model minus the base."""
        return [difference(model, self.raw_base) for model in self.raw_models]

    def parts(self, weights: Sequence[float], of_base: float = 0.0) -> list[tuple[np.ndarray, str, float]]:
        """What `taskheads.merging.arithmetic.mixed` sums up for Σ wₜ · modelₜ + of_base · base. A weight of 0
        leaves its model out, whatever it holds."""
        weighted = [*zip(self._group.models, weights, strict=True)]
        if self._group.base is not None:
            weighted.append((self._group.base, of_base))
        some = [(*self.raw(stored), weight) for stored, weight in weighted if weight]
        return some or [(*self.raw(weighted[0][0]), 0.0)]

    def mean(self, shares: Sequence[float]) -> np.ndarray:
        """Σ shareₜ · modelₜ, in float64."""
        return weighted_sum(self.parts(shares))


Combine = Callable[[Block], np.ndarray]
Map = Callable[..., Iterable[Any]]  # as `map` is one, perhaps over several threads


@dataclasses.dataclass(frozen=True)
class Group:
    """The tensors of one name in the base and in all models, of one shape.

    Parameters
    ----------
    name: of the tensor. base: None where the recipe has no base. models: in the recipe's order.
    weights: a number for each model.
    layers: how many layers the model has.
    statistics: what a method needs of each model's data for this tensor, where it is given.
    """

    name: str
    base: Stored | None
    models: Sequence[Stored]
    weights: Sequence[float]
    layers: int = 0
    statistics: Sequence[Stored | None] = ()

    @property
    def like(self) -> Stored:
        """What the merged tensor is like: the base, without one the first model."""
        return self.models[0] if self.base is None else self.base

    @property
    def layer(self) -> int | None:
        """The number of the layer that it belongs to; None for embeddings and heads."""
        return layer_of(self.name)

    def blocks(self, length: int | None = None) -> Iterator[Block]:
        """All elements in row-major order, `length` (by default `BLOCK`) at a time."""
        size, length = self.like.size, length or BLOCK
        return (Block(self, start, min(start + length, size)) for start in range(0, size, length))


@dataclasses.dataclass(frozen=True)
class Merge(abc.ABC):
    """A merging method with its options, which are its fields.

    `prepare` sees all tensors of one name, takes from them what the merge of each element depends on (a
    threshold, an angle), and returns the function which merges a block of elements.

    Class attributes
    ----------------
    needs_base: whether it is about differences to a base model.
    whole: whether a block must be the whole tensor, because elements depend on each other.
    models: the number of models that it takes; None for any.
    statistics: the kind of statistics that it needs of each model ("fisher", "gram"); "" for none.
    """

    needs_base: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    models: ClassVar[int | None] = None
    statistics: ClassVar[str] = ""

    def surveyed(self, groups: Iterable[Group], each: Map = map) -> Merge:
        """The method as it merges each of these groups, where that depends on all of them."""
        return self

    @abc.abstractmethod
    def prepare(self, group: Group) -> Combine:
        """The function that merges a block of this group."""

    def merged(self, group: Group, dtype: str) -> Iterator[tuple[int, np.ndarray]]:
        """The merged tensor, block by block: the number of the first element, and elements as they are stored
        in this type."""
        combine = self.prepare(group)
        for block in [Block(group, 0, group.like.size)] if self.whole else group.blocks():
            yield block.start, narrowed(combine(block), dtype)


@dataclasses.dataclass(frozen=True)
class Mix(Merge):
    """A merge in which each tensor is a weighted sum of the models and the base."""

    @abc.abstractmethod
    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        """A weight for each model, and that of the base."""

    def prepare(self, group: Group) -> Combine:
        weights, of_base = self.mixture(group)
        return lambda block: weighted_sum(block.parts(weights, of_base))

    def merged(self, group: Group, dtype: str) -> Iterator[tuple[int, np.ndarray]]:
        weights, of_base = self.mixture(group)
        for block in group.blocks(4 * BLOCK):  # summed and rounded part by part, within a cache
            yield block.start, mixed(block.parts(weights, of_base), dtype)


_Options = TypeVar("_Options")


def made(kind: type[_Options], name: str, options: dict[str, Any]) -> _Options:
    """A method, or anything else whose fields are its options, with these. Raises ConfigError for one that it
    has not, or of another type."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            have = f"it has {listed(known)}" if known else "it has none"
            raise ConfigError(f"{name} has no option {key!r}{did_you_mean(key, known)}; {have}")
        if known[key].type == "bool":
            if value not in (0, 1):
                raise ConfigError(f"{name}: {key} is 0 or 1, not {value!r}")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{name}: {key} is a number, not {value!r}")
        if "int" in str(known[key].type) and value != int(value):
            raise ConfigError(f"{name}: {key} is a whole number, not {value!r}")
    return kind(**options)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless low ≤ value ≤ high."""
    if not low <= value <= high:
        raise ConfigError(f"{name} is between {low:g} and {high:g}, not {value:g}")


def layer_of(name: str) -> int | None:
    """The number of the layer in a tensor's name: its first part that is a number ("encoder.layer.3.…")."""
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(found[1]) if found else None


def depth(names: Iterable[str]) -> int:
    """How many layers tensors of these names make."""
    return max((layer + 1 for layer in map(layer_of, names) if layer is not None), default=0)


def fits(method: Merge, models: int, has_base: bool, weights: Sequence[float] | None) -> None:
    """Raise ConfigError unless a method takes so many models, with or without a base, and the weights."""
    name = type(method).__name__
    if method.needs_base and not has_base:
        raise ConfigError(f"{name} merges differences to a base model: name the base")
    if not models:
        raise ConfigError("there is no model to merge")
    if method.models not in (None, models):
        raise ConfigError(f"{name} merges {method.models} models, not {models}")
    if weights is not None and len(weights) != models:
        raise ConfigError(f"there are {len(weights)} weights for {models} models")


def unchanged(group: Group) -> Stored:
    """The tensor of a group that is not of numbers to be merged (positions, counts): it must be the same
    everywhere. Raises ModelError where it is not."""
    for model in group.models:
        if not model.same_as(group.like):
            kind = group.like.dtype
            raise ModelError(f"the tensor {group.name!r} is of {kind}, and differs between the models")
    return group.like
