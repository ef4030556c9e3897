"""Which elements are the largest: exactly, in a pass or a few over the blocks, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from taskheads.merging.arithmetic import count_digits, gather

_DIGIT = 16  # bits
# So few candidates are held and sorted; as float64 they are 32 MiB, of which only what is used is touched.
_HELD = 1 << 22
# The k-th is looked for within so many standard errors of where a sample has it: one in a million is missed.
_ERRORS = 5

Blocks = Callable[[], Iterable[np.ndarray]]


def kth_largest(sizes: Blocks, k: int, count: int, sample: np.ndarray) -> float:
    """The k-th largest of `count` non-negative float64 numbers that come in blocks, as often as `sizes` is
    called; k counts from 1.

    `sample` are some of them, spread evenly. Two of its values bracket the one that is looked for, most
    probably: one pass counts what is above and gathers what is between. (What is as large as one of the two
    is counted too: differences of rounded numbers come in heaps.) Where they do not, or too much is between,
    digits of the numbers are counted instead. The result does not depend on the sample.
    """
    if sample.size == count:
        return float(np.partition(sample, -k)[-k])
    found = _between(sizes, k, *_bracket(sample, k / count))
    return _by_digits(sizes, k) if found is None else found


def _between(sizes: Blocks, k: int, low: float, high: float) -> float | None:
    """The k-th largest, where it is from `low` to `high` and not too many others are between; else None."""
    held, counts = np.empty(_HELD), np.zeros(4, np.int64)
    for block in sizes():
        if counts[2] + block.size >= _HELD:
            return None
        gather(block, low, high, counts, held[counts[2] :])
    above, at_high, between, at_low = counts.tolist()
    at_low = 0 if low == high else at_low
    rank = k - above - at_high
    if not -at_high < rank <= between + at_low:
        return None
    if rank <= 0 or rank > between:
        return high if rank <= 0 else low
    held = held[:between]
    held.partition(between - rank)
    return float(held[between - rank])


def _bracket(sample: np.ndarray, share: float) -> tuple[float, float]:
    """Two values between which the largest `share` of all numbers end."""
    margin = _ERRORS * math.sqrt(sample.size * share * (1 - share)) + 1
    first, last = (round(share * sample.size + off) for off in (margin, -margin))
    ranked = np.sort(sample)[::-1]
    high = math.inf if last < 0 else float(ranked[last])
    return (0.0 if first >= sample.size else float(ranked[first])), high


def _by_digits(sizes: Blocks, k: int) -> float:
    """The k-th largest, digit by digit: the bits of a non-negative floating-point number, read as an integer,
    are in the order of the numbers, so that a histogram of their highest 16 bits says what these are of the
    k-th, and a histogram of the next 16 of those that begin so goes on, until these are few."""
    found, rank = 0, k
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for block in sizes():
            count_digits(block, shift, found, counts)
        above = counts[::-1].cumsum()
        from_top = int(np.searchsorted(above, rank))
        rank -= int(above[from_top - 1]) if from_top else 0
        found = (found << _DIGIT) | ((1 << _DIGIT) - 1 - from_top)
        if shift and counts[-1 - from_top] <= _HELD // 2:
            low, high = np.array([found << shift, ((found + 1) << shift) - 1], np.uint64).view(np.float64)
            few = _between(sizes, k, low, high)
            if few is not None:
                return few
    return float(np.array(found, np.uint64).view(np.float64))
