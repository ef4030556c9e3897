"""Successive halving: many candidates on little data, the best of them on more.

Jamieson and Talwalkar 2016 (arXiv:1502.07943), with the factor 3 of Li et al. 2018 (arXiv:1603.06560).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

FACTOR = 3
# The least share of the data from which anything can be told, and so the most rungs.
_MOST_RUNGS = 4
# Candidates among which there is nothing to halve.
_FEWEST = 2

Name = TypeVar("Name")


def parts_of(count: int) -> list[float]:
    """The share of the data on each rung, for so many candidates: 1/9, 1/3, 1."""
    rungs = 1 + math.ceil(math.log(max(1, count / _FEWEST), FACTOR) - 1e-9)
    return [FACTOR ** float(at - min(rungs, _MOST_RUNGS) + 1) for at in range(min(rungs, _MOST_RUNGS))]


def left(candidates: int, rung: int) -> int:
    """How many of the candidates of the first rung, 0, go on to this one."""
    return max(min(candidates, _FEWEST), math.ceil(candidates / FACTOR**rung))


def ranked(qualities: Mapping[Name, Sequence[float]]) -> list[Name]:
    """Candidates by their mean quality over seeds, the best first; of equal ones, the one that came first."""
    return sorted(qualities, key=lambda name: -sum(qualities[name]) / len(qualities[name]))
