"""Any number of labels: a logistic regression for each, with thresholds tuned on dev."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, probabilities
from taskheads.heads.linear import LinearHead
from taskheads.heads.ordinal import likeliest_cuts
from taskheads.tasks.task import Task

# A label with fewer positive rows on dev shares the common threshold: its own would be noise.
_ENOUGH = 10
_GRID = np.arange(0.05, 0.96, 0.025, dtype=np.float32)
# Decisions that are enough to fit two numbers to.
_FOR_TWO = 20_000


class MultilabelHead(LinearHead):
    """Binary logistic regression for each label; a row has the labels whose probability reaches a threshold.

    Thresholds, on dev: one for all labels, the best by the task's metric of those that maximise micro F1,
    macro F1 and the rows that are right as a whole; then, label by label where dev has at least ten
    positives, the one that maximises the label's F1, if the task's metric is none the worse for it.
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
        rows, given = np.nonzero(decisions.predicted)
        order = np.lexsort((-decisions.scores[rows, given], rows))  # row by row, the likeliest label first
        answers: list[dict[str, Any]] = [{"labels": []} for _ in decisions.predicted]
        for row, label in zip(rows[order].tolist(), given[order].tolist(), strict=True):
            answers[row]["labels"].append(self.task.labels[label])
        if scores:
            for answer, probability in zip(answers, decisions.scores, strict=True):
                answer["scores"] = probabilities(self.task.labels, probability)
        return answers

    def _tuned(self, probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
        if not len(truth):
            return np.full(self.outputs, 0.5, np.float32)

        def utility(thresholds: Any) -> float:
            return self.metric.utility(self.metric.compute(truth, probability >= thresholds, probability))

        hits, chosen, true = _counts(probability, truth)
        own = 2 * hits / (chosen + true[:, None]).clip(1)
        whole = np.argmax(
            [
                2 * hits.sum(0) / (chosen.sum(0) + true.sum()).clip(1),  # micro F1
                own.sum(0) / ((chosen > 0) | (true > 0)[:, None]).sum(0).clip(1),  # macro F1
                _exact(probability, truth),
            ],
            axis=1,
        )
        common = max(_GRID[whole], key=utility)
        thresholds = np.where(true >= _ENOUGH, _GRID[own.argmax(1)], common)
        return thresholds if utility(thresholds) >= utility(common) else np.full_like(thresholds, common)


def _counts(probability: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each label, the rows that are rightly given it and those that are given it at all, at each threshold
    of the grid, [C, G]; and those that have it, [C]."""
    labels, cells = truth.shape[1], len(_GRID) + 1
    # Thresholds reached, as one number together with the label.
    place = np.searchsorted(_GRID, probability, side="right") + cells * np.arange(labels)
    reached = [np.bincount(each.ravel(), minlength=labels * cells) for each in (place[truth], place)]
    hits, chosen = (each.reshape(labels, cells)[:, ::-1].cumsum(1)[:, -2::-1] for each in reached)
    return hits, chosen, truth.sum(0)


def _exact(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The number of rows with exactly the right labels at each threshold of the grid, [G]: it must lie above
    the probabilities of all labels that the row does not have, and not above any other."""
    wrong = np.where(truth, -1.0, probability).max(1)
    right = np.where(truth, probability, 2.0).min(1)
    return ((wrong[:, None] < _GRID) & (right[:, None] >= _GRID)).sum(0)


def _platt(scores: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """factor and shift, common to all labels, under which the targets are likeliest (Platt 1999)."""
    if not len(targets):
        return 1.0, 0.0
    some = slice(None, None, max(1, scores.numel() // _FOR_TWO))
    factor, threshold = likeliest_cuts(scores[some].reshape(-1), targets[some].reshape(-1, 1))
    return factor, -float(threshold)
