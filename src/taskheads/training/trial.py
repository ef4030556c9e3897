"""One candidate of reads for one task: all that is tried of it, judged on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from taskheads.training.likelihood import Rows, likeliest
from taskheads.training.solver import Basis, Block, LeastSquares, Solution, Targets

# Of a head on its `plain` features alone: next to none.
PLAIN_PENALTY = 1e-4
# A head without a closed form is sought among the combinations of what least squares finds at two penalties,
# the best one and so many times that: few directions, and those that tell the outputs apart. Where that makes
# more than `DIRECTIONS`, the best one alone, which on the data sets of `benchmarks/quality.py` does a little
# worse on the whole.
SMOOTHER, DIRECTIONS = 10, 256


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
        self._solutions: dict[float, Solution] = {}

    @cached_property
    def squares(self) -> LeastSquares:
        return LeastSquares(self.basis, self.answers.numbers)

    def least_squares(self, penalties: Sequence[float]) -> list[Fitted]:
        """The closed forms for those of the penalties that were not solved for before."""
        if not (penalties := [penalty for penalty in penalties if penalty not in self._solutions]):
            return []
        solutions = self._least_squares(penalties)
        # One product for all penalties: with few outputs, reading the features is what takes time.
        weights = torch.cat([solution.weight for solution in solutions], dim=1) * self.basis.scale[:, None]
        scores = (self.dev @ weights).split(self.head.outputs, dim=1)
        return [
            self._told(self._judge(solution, "least squares", unbiased + solution.bias))
            for solution, unbiased in zip(solutions, scores, strict=True)
        ]

    def _least_squares(self, penalties: Sequence[float]) -> list[Solution]:
        unsolved = [penalty for penalty in penalties if penalty not in self._solutions]
        self._solutions |= dict(zip(unsolved, self.squares.solutions(unsolved), strict=True))
        return [self._solutions[penalty] for penalty in penalties]

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
        """The solution whose penalty does best on dev, or `rival`, the best of least squares, if better."""
        # Rounded, so that ten times one penalty is the other that was solved for.
        smoother = round(SMOOTHER * rival.penalty, 6)
        directions = self._least_squares([rival.penalty, smoother][: max(1, DIRECTIONS // self.head.outputs)])
        subspace = self.basis.span(torch.cat([each.weight for each in directions], dim=1))
        dev = self.dev @ (subspace.axes * self.basis.scale[:, None])

        def judged(solution: Solution) -> Fitted:
            assert solution.inner is not None
            scores = torch.addmm(solution.bias, dev, solution.inner)
            return self._judge(solution, "maximum likelihood", scores)

        rows = Rows(subspace, self.answers.train, self.lengths)
        best = likeliest(
            self.head, rows, lambda solution: judged(solution).utility, rival.penalty, rival.utility
        )
        if best is None:
            return rival
        fitted = self._told(judged(best))
        return fitted if fitted.utility >= rival.utility else rival

    def finish(self, fitted: Fitted) -> None:
        """Take what is left to take from train and dev into the chosen head."""
        head = fitted.head
        assert isinstance(head, LinearHead)
        head.finish(self.answers.train, self.lengths)
        scores = head(self.dev)
        fitted.factor = head.calibrate(scores, self.answers.dev, self.dev_lengths)
        fitted.dev = self._on_dev(head, scores * fitted.factor)

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
