"""The arithmetic of merging on blocks of elements: always in float64, and rounded once at the end.

With numba (the extra `kernels`) each of these is one compiled loop; without it numpy does the same operations
in the same order, and the results are the same bytes. Elements come as they are stored, with their types by
safetensors' names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskheads.merging.files.stored import STORED

try:
    from taskheads.merging import kernels
except (ImportError, RuntimeError):  # numba is not there, or has nowhere to keep what it compiled
    kernels = None  # type: ignore[assignment]

Raw = tuple[np.ndarray, str]
_LANES = 64  # as the kernels have them


def widened(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements in float64."""
    if dtype != "BF16":
        return raw.astype(np.float64)
    if kernels:
        found = np.empty(raw.size)
        kernels.widen(raw, found)
        return found
    return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 as stored elements of a type: each the nearest there is, of two the even one."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED[dtype])
    if kernels:
        found = np.empty(values.size, np.uint16)
        kernels.narrow(values, found)
        return found
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    bits = single.view(np.uint32)
    # Half-way between two in float32 may be on one side of it in float64.
    ties = np.flatnonzero((bits & 0xFFFF) == 0x8000)
    size, exact = np.abs(single[ties].astype(np.float64)), np.abs(values[ties])
    bits[ties] += (exact > size).astype(np.uint32)
    bits[ties] -= (exact < size).astype(np.uint32)
    bits[np.isnan(values)] = 0x7FC0_0000  # of the many that there are, one that no carry makes a number
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def all_finite(raw: np.ndarray, dtype: str) -> bool:
    """Whether stored elements are numbers, none infinite."""
    if dtype == "BF16":
        return kernels.finite(raw) if kernels else not raw.size or bool((raw & 0x7FFF).max() < 0x7F80)
    return bool(np.isfinite(raw).all())


def _alike(raws: Sequence[Raw]) -> tuple[np.ndarray, ...]:
    """What the kernels take: bits of bfloat16 where all are that, float64 otherwise."""
    if {dtype for _, dtype in raws} == {"BF16"}:
        return tuple(raw for raw, _ in raws)
    return tuple(widened(raw, dtype) for raw, dtype in raws)


def mixed(parts: Sequence[tuple[np.ndarray, str, float]], dtype: str) -> np.ndarray:
    """Σ weight · elements, of (stored elements, their type, weight), as stored elements of a type."""
    if kernels and {dtype, *(kind for _, kind, _ in parts)} == {"BF16"}:
        found = np.empty(parts[0][0].size, np.uint16)
        kernels.mix(tuple(raw for raw, _, _ in parts), np.array([weight for *_, weight in parts]), found)
        return found
    return narrowed(weighted_sum(parts), dtype)


def weighted_sum(parts: Sequence[tuple[np.ndarray, str, float]]) -> np.ndarray:
    """As `mixed`, in float64."""
    first, kind, weight = parts[0]
    total = weight * widened(first, kind)
    for raw, kind, weight in parts[1:]:
        total += weight * widened(raw, kind)
    return total


def difference(model: Raw, base: Raw) -> np.ndarray:
    """A task vector: model minus base, in float64."""
    if kernels:
        found = np.empty(model[0].size)
        kernels.difference(*_alike([model, base]), found)
        return found
    return widened(*model) - widened(*base)


def magnitude(model: Raw, base: Raw) -> np.ndarray:
    """The magnitudes of a task vector, in float64."""
    if kernels:
        found = np.empty(model[0].size)
        kernels.magnitude(*_alike([model, base]), found)
        return found
    return np.abs(difference(model, base))


def within(model: Raw, base: Raw, low: float, high: float) -> np.ndarray:
    """Where a task vector's magnitude is from `low` to below `high`."""
    if kernels:
        found = np.empty(model[0].size, np.bool_)
        kernels.within(*_alike([model, base]), float(low), float(high), found)
        return found
    size = magnitude(model, base)
    return (size >= low) & (size < high)


