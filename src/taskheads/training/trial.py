"""One candidate of reads for one task: all that is tried of it, judged on dev."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from taskheads.heads import Head, LinearHead
from taskheads.model.evaluation import metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.labels import encode
from taskheads.tasks.task import Examples, Task, TaskData
from taskheads.training.basis import basis_of
from taskheads.training.solver import Basis, Block, LeastSquares, Solution, Subspace, Targets, solve

PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
# Of a head on its `plain` features alone: next to none.
PLAIN_PENALTY = 1e-4
# A head without a closed form is sought among the combinations of what least squares finds at two penalties,
# the best one and so many times that: few directions, and those that tell the outputs apart. Where that makes
# more than `DIRECTIONS`, the best one alone, which on the data sets of `benchmarks/quality.py` does a little
# worse on the whole.
SMOOTHER, DIRECTIONS = 10, 256
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

# Rows in principal axes, their targets, and the lengths of what they are the words of.
Rows = tuple[Subspace, torch.Tensor, list[int] | None]


@dataclass
class Fitted:
    """A head with what was chosen for it on dev, and what that took.

    dev: the task's metric on dev. factor: what calibration multiplied the scores by. tried: what it was
    chosen from, each with its own `dev`.
    """

    head: Head
    solver: str
    penalty: float
    dev: float
    factor: float = 1.0
    seconds: float = 0.0
    tried: list[dict[str, Any]] = field(default_factory=list)

    @property
    def utility(self) -> float:
        """`dev`, with its sign turned where lower is better."""
        return self.head.metric.utility(self.dev)

    @property
    def summary(self) -> dict[str, Any]:
        reads = [str(read) for read in self.head.reads]
        return {"reads": reads, "solver": self.solver, "penalty": self.penalty, "dev": self.dev}


class Answers:
    """What a task's rows should be answered: encoded targets of train and dev, train's also as numbers, and
    dev's for the metric."""

    def __init__(self, data: TaskData, head: LinearHead) -> None:
        self.train, self.dev = (encoded_targets(data.task, data.splits[split]) for split in ("train", "dev"))
        self.numbers = Targets(head.as_numbers(self.train))
        self.truth = truth_of(head, data.splits["dev"])


def encoded_targets(task: Task, examples: Examples) -> torch.Tensor:
    """The targets of these rows (of their words end to end) as `Head.loss` takes them; empty for `embed`."""
    if task.kind == "embed":
        return torch.empty(len(examples), 0)
    encoded = encode(task, examples)
    if isinstance(encoded, list):
        encoded = np.concatenate([np.empty(0, np.int64), *encoded])
    return torch.from_numpy(encoded)


