"""Fitting heads on a frozen backbone: each task chooses its reads and penalty on dev, and is solved for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.evaluation import utility
from taskheads.heads import EmbedHead, Head, LinearHead, head_for
from taskheads.heads.embed import MatchSpread
from taskheads.tasks.labels import encode
from taskheads.tasks.task import Examples, TaskData
from taskheads.training.candidates import candidates_for
from taskheads.training.features import FrozenFeatures
from taskheads.training.solver import Solution, ridge, solve

RIDGE_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
SHRINKAGES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
# Principal axes that a head without a closed form is solved in. On the data sets of `benchmarks/quality.py`
# scores do not rise beyond this number.
AXES = 512
# Multiplications of one pass over the rows up to which the penalty is searched on all of them; above, on as
# many rows as that allows.
SEARCHED = 10**8


@dataclass
class Fitted:
    """A head with what was chosen for it on dev, and what that took."""

    head: Head
    solver: str
    penalty: float
    dev: float
    seconds: float = 0.0
    tried: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Split:
    """The rows of one split: features, targets as tensors, and the words of each row under `words` reads."""

    features: torch.Tensor
    targets: torch.Tensor
    lengths: list[int] | None


def fit_head(backbone: Backbone, data: TaskData, features: FrozenFeatures) -> Fitted:
    """The head that does best on dev, by the task's metric, among all candidates of reads and penalties."""
    started = time.perf_counter()
    with torch.no_grad():
        kind = head_for(data.task)
        fit = _fit_map if issubclass(kind, EmbedHead) else _fit_linear
        fitted = fit(kind, backbone, data, features)  # type: ignore[arg-type]
    fitted.seconds = time.perf_counter() - started
    return fitted


def _fit_linear(
    kind: type[LinearHead], backbone: Backbone, data: TaskData, features: FrozenFeatures
) -> Fitted:
    best: Fitted | None = None
    tried: list[dict[str, Any]] = []
    for reads in candidates_for(backbone, kind, data.task):
        trial = _Trial(kind(data.task, reads, backbone.width), data, features)
        for solution in trial.ridges():
            fitted = trial.judge(solution, "least squares", tried)
            if best is None or fitted.dev > best.dev:
                best, best_trial = fitted, trial
    assert best is not None
    if best_trial.head.curvature is not None:
        fitted = best_trial.judge(best_trial.solved(), "maximum likelihood", tried)
        if fitted.dev >= best.dev:
            best = fitted
    best_trial.finish(best.head)
    best.tried = tried
    return best


