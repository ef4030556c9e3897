"""The penalty at which a head of largest likelihood does best on dev."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from taskheads.heads import LinearHead
from taskheads.training.solver import Solution, Subspace, solve

PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
# Steps from zero after which a solution of largest likelihood is nearly as good as it will be. The curvature
# p (1 - p) is about a tenth of that of squares, and so is the penalty that shrinks as much; below `LEAST` it
# is the steps that end too soon.
FEW_STEPS = 8
LIGHTER, LEAST = 0.1, 1e-3
# Multiplications of one pass over the rows up to which the penalty is searched on all of them; above, on as
# many rows as that allows. A head with few outputs takes as long as one with `THIN`: reading the rows does.
SEARCHED = 10**9
THIN = 16
# Rows that the search has at least, if there are so many: in all, and for each output.
FEWEST, ROWS_AN_OUTPUT = 500, 8
# How far the search goes towards the minimum, as `tolerance` of `solve`.
ROUGHLY = 3e-4


class Rows(NamedTuple):
    """Rows in principal axes, their targets, and the lengths of what they are the words of, if they are."""

    subspace: Subspace
    targets: torch.Tensor
    lengths: list[int] | None


def likeliest(
    head: LinearHead,
    rows: Rows,
    utility: Callable[[Solution], float],
    penalty: float,
    to_be_reached: float,
) -> Solution | None:
    """The solution of largest likelihood at that penalty of `PENALTIES` which `utility` rates best.

    A few steps at a middling penalty, as much as `penalty` is for least squares, show how good it will be:
    only where they come up to the utility `to_be_reached` is the penalty searched for, on as many rows as is
    cheap. None where they do not.
    """
    search = _Search(head, utility)
    middling = _nearest(max(LIGHTER * penalty, LEAST))
    first = search.solve(rows, PENALTIES[middling], None, max_steps=FEW_STEPS)
    if utility(first) < to_be_reached:
        return None
    part = SEARCHED / max(1, rows.subspace.rows.numel() * max(head.outputs, THIN))
    best = search.climbed(rows, middling, first) if part >= 1 else search.of_sample(rows, part)
    return search.solve(rows, best.penalty, best)


class _Search(NamedTuple):
    head: LinearHead
    utility: Callable[[Solution], float]

    def climbed(self, rows: Rows, at: int, start: Solution | None) -> Solution:
        """From one of `PENALTIES` to its neighbours, as long as dev does not fall; heavier ones first, and
        lighter ones where those are no better."""

        def tried(at: int, start: Solution | None) -> tuple[float, Solution]:
            solution = self.solve(rows, PENALTIES[at], start, tolerance=ROUGHLY)
            return self.utility(solution), solution

        best = tried(at, start)
        for step in (-1, 1):
            before, place = best[0], at + step
            while 0 <= place < len(PENALTIES):
                other = tried(place, best[1])
                # A solution that took no step is the one before, under another name.
                if not other[1].steps or other[0] < best[0]:
                    break
                best, place = other, place + step
            if best[0] > before:
                break
        return best[1]

    def of_sample(self, whole: Rows, part: float) -> Solution:
        """As `climbed`, on about `part` of the rows. The data's weight grows with the rows, the penalty's
        does not: the same prior is a smaller share of all."""
        some = self._sample(whole, part)
        best = self.climbed(some, 0, None)
        return replace(best, penalty=best.penalty * len(some.subspace.rows) / len(whole.subspace.rows))

    def solve(self, rows: Rows, penalty: float, start: Solution | None, **how: float) -> Solution:
        assert self.head.curvature is not None
        return solve(
            rows.subspace,
            lambda scores, extra: self.head.objective(scores, rows.targets, extra, rows.lengths),
            self.head.outputs,
            penalty,
            curvature=self.head.curvature,
            extra=self.head.extra,
            biased=self.head.biased,
            start=start,
            **how,  # type: ignore[arg-type]
        )

    def _sample(self, whole: Rows, part: float) -> Rows:
        """Evenly spaced rows, about `part` of all."""
        subspace, targets, lengths = whole
        n = len(targets) if lengths is None else len(lengths)
        count = max(int(n * part), min(n, max(FEWEST, ROWS_AN_OUTPUT * self.head.outputs)))
        rows = np.unique(np.linspace(0, n - 1, count).astype(int))
        kept = rows
        if lengths is not None:
            chosen = np.zeros(n, bool)
            chosen[rows] = True
            kept = np.flatnonzero(np.repeat(chosen, lengths))
            lengths = [lengths[row] for row in rows]
        at = torch.from_numpy(kept)
        return Rows(replace(subspace, rows=subspace.rows[at]), targets[at], lengths)


def _nearest(penalty: float) -> int:
    """Which of `PENALTIES` is nearest to this one."""
    return min(range(len(PENALTIES)), key=lambda at: abs(math.log(PENALTIES[at] / penalty)))
