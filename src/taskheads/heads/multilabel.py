"""Any number of labels: a logistic regression for each, with thresholds tuned on dev."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import binary_cross_entropy_with_logits

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, probabilities
from taskheads.heads.linear import LinearHead
from taskheads.tasks.task import Task

# A label with fewer positive rows on dev shares the common threshold: its own would be noise.
_ENOUGH = 10
_GRID = np.arange(0.05, 0.96, 0.025)
_STEP = 4
# Decisions that are enough to fit two numbers to.
_FOR_TWO = 20_000


class MultilabelHead(LinearHead):
    """Binary logistic regression for each label; a row has the labels whose probability reaches a threshold.

    Thresholds: one for all labels that maximises the task's metric on dev, then, label by label where dev
    has at least ten positives, the one that maximises the label's F1.
    """

    kind = "multilabel"
    thresholds: torch.Tensor
    curvature = 0.25

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        self.register_buffer("thresholds", torch.full((self.outputs,), 0.5))

    def objective(
        self, scores: torch.Tensor, targets: torch.Tensor, extra: Any = (), lengths: Any = None
    ) -> torch.Tensor:
        # Summed over labels: each label's regression is then the one it would have alone.
        return binary_cross_entropy_with_logits(scores, targets.to(scores.dtype)) * self.outputs

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.to(torch.float32)

    def tune(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        factor, shift = _platt(scores, targets)
        self.rescale(factor, shift)
        scores = factor * scores + shift
        self.thresholds.copy_(torch.from_numpy(self._tuned(scores.sigmoid().numpy(), targets.numpy())))
        return scores

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        probability = scores.sigmoid().numpy()
        return Decisions(probability >= self.thresholds.numpy(), probability)

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        answers = []
        for chosen, row in zip(decisions.predicted, decisions.scores, strict=True):
            order = [i for i in np.argsort(-row, kind="stable") if chosen[i]]
            answer: dict[str, Any] = {"labels": [self.task.labels[i] for i in order]}
            if scores:
                answer["scores"] = probabilities(self.task.labels, row)
            answers.append(answer)
        return answers

    def _tuned(self, probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
        if not len(truth):
            return np.full(self.outputs, 0.5, np.float32)

        def utility(thresholds: Any) -> float:
            return self.metric.utility(self.metric.compute(truth, probability >= thresholds, probability))

        # In big steps, then in small ones around the best.
        coarse = max(_GRID[::_STEP], key=utility)
        common = max(_GRID[np.abs(_GRID - coarse) < _GRID[_STEP] - _GRID[0]], key=utility)
        thresholds = np.full(self.outputs, common)
        for label in np.flatnonzero(truth.sum(0) >= _ENOUGH):
            chosen = probability[:, label, None] >= _GRID
            hits = chosen[truth[:, label]].sum(0)
            thresholds[label] = _GRID[int(np.argmax(hits / (chosen.sum(0) + truth[:, label].sum())))]
        if utility(thresholds) < utility(common):
            thresholds[:] = common
        return thresholds.astype(np.float32)


def _platt(scores: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """factor and shift, common to all labels, under which the targets are likeliest (Platt 1999)."""
    if not len(targets):
        return 1.0, 0.0
    some = slice(None, None, max(1, scores.numel() // _FOR_TWO))
    plain, truth = scores[some].detach().double(), targets[some].double()

    def unlikely(parameters: np.ndarray) -> tuple[float, list[float]]:
        shifted = parameters[0] * plain + parameters[1]
        miss = shifted.sigmoid() - truth
        gradient = [float((miss * plain).mean()), float(miss.mean())]
        return float(binary_cross_entropy_with_logits(shifted, truth)), gradient

    # A factor of zero or below would lose or turn round the order of the labels.
    bounds = [(1e-3, 1e3), (-1e3, 1e3)]
    best = minimize(unlikely, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(best[0]), float(best[1])
