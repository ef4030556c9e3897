"""Fitting heads on a frozen backbone: each task chooses its reads and penalty on dev, and is solved for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.heads import EmbedHead, Head, LinearHead, head_for
from taskheads.heads.embed import MatchSpread
from taskheads.model.evaluation import metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.labels import encode
from taskheads.tasks.task import Examples, Task, TaskData
from taskheads.training.basis import basis_of
from taskheads.training.candidates import candidates_for
from taskheads.training.held_out import with_dev
from taskheads.training.solver import Basis, Leading, Solution, ridge, solve

# Every second one is tried on the first reads, on the next those beside the best so far.
RIDGE_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
# Of a head on its `plain` features alone: next to none.
PLAIN_PENALTY = 1e-4
SHRINKAGES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
# Principal axes that a head without a closed form is solved in. On the data sets of `benchmarks/quality.py`
# scores do not rise beyond this number.
AXES = 512
# Steps from zero after which a solution of largest likelihood is nearly as good as it will be. The curvature
# p (1 - p) is about a tenth of that of squares, and so is the penalty that shrinks as much; below `LEAST` it
# is the steps that end too soon.
FEW_STEPS = 8
LIGHTER, LEAST = 0.1, 1e-3
# Multiplications of one pass over the rows up to which the penalty is searched on all of them; above, on as
# many rows as that allows. A head with few outputs takes as long as one with `THIN`: reading the rows does.
SEARCHED = 4 * 10**7
THIN = 16
# Rows that the search has at least, if there are so many: in all, and for each output.
FEWEST, ROWS_AN_OUTPUT = 500, 8
# How far the search goes towards the minimum, as `tolerance` of `solve`.
ROUGHLY = 5e-4

# Rows in principal axes, their targets, and the lengths of what they are the words of.
Rows = tuple[Leading, torch.Tensor, list[int] | None]


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


class _Answers:
    """What a task's rows should be answered: encoded targets of train and dev, and dev's for the metric."""

    def __init__(self, data: TaskData, head: Head) -> None:
        self.train, self.dev = (encoded_targets(data.task, data.splits[split]) for split in ("train", "dev"))
        self.truth = truth_of(head, data.splits["dev"])


def encoded_targets(task: Task, examples: Examples) -> torch.Tensor:
    """The targets of these rows (of their words end to end) as `Head.loss` takes them; empty for `embed`."""
    if task.kind == "embed":
        return torch.empty(len(examples), 0)
    encoded = encode(task, examples)
    if isinstance(encoded, list):
        encoded = np.concatenate([np.empty(0, np.int64), *encoded])
    return torch.from_numpy(encoded)


def fit_head(
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    reads: Sequence[tuple[Read, ...]] | None = None,
) -> Fitted:
    """The head that does best on dev, by the task's metric, among all candidates of reads and penalties.

    `reads` are the sets of reads to choose from, in place of all candidates.
    """
    started = time.perf_counter()
    data = with_dev(data)
    with torch.no_grad():
        kind = head_for(data.task)
        fit = _fit_map if issubclass(kind, EmbedHead) else _fit_linear
        chosen = reads or candidates_for(backbone, kind, data.task)
        fitted = fit(kind, backbone, data, features, chosen)  # type: ignore[arg-type]
    fitted.seconds = time.perf_counter() - started
    return fitted


def _fit_linear(
    kind: type[LinearHead],
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    candidates: Sequence[tuple[Read, ...]],
) -> Fitted:
    best: Fitted | None = None
    answers: _Answers | None = None
    tried: list[dict[str, Any]] = []
    penalties: Sequence[float] = RIDGE_PENALTIES[1::2]
    for reads in candidates:
        head = kind(data.task, reads, backbone.width)
        answers = answers or _Answers(data, head)
        trial = _Trial(head, data, answers, features, tried)
        for fitted in [*trial.least_squares(penalties), *trial.plain()]:
            if best is None or fitted.utility > best.utility:
                best, best_trial = fitted, trial
            penalties = beside(best.penalty)
    assert best is not None
    best = max([best, *best_trial.least_squares(penalties)], key=lambda fitted: fitted.utility)
    if best_trial.head.curvature is not None:
        best = best_trial.maximum_likelihood(best)
    best_trial.finish(best)
    best.tried = tried
    return best


def beside(penalty: float) -> list[float]:
    """The penalties of least squares that are this one or next to it."""
    return [each for each in RIDGE_PENALTIES if 0.2 < each / penalty < 5]


class _Trial:
    """One candidate of reads for one task: the basis of its features, and the solutions in it."""

    def __init__(
        self, head: LinearHead, data: TaskData, answers: _Answers, features: FrozenFeatures, tried: list[dict]
    ) -> None:
        self.head, self.answers, self.tried = head, answers, tried
        self.basis, self.lengths = basis_of(features, head, data.splits["train"])
        self.dev, self.dev_lengths = features.of(head, data.splits["dev"])
        self._solved: set[float] = set()

    def least_squares(self, penalties: Sequence[float]) -> list[Fitted]:
        """The closed forms for those of the penalties that were not solved for before."""
        penalties = [penalty for penalty in penalties if penalty not in self._solved]
        self._solved.update(penalties)
        if not penalties:
            return []
        solutions = ridge(self.basis, self.head.as_numbers(self.answers.train), penalties)
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
        few = Basis(self.basis.centred[:, self.head.plain])
        (solution,) = ridge(few, self.head.as_numbers(self.answers.train), [PLAIN_PENALTY])
        weight = torch.zeros(self.head.features, self.head.outputs)
        weight[self.head.plain] = solution.weight
        bias = solution.bias - self.basis.mean @ weight
        return [self._told(self._judge(Solution(weight, bias, PLAIN_PENALTY), "plain"))]

    def maximum_likelihood(self, rival: Fitted) -> Fitted:
        """The solution whose penalty does best on dev, or `rival`, the best of least squares, if better.

        A few steps at a middling penalty show how good it will be: only where they come up to the rival is
        the penalty searched for, on as many rows as is cheap.
        """
        leading = self.basis.leading(AXES)
        whole: Rows = (leading, self.answers.train, self.lengths)
        first = self._solve(whole, max(LIGHTER * rival.penalty, LEAST), None, max_steps=FEW_STEPS)
        if self._judge(first, "first steps").utility < rival.utility:
            return rival
        part = SEARCHED / max(1, leading.rows.numel() * max(self.head.outputs, THIN))
        some = self._sample(whole, part) if part < 1 else whole
        best: tuple[float, Solution] | None = None
        solution: Solution | None = None
        worse = 0
        for penalty in PENALTIES:
            solution = self._solve(some, penalty, solution, tolerance=ROUGHLY)
            utility = self._judge(solution, "search").utility
            if best is None or utility > best[0]:
                best, worse = (utility, solution), 0
            elif (worse := worse + 1) == 2:
                break
        assert best is not None
        # The data's weight grows with the rows, the penalty's does not: the same prior is a smaller share.
        penalty = best[1].penalty * len(some[0].rows) / len(leading.rows)
        fitted = self._told(self._judge(self._solve(whole, penalty, best[1]), "maximum likelihood"))
        return fitted if fitted.utility >= rival.utility else rival

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
        (leading, targets, lengths), head = rows, self.head
        assert head.curvature is not None
        with torch.enable_grad():
            return solve(
                leading,
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
        leading, targets, lengths = whole
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
        return replace(leading, rows=leading.rows[at]), targets[at], lengths


def _fit_map(
    kind: type[EmbedHead],
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    candidates: Sequence[tuple[Read, ...]],
) -> Fitted:
    best: Fitted | None = None
    tried: list[dict[str, Any]] = []
    for reads in candidates:
        template = kind(data.task, reads, backbone.width)
        truth = truth_of(template, data.splits["dev"])
        train, _ = features.of(template, data.splits["train"])
        dev, _ = features.of(template, data.splits["dev"])
        spread = MatchSpread(train)
        for shrinkage in SHRINKAGES:
            head = kind(data.task, reads, backbone.width)
            head.put(spread, shrinkage)
            on_dev = metric_value(head, truth, head.decide(head(dev)))
            fitted = Fitted(head, "within-class covariance", shrinkage, on_dev)
            tried.append(fitted.summary)
            if best is None or fitted.utility > best.utility:
                best = fitted
    assert best is not None
    best.tried = tried
    return best
