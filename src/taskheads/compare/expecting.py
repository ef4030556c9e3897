"""How long a run will take at the least, told from runs that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from taskheads.compare.bench import Result


class Expected(NamedTuple):
    """steps: seconds of the fewest steps that a run takes. beside: those of all else, heads and dev."""

    steps: float
    beside: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.steps + self.beside


def expected(seen: Sequence[Result], part: float, rows: Callable[[float], int]) -> Expected | None:
    """The mean of what was seen, on this part of the rows: what a run does beside its steps grows with the
    rows that it sees, which `rows` counts, and a step does not. None where nothing has ended with a score."""
    ended = [each for each in seen if not each.problem]
    if not ended:
        return None
    beside = [each.beside * rows(part) / rows(each.part) for each in ended]
    return Expected(float(np.mean([each.shortest for each in ended])), float(np.mean(beside)))
