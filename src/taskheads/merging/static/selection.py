"""Which elements of a tensor are the largest: exactly, in a few passes over the blocks, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from taskheads.merging.arithmetic import count_digits, gather

_DIGIT = 16  # bits
# So few candidates are held and sorted, in place of further passes.
_HELD = 1 << 20


def kth_largest(sizes: Callable[[], Iterable[np.ndarray]], k: int) -> float:
    """The k-th largest of non-negative float64 numbers that come in blocks, as often as `sizes` is called.

    The bits of a non-negative floating-point number, read as an integer, are in the order of the numbers. So
    a histogram of their highest 16 bits says in which bin the k-th stands. Once a bin holds few enough
    numbers they are gathered; before that, a histogram of the next 16 bits within it goes on. k counts
    from 1.
    """
    found, rank = 0, k
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for block in sizes():
            count_digits(block, shift, found, counts)
        above = counts[::-1].cumsum()
        from_top = int(np.searchsorted(above, rank))
        rank -= int(above[from_top - 1]) if from_top else 0
        found = (found << _DIGIT) | ((1 << _DIGIT) - 1 - from_top)
        if shift and counts[-1 - from_top] <= _HELD:
            low, high = np.array([found << shift, ((found + 1) << shift) - 1], np.uint64).view(np.float64)
            held, count = np.empty(counts[-1 - from_top] + 1), 0
            for block in sizes():
                count += gather(block, low, high, held[count:])
            return float(np.partition(held[:-1], -rank)[-rank])
    return float(np.array(found, np.uint64).view(np.float64))