def summed(
    base: Raw, models: Sequence[Raw], masks: Sequence[np.ndarray], factors: Sequence[float]
) -> np.ndarray:
    """base + Σ factor · task vector where its mask is set, in float64."""
    if kernels:
        zero, *others = _alike([base, *models])
        found = np.empty(zero.size)
        kernels.add_up(zero, tuple(others), tuple(masks), np.array(factors, float), found)
        return found
    total = np.zeros(base[0].size)
    for model, mask, factor in zip(models, masks, factors, strict=True):
        total += np.where(mask, factor, 0.0) * difference(model, base)
    return total + widened(*base)


def elected(
    base: Raw, models: Sequence[Raw], masks: Sequence[np.ndarray], shares: Sequence[float], scale: float
) -> np.ndarray:
    """base + scale · the disjoint mean of TIES, in float64: per element, the mean of the task vectors whose
    sign is that of their sum, both weighted by `shares`; 0 where that sum is 0. Elements outside of a task
    vector's mask count as zeros, which have no sign and no part."""
    if kernels:
        zero, *others = _alike([base, *models])
        found = np.empty(zero.size)
        kernels.elect(zero, tuple(others), tuple(masks), np.array(shares, float), float(scale), found)
        return found
    parts = [
        (np.where(mask, 1.0, 0.0) * difference(model, base), share)
        for model, mask, share in zip(models, masks, shares, strict=True)
    ]
    votes, total, weight = (np.zeros(base[0].size) for _ in range(3))
    for delta, share in parts:
        votes += share * delta
    for delta, share in parts:
        alike = ((delta > 0) & (votes > 0)) | ((delta < 0) & (votes < 0))
        mine = np.where(alike, share, 0.0)
        total += mine * delta
        weight += mine
    return total / np.where(weight == 0, 1.0, weight) * scale + widened(*base)


def inner_products(raws: Sequence[Raw]) -> np.ndarray:
    """[n, n]: the inner products of blocks of elements with each other; the lower triangle, zeros above."""
    found = np.zeros((len(raws), len(raws), _LANES))
    if kernels:
        kernels.inner_products(_alike(raws), found)
        return _folded(found)
    vectors = [widened(*raw) for raw in raws]
    whole = vectors[0].size // _LANES * _LANES
    for a, first in enumerate(vectors):
        for b, second in enumerate(vectors[: a + 1]):
            products = first * second
            np.add.reduce(products[:whole].reshape(-1, _LANES), 0, out=found[a, b])
            found[a, b, : products.size - whole] += products[whole:]
    return _folded(found)


def _folded(lanes: np.ndarray) -> np.ndarray:
    """Sums over the last axis, pair by pair."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def count_digits(sizes: np.ndarray, shift: int, prefix: int, counts: np.ndarray) -> None:
    """Add to `counts` [65536] how often each value of 16 bits stands at `shift` in the bits of non-negative
    float64 numbers, of those whose higher bits are `prefix`."""
    bits = sizes.view(np.uint64)
    if kernels:
        kernels.count_digits(bits, shift, prefix, counts)
        return
    high = bits >> np.uint64(shift)
    if shift < 48:
        high = high[(high >> np.uint64(16)) == prefix]
    counts += np.bincount((high & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)


def gather(sizes: np.ndarray, low: float, high: float, counts: np.ndarray, found: np.ndarray) -> None:
    """Write the values between `low` and `high` to the beginning of `found`, which has room for one more than
    all, and add to `counts` [4] how many are above `high`, as large as it, between, and as large as `low`."""
    if kernels:
        kernels.gather(sizes, low, high, counts, found)
        return
    chosen = sizes[(sizes > low) & (sizes < high)]
    found[: chosen.size] = chosen
    places = (sizes > high, sizes == high, chosen, sizes == low)
    counts += [each.size if each is chosen else np.count_nonzero(each) for each in places]
