"""Ordered levels: one score, cut by thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, probabilities
from taskheads.heads.linear import LinearHead
from taskheads.tasks.task import Task


class OrdinalHead(LinearHead):
    """All-threshold ordinal regression: P(level > k) = sigmoid(score - threshold_k).

    The loss is the sum over thresholds of the logistic loss (Rennie and Srebro 2005, "all-threshold"; the
    rank-consistent head of Cao et al. 2020, CORAL). Its minimiser has ordered thresholds, so the levels'
    probabilities are not negative. The answer is the level whose expected distance is least, the median.
    """

    kind = "ordinal"
    biased = False

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        self.thresholds = nn.Parameter(torch.arange(self.levels - 1, dtype=torch.float32) + 0.5)

    @property
    def levels(self) -> int:
        return len(self.task.labels)

    @property
    def outputs(self) -> int:
        return 1

    @property
    def curvature(self) -> float:  # type: ignore[override]
        return 0.25 * (self.levels - 1)

    def objective(
        self, scores: torch.Tensor, targets: torch.Tensor, extra: Any = (), lengths: Any = None
    ) -> torch.Tensor:
        return all_threshold_loss(scores, targets, extra[0])

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return targets[:, None].to(torch.float32)

    def tune(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Fit the scale of the score and the thresholds; only the direction of the weight is kept."""
        if not len(targets):
            return

        fixed = scores.detach().double()

        def unlikely(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            free = torch.from_numpy(parameters).requires_grad_(True)
            with torch.enable_grad():
                # The small term keeps thresholds finite beside which there is no row.
                loss = all_threshold_loss(fixed * free[0], targets, free[1:]) + 1e-4 * free.square().sum()
                (gradient,) = torch.autograd.grad(loss, free)
            return float(loss.detach()), gradient.numpy()

        start = np.concatenate([[1.0], self.thresholds.detach().double().numpy()])
        best = minimize(unlikely, start, jac=True, method="L-BFGS-B").x
        self.rescale(float(best[0]))
        self.put(self.weight, self.bias, [torch.from_numpy(np.sort(best[1:]))])

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        above = (scores - self.thresholds.detach()).sigmoid()
        edges = torch.cat([torch.ones_like(scores), above, torch.zeros_like(scores)], dim=1)
        return Decisions((above > 0.5).sum(1).numpy(), (edges[:, :-1] - edges[:, 1:]).numpy())

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        answers = []
        for level, row in zip(decisions.predicted, decisions.scores, strict=True):
            answer: dict[str, Any] = {"value": self.task.labels[level], "score": round(float(row[level]), 6)}
            if scores:
                answer["scores"] = probabilities(self.task.labels, row)
            answers.append(answer)
        return answers


def all_threshold_loss(scores: torch.Tensor, targets: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the summed logistic losses of "is the level above k"; scores [n, 1]."""
    above = targets[:, None] > torch.arange(len(thresholds), device=targets.device)
    return binary_cross_entropy_with_logits(scores - thresholds, above.to(scores.dtype)) * len(thresholds)
