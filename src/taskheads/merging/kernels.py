"""What `taskheads.merging.arithmetic` does with numpy, as compiled loops; only there where numba is.

No reassociation and no fused multiply-add: each operation rounds as numpy's does. What a mask leaves out is
multiplied with 0, so that what is no finite number shows in the result, wherever it stood. Loops over several
arrays go part by part, and each inner loop is a function of its own over whole slices: the compiler makes
vector instructions of these alone.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numba.extending import overload

# Compiled once on a machine; other threads run on meanwhile.
_compiled: Any = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")
_PART = 2048  # elements whose sums stay in the nearest cache
LANES = 64  # sums of products side by side, in an order that depends on no processor


def _float(element: Any) -> Any:
    """The number of a bfloat16, of which the bits are given, or of a float64."""


@overload(_float)
def _float_of(element: Any) -> Any:
    def itself(element: Any) -> Any:
        return element

    def decoded(element: Any) -> Any:
        return np.float64(np.uint32(np.uint32(element) << np.uint32(16)).view(np.float32))

    return itself if isinstance(element, numba.types.Float) else decoded


@_compiled
def widen(raw: Any, found: Any) -> None:
    for i in range(raw.size):
        found[i] = _float(raw[i])


@_compiled
def finite(raw: Any) -> Any:
    """Whether no exponent of these bits of bfloat16 is the one of infinity and of what is no number."""
    largest = np.uint16(0)
    for i in range(raw.size):
        largest = max(largest, np.uint16(raw[i] & np.uint16(0x7FFF)))
    return largest < np.uint16(0x7F80)


@_compiled
def _narrow_normal(values: Any, found: Any) -> Any:
    """Round each number to the 8 binary digits of a bfloat16, and write it. Whether one is beyond that:
    smaller than what has so many, or no number at all."""
    beyond = False
    for i in range(values.size):
        bits = np.float64(values[i]).view(np.uint64)
        even = np.uint64(np.uint64(bits >> np.uint64(45)) & np.uint64(1))
        bits = np.uint64(bits + np.uint64(0xFFF_FFFF_FFFF) + even) & np.uint64(0xFFFF_E000_0000_0000)
        single = np.float32(np.uint64(bits).view(np.float64)).view(np.uint32)
        beyond |= (np.uint32(single & np.uint32(0x7F80_0000)) == 0) & (values[i] != 0)
        found[i] = np.uint16(single >> np.uint32(16))
    return beyond


@_compiled
def _rounded(value: Any) -> Any:
    """The bits of the nearest bfloat16, of two the even one."""
    if value != value:
        return np.uint16(0x7FC0)
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
    for start in range(0, values.size, _PART):
        mine, bits = values[start : start + _PART], found[start : start + _PART]
        if _narrow_normal(mine, bits):
            for i in range(mine.size):
                bits[i] = _rounded(mine[i])


@_compiled
def _scale(raw: Any, weight: Any, total: Any) -> None:
    for i in range(raw.size):
        total[i] = weight * _float(raw[i])


@_compiled
def _add_scaled(total: Any, raw: Any, weight: Any) -> None:
    for i in range(raw.size):
        total[i] += weight * _float(raw[i])


@_compiled
def mix(raws: Any, weights: Any, found: Any) -> None:
    sums = np.empty(_PART)
    for start in range(0, found.size, _PART):
        stop = min(start + _PART, found.size)
        total = sums[: stop - start]
        _scale(raws[0][start:stop], weights[0], total)
        for t in range(1, len(raws)):
            _add_scaled(total, raws[t][start:stop], weights[t])
        narrow(total, found[start:stop])


@_compiled
def difference(model: Any, base: Any, found: Any) -> None:
    for i in range(model.size):
        found[i] = _float(model[i]) - _float(base[i])


@_compiled
def within(model: Any, base: Any, low: Any, high: Any, found: Any) -> None:
    for i in range(model.size):
        size = abs(_float(model[i]) - _float(base[i]))
        found[i] = (size >= low) & (size < high)


@_compiled
def _add_masked(total: Any, model: Any, base: Any, mask: Any, factor: Any) -> None:
    for i in range(model.size):
        delta = _float(model[i]) - _float(base[i])
        total[i] += (factor if mask[i] else 0.0) * delta


@_compiled
def add_up(base: Any, models: Any, masks: Any, factors: Any, found: Any) -> None:
    for start in range(0, found.size, _PART):
        stop = min(start + _PART, found.size)
        total, zero = found[start:stop], base[start:stop]
        total[:] = 0.0
        for t in range(len(models)):
            _add_masked(total, models[t][start:stop], zero, masks[t][start:stop], factors[t])
        _add_scaled(total, zero, 1.0)


@_compiled
def _masked(model: Any, base: Any, mask: Any, found: Any) -> None:
    for i in range(model.size):
        found[i] = (1.0 if mask[i] else 0.0) * (_float(model[i]) - _float(base[i]))


@_compiled
def _add(total: Any, part: Any, weight: Any) -> None:
    for i in range(total.size):
        total[i] += weight * part[i]


@_compiled
def _add_agreeing(total: Any, weights: Any, delta: Any, votes: Any, weight: Any) -> None:
    for i in range(total.size):
        alike = ((delta[i] > 0) & (votes[i] > 0)) | ((delta[i] < 0) & (votes[i] < 0))
        mine = weight if alike else 0.0
        total[i] += mine * delta[i]
        weights[i] += mine


@_compiled
def _mean_on_base(total: Any, weights: Any, base: Any, scale: Any) -> None:
    for i in range(total.size):
        mean = total[i] / (weights[i] if weights[i] != 0 else 1.0)
        total[i] = mean * scale + _float(base[i])


@_compiled
def elect(base: Any, models: Any, masks: Any, shares: Any, scale: Any, found: Any) -> None:
    scratch = np.empty((len(models) + 2) * _PART)
    for start in range(0, found.size, _PART):
        stop = min(start + _PART, found.size)
        total, votes, weights = (
            found[start:stop],
            scratch[: stop - start],
            scratch[_PART : _PART + stop - start],
        )
        total[:] = 0.0
        votes[:] = 0.0
        weights[:] = 0.0
        for t in range(len(models)):
            delta = scratch[(t + 2) * _PART : (t + 2) * _PART + stop - start]
            _masked(models[t][start:stop], base[start:stop], masks[t][start:stop], delta)
            _add(votes, delta, shares[t])
        for t in range(len(models)):
            delta = scratch[(t + 2) * _PART : (t + 2) * _PART + stop - start]
            _add_agreeing(total, weights, delta, votes, shares[t])
        _mean_on_base(total, weights, base[start:stop], scale)


@_compiled
def _add_products(first: Any, second: Any, lanes: Any) -> None:
    whole = first.size // LANES * LANES
    for start in range(0, whole, LANES):
        some, others = first[start : start + LANES], second[start : start + LANES]
        for i in range(LANES):
            lanes[i] += some[i] * others[i]
    for i in range(first.size - whole):
        lanes[i] += first[whole + i] * second[whole + i]


@_compiled
def inner_products(raws: Any, lanes: Any) -> None:
    rows = np.empty(len(raws) * _PART)
    for start in range(0, raws[0].size, _PART):
        count = min(_PART, raws[0].size - start)
        for a in range(len(raws)):
            mine = rows[a * _PART : a * _PART + count]
            widen(raws[a][start : start + count], mine)
            for b in range(a + 1):
                _add_products(mine, rows[b * _PART : b * _PART + count], lanes[a, b])


@_compiled
def magnitude(model: Any, base: Any, found: Any) -> None:
    for i in range(model.size):
        found[i] = abs(_float(model[i]) - _float(base[i]))


@_compiled
def _mark(sizes: Any, low: Any, high: Any, mask: Any, counts: Any) -> None:
    above, at_high, at_low = 0, 0, 0
    for i in range(sizes.size):
        mask[i] = (low < sizes[i]) & (sizes[i] < high)
        above += sizes[i] > high
        at_high += sizes[i] == high
        at_low += sizes[i] == low
    counts[0] += above
    counts[1] += at_high
    counts[3] += at_low


@_compiled
def _gather_marked(sizes: Any, mask: Any, found: Any) -> Any:
    count, words = 0, mask.view(np.uint64)
    for word in range(words.size):
        if words[word]:
            for i in range(8 * word, min(8 * word + 8, sizes.size)):
                # Written in any case: a branch here would be mispredicted.
                found[count] = sizes[i]
                count += mask[i]
    return count


@_compiled
def gather(sizes: Any, low: Any, high: Any, counts: Any, found: Any) -> None:
    mask, count = np.zeros(_PART, np.bool_), 0
    for start in range(0, sizes.size, _PART):
        mine = sizes[start : start + _PART]
        mask[mine.size :] = False
        _mark(mine, low, high, mask, counts)
        count += _gather_marked(mine, mask, found[count:])
    counts[2] += count


@_compiled
def count_digits(bits: Any, shift: Any, prefix: Any, counts: Any) -> None:
    low, high = np.uint64(shift), np.uint64(shift + 16)
    for i in range(bits.size):
        if shift == 48 or (bits[i] >> high) == np.uint64(prefix):
            counts[(bits[i] >> low) & np.uint64(0xFFFF)] += 1