class Trial:
    """One candidate of reads for one task: the basis of its features, and the solutions in it."""

    def __init__(
        self, head: LinearHead, data: TaskData, answers: Answers, features: FrozenFeatures, tried: list[dict]
    ) -> None:
        self.head, self.answers, self.tried = head, answers, tried
        self.basis, self.lengths = basis_of(features, head, data.splits["train"])
        self.dev, self.dev_lengths = features.of(head, data.splits["dev"])
        self._solved: set[float] = set()

    @cached_property
    def squares(self) -> LeastSquares:
        return LeastSquares(self.basis, self.answers.numbers)

    def least_squares(self, penalties: Sequence[float]) -> list[Fitted]:
        """The closed forms for those of the penalties that were not solved for before."""
        penalties = [penalty for penalty in penalties if penalty not in self._solved]
        self._solved.update(penalties)
        if not penalties:
            return []
        solutions = self.squares.solutions(penalties)
        # One product for all penalties: with few outputs, reading the features is what takes time.
        weights = torch.cat([solution.weight for solution in solutions], dim=1) * self.basis.scale[:, None]
        scores = (self.dev @ weights).split(self.head.outputs, dim=1)
        return [
            self._told(self._judge(solution, "least squares", unbiased + solution.bias))
            for solution, unbiased in zip(solutions, scores, strict=True)
        ]

    def plain(self) -> list[Fitted]:
        """Least squares on the head's `plain` features alone, if it has any."""
        if not self.head.plain:
            return []
        few = Basis([Block.of(self.basis.columns(self.head.plain))])
        (solution,) = LeastSquares(few, self.answers.numbers).solutions([PLAIN_PENALTY])
        weight = torch.zeros(self.head.features, self.head.outputs)
        weight[self.head.plain] = solution.weight
        bias = solution.bias - self.basis.mean @ weight
        return [self._told(self._judge(Solution(weight, bias, PLAIN_PENALTY), "plain"))]

    def maximum_likelihood(self, rival: Fitted) -> Fitted:
        """The solution whose penalty does best on dev, or `rival`, the best of least squares, if better.

        A few steps at a middling penalty show how good it will be: only where they come up to the rival is
        the penalty searched for, on as many rows as is cheap.
        """
        penalties = [rival.penalty, SMOOTHER * rival.penalty]
        found = self.squares.solutions(penalties[: max(1, DIRECTIONS // self.head.outputs)])
        subspace = self.basis.span(torch.cat([each.weight for each in found], dim=1))
        whole: Rows = (subspace, self.answers.train, self.lengths)
        middling = _nearest(max(LIGHTER * rival.penalty, LEAST))
        first = self._solve(whole, PENALTIES[middling], None, max_steps=FEW_STEPS)
        if self._judge(first, "first steps").utility < rival.utility:
            return rival
        part = SEARCHED / max(1, subspace.rows.numel() * max(self.head.outputs, THIN))
        best = self._climbed(whole, middling, first) if part >= 1 else self._of_sample(whole, part)
        fitted = self._told(self._judge(self._solve(whole, best.penalty, best), "maximum likelihood"))
        return fitted if fitted.utility >= rival.utility else rival

    def _climbed(self, rows: Rows, at: int, start: Solution | None) -> Solution:
        """From one of `PENALTIES` to its neighbours, as long as dev does not fall; heavier ones first."""

        def tried(at: int, start: Solution | None) -> tuple[float, Solution]:
            solution = self._solve(rows, PENALTIES[at], start, tolerance=ROUGHLY)
            return self._judge(solution, "search").utility, solution

        best = tried(at, start)
        for step in (-1, 1):
            place = at + step
            while 0 <= place < len(PENALTIES):
                other = tried(place, best[1])
                # A solution that took no step is the one before, under another name.
                if not other[1].steps or other[0] < best[0]:
                    break
                best, place = other, place + step
            if place != at + step:
                break
        return best[1]

    def _of_sample(self, whole: Rows, part: float) -> Solution:
        """As `_climbed`, on about `part` of the rows. The data's weight grows with the rows, the penalty's
        does not: the same prior is a smaller share of all."""
        some = self._sample(whole, part)
        best = self._climbed(some, 0, None)
        return replace(best, penalty=best.penalty * len(some[0].rows) / len(whole[0].rows))

    def finish(self, fitted: Fitted) -> None:
        """Take what is left to take from train and dev into the chosen head."""
        head = fitted.head
        assert isinstance(head, LinearHead)
        head.finish(self.answers.train, self.lengths)
        fitted.factor = head.calibrate(head(self.dev), self.answers.dev, self.dev_lengths)
        fitted.dev = self._on_dev(head, head(self.dev))

    def _judge(self, solution: Solution, solver: str, scores: torch.Tensor | None = None) -> Fitted:
        """The head with this solution (which gives dev these scores), judged on dev after its decisions are
        tuned there."""
        head = type(self.head)(self.head.task, self.head.reads, self.head.width)
        head.put(solution.weight * self.basis.scale[:, None], solution.bias, solution.extra)
        scores = head.tune(head(self.dev) if scores is None else scores, self.answers.dev)
        return Fitted(head, solver, solution.penalty, self._on_dev(head, scores))

    def _told(self, fitted: Fitted) -> Fitted:
        self.tried.append(fitted.summary)
        return fitted

    def _on_dev(self, head: Head, scores: torch.Tensor) -> float:
        return metric_value(head, self.answers.truth, head.decide(scores, self.dev_lengths))

    def _solve(self, rows: Rows, penalty: float, start: Solution | None, **how: float) -> Solution:
        (subspace, targets, lengths), head = rows, self.head
        assert head.curvature is not None
        with torch.enable_grad():
            return solve(
                subspace,
                lambda scores, extra: head.objective(scores, targets, extra, lengths),
                head.outputs,
                penalty,
                curvature=head.curvature,
                extra=head.extra,
                biased=head.biased,
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
        return replace(subspace, rows=subspace.rows[at]), targets[at], lengths


def _nearest(penalty: float) -> int:
    """Which of `PENALTIES` is nearest to this one."""
    return min(range(len(PENALTIES)), key=lambda at: abs(math.log(PENALTIES[at] / penalty)))
