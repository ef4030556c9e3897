"""The arithmetic of merging on blocks of elements: always in float64, and rounded once at the end.

With numba (the extra `kernels`) each of these is one compiled loop; without it numpy does the same operations
in the same order, and the results are the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskheads.merging.files.stored import STORED

try:
    from taskheads.merging import kernels
except (ImportError, RuntimeError):  # numba is not there, or has nowhere to keep what it compiled
    kernels = None  # type: ignore[assignment]


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
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def all_finite(raw: np.ndarray, dtype: str) -> bool:
    """Whether stored elements are numbers, none infinite."""
    if dtype == "BF16":
        return not raw.size or bool(((raw & 0x7FFF).max()) < 0x7F80)
    return bool(np.isfinite(raw).all())


def mixed(parts: Sequence[tuple[np.ndarray, str, float]], dtype: str) -> np.ndarray:
    """Σ weight · elements, of (stored elements, their type, weight), as stored elements of a type."""
    if kernels and {dtype, *(kind for _, kind, _ in parts)} == {"BF16"}:
        found = np.empty(parts[0][0].size, np.uint16)
        kernels.mix(tuple(raw for raw, _, _ in parts), np.array([weight for *_, weight in parts]), found)
        return found
    return narrowed(weighted_sum(parts), dtype)


def weighted_sum(parts: Sequence[tuple[np.ndarray, str, float]]) -> np.ndarray:
    """As `mixed`, in float64."""
    total = np.zeros(parts[0][0].size)
    for raw, kind, weight in parts:
        total += weight * widened(raw, kind)
    return total


def difference(model: np.ndarray, base: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements minus others of the same type, in float64."""
    if kernels and dtype == "BF16":
        found = np.empty(model.size)
        kernels.difference(model, base, found)
        return found
    return widened(model, dtype) - widened(base, dtype)


def agreed(deltas: Sequence[np.ndarray], weights: Sequence[float], least: Sequence[float]) -> np.ndarray:
    """The disjoint mean of TIES: per element, the weighted mean of the values whose sign is that of the
    weighted sum of all; 0 where that sum is 0. Values below `least` in magnitude count as zeros, which have
    no sign and no part."""
    votes, total, weight = (np.zeros(deltas[0].size) for _ in range(3))
    parts = [*zip(deltas, weights, least, strict=True)]
    if kernels:
        for delta, share, bound in parts:
            kernels.add_trimmed(votes, delta, share, bound)
        for delta, share, bound in parts:
            kernels.add_agreeing(total, weight, delta, votes, share, bound)
        kernels.divide(total, weight)
        return total
    for delta, share, bound in parts:
        votes += share * np.where(np.abs(delta) >= bound, delta, 0.0)
    for delta, share, bound in parts:
        mine = (np.abs(delta) >= bound) & (np.sign(delta) * np.sign(votes) > 0)
        total += np.where(mine, share * delta, 0.0)
        weight += np.where(mine, share, 0.0)
    return total / np.where(weight == 0, 1.0, weight)


def keep_some(delta: np.ndarray, draws: np.ndarray, kept: int) -> None:
    """Multiply by 65536 / kept where a 16-bit draw is below `kept`, and by 0 elsewhere, in place."""
    if kernels:
        kernels.keep_some(delta, draws, kept, 65536 / kept)
    else:
        delta *= np.where(draws < kept, 65536 / kept, 0.0)


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


def gather(sizes: np.ndarray, low: float, high: float, found: np.ndarray) -> int:
    """Write the values from `low` to `high`, both included, to the beginning of `found`, which has
    room for one more: how many."""
    if kernels:
        return int(kernels.gather(sizes, low, high, found))
    chosen = sizes[(sizes >= low) & (sizes <= high)]
    found[: chosen.size] = chosen
    return chosen.size
