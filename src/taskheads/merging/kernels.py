"""What `taskheads.merging.arithmetic` does with numpy, as compiled loops; only there where numba is.

No reassociation and no fused multiply-add: each operation rounds as numpy's does.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

# Compiled once on a machine; other threads run on meanwhile.
_compiled: Any = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")
_PART = 2048  # elements whose sums stay in the nearest cache


@_compiled
def _float(bits: Any) -> Any:
    """The number of a bfloat16."""
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@_compiled
def widen(raw: Any, found: Any) -> None:
    for i in range(raw.size):
        found[i] = _float(raw[i])


@_compiled
def _rounded(value: Any) -> Any:
    """The bits of the nearest bfloat16, of two the even one."""
    single = np.float32(value)
    bits = single.view(np.uint32)
    # Half-way between two in float32 may be on one side of it in float64.
    if np.uint32(bits & np.uint32(0xFFFF)) == np.uint32(0x8000):
        size, exact = abs(np.float64(single)), abs(value)
        if exact > size:
            bits = np.uint32(bits + np.uint32(1))
        elif exact < size:
            bits = np.uint32(bits - np.uint32(1))
    even = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(bits + np.uint32(np.uint32(0x7FFF) + even)) >> np.uint32(16))


@_compiled
def narrow(values: Any, found: Any) -> None:
    for i in range(values.size):
        found[i] = _rounded(values[i])


@_compiled
def _add_scaled(total: Any, raw: Any, weight: Any) -> None:
    for i in range(raw.size):
        total[i] += weight * _float(raw[i])


@_compiled
def mix(raws: Any, weights: Any, found: Any) -> None:
    sums = np.empty(_PART)
    for start in range(0, found.size, _PART):
        stop = min(start + _PART, found.size)
        # Loops over slices of their own: the compiler makes vector instructions of these alone.
        total = sums[: stop - start]
        total[:] = 0.0
        for t in range(len(raws)):
            _add_scaled(total, raws[t][start:stop], weights[t])
        narrow(total, found[start:stop])


@_compiled
def difference(model: Any, base: Any, found: Any) -> None:
    for i in range(model.size):
        found[i] = _float(model[i]) - _float(base[i])


@_compiled
def add_trimmed(total: Any, delta: Any, weight: Any, least: Any) -> None:
    for i in range(delta.size):
        total[i] += weight * (delta[i] if abs(delta[i]) >= least else 0.0)


@_compiled
def add_agreeing(total: Any, weights: Any, delta: Any, votes: Any, weight: Any, least: Any) -> None:
    for i in range(delta.size):
        alike = (delta[i] > 0 and votes[i] > 0) or (delta[i] < 0 and votes[i] < 0)
        mine = alike and abs(delta[i]) >= least
        total[i] += weight * delta[i] if mine else 0.0
        weights[i] += weight if mine else 0.0


@_compiled
def divide(total: Any, weights: Any) -> None:
    for i in range(total.size):
        total[i] /= weights[i] if weights[i] != 0 else 1.0


@_compiled
def keep_some(delta: Any, draws: Any, kept: Any, factor: Any) -> None:
    for i in range(delta.size):
        delta[i] *= factor if draws[i] < kept else 0.0


@_compiled
def count_digits(bits: Any, shift: Any, prefix: Any, counts: Any) -> None:
    low, high = np.uint64(shift), np.uint64(shift + 16)
    for i in range(bits.size):
        if shift == 48 or (bits[i] >> high) == np.uint64(prefix):
            counts[(bits[i] >> low) & np.uint64(0xFFFF)] += 1


@_compiled
def gather(sizes: Any, low: Any, high: Any, found: Any) -> Any:
    count = 0
    for i in range(sizes.size):
        # Written in any case: a branch here would be mispredicted every few elements.
        found[count] = sizes[i]
        count += (low <= sizes[i]) & (sizes[i] <= high)
    return count