class _Trial:
    """One candidate of reads for one task: its features, and the solutions on them."""

    def __init__(self, head: LinearHead, data: TaskData, features: FrozenFeatures) -> None:
        self.head, self.data = head, data
        self.train, self.dev = (self._split(features, data.splits[name]) for name in ("train", "dev"))
        # Reads differ in scale; each is brought to mean square one, so that the penalty is fair to all.
        blocks = self.train.features.view(len(self.train.features), len(head.reads), -1)
        scale = (blocks - blocks.mean(0)).square().mean((0, 2)).clamp_min(1e-12).rsqrt()
        self.scale = scale.repeat_interleave(blocks.shape[2])
        self.basis = features.basis(head, data.splits["train"], lambda: self.train.features * self.scale)

    def ridges(self) -> list[Solution]:
        return ridge(self.basis, self.head.as_numbers(self.train.targets), RIDGE_PENALTIES)

    def solved(self) -> Solution:
        """The maximum-likelihood solution, its penalty chosen by dev on as many rows as is cheap."""
        leading = self.basis.leading(AXES)
        outputs = self.head.outputs
        some, targets, lengths = leading, self.train.targets, self.train.lengths
        part = SEARCHED / (leading.rows.numel() * outputs)
        if part < 1:
            targets, lengths, kept = self._sample(part)
            some = type(leading)(leading.rows[kept], leading.variances, leading.axes, leading.mean)
        best, best_utility, worse = None, -np.inf, 0
        solution: Solution | None = None
        for penalty in PENALTIES:
            solution = self._solve(some, targets, lengths, penalty, solution)
            value = self.judge(solution, "search", []).dev
            worse = 0 if value > best_utility else worse + 1
            if value > best_utility:
                best, best_utility = solution, value
            if worse == 2:
                break
        assert best is not None
        if part >= 1:
            return best
        # The data's weight grows with the rows, the penalty's does not: the same prior is a smaller share.
        return self._solve(leading, self.train.targets, self.train.lengths, best.penalty * part, best)

    def judge(self, solution: Solution, solver: str, tried: list[dict[str, Any]]) -> Fitted:
        """The head with this solution, scored on dev after its decisions are tuned there."""
        head = type(self.head)(self.data.task, self.head.reads, self.head.width)
        weight = solution.weight * self.scale[:, None]
        head.put(weight, solution.bias, solution.extra)
        scores = head(self.dev.features)
        head.tune(scores, self.dev.targets)
        made = head.decide(head(self.dev.features), self.dev.lengths)
        dev = utility(head, self.data.splits["dev"], made)
        tried.append(
            {
                "reads": [str(read) for read in head.reads],
                "solver": solver,
                "penalty": solution.penalty,
                "dev": dev,
            }
        )
        return Fitted(head, solver, solution.penalty, dev)

    def finish(self, head: Head) -> None:
        assert isinstance(head, LinearHead)
        head.finish(self.train.targets, self.train.lengths)
        head.calibrate(head(self.dev.features), self.dev.targets, self.dev.lengths)

    def _solve(
        self,
        leading: Any,
        targets: torch.Tensor,
        lengths: list[int] | None,
        penalty: float,
        start: Solution | None,
    ) -> Solution:
        head = self.head
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
            )

    def _split(self, features: FrozenFeatures, examples: Examples) -> _Split:
        gathered, lengths = features.of(self.head, examples)
        encoded = encode(self.data.task, examples)
        if isinstance(encoded, list):
            encoded = np.concatenate(encoded) if encoded else np.empty(0, np.int64)
        return _Split(gathered, torch.from_numpy(encoded), lengths)

    def _sample(self, part: float) -> tuple[torch.Tensor, list[int] | None, torch.Tensor]:
        """Evenly spaced rows, about `part` of all: their targets, lengths, and which features are theirs."""
        lengths = self.train.lengths
        n = len(self.train.targets) if lengths is None else len(lengths)
        rows = np.unique(np.linspace(0, n - 1, max(int(n * part), min(n, 500))).astype(int))
        if lengths is None:
            kept = torch.from_numpy(rows)
            return self.train.targets[kept], None, kept
        chosen = np.zeros(n, bool)
        chosen[rows] = True
        kept = torch.from_numpy(np.flatnonzero(np.repeat(chosen, lengths)))
        return self.train.targets[kept], [lengths[row] for row in rows], kept


def _fit_map(kind: type[EmbedHead], backbone: Backbone, data: TaskData, features: FrozenFeatures) -> Fitted:
    best: Fitted | None = None
    tried: list[dict[str, Any]] = []
    for reads in candidates_for(backbone, kind, data.task):
        template = kind(data.task, reads, backbone.width)
        train, _ = features.of(template, data.splits["train"])
        dev, _ = features.of(template, data.splits["dev"])
        spread = MatchSpread(train)
        for shrinkage in SHRINKAGES:
            head = kind(data.task, reads, backbone.width)
            head.put(spread, shrinkage)
            value = utility(head, data.splits["dev"], head.decide(head(dev)))
            tried.append({"reads": _names(reads), "solver": "wccn", "penalty": shrinkage, "dev": value})
            if best is None or value > best.dev:
                best = Fitted(head, "within-class covariance", shrinkage, value)
    assert best is not None
    best.tried = tried
    return best


def _names(reads: Sequence[Read]) -> list[str]:
    return [str(read) for read in reads]
