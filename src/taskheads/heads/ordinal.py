"""Ordered levels: one score, cut by thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, probabilities
from taskheads.heads.linear import LinearHead
from taskheads.methods import method
from taskheads.tasks.task import Task


@method(
    "all_threshold_ordinal",
    family="heads",
    paper="Rennie and Srebro 2005, Loss functions for preference levels, IJCAI-MPRW; CORAL, arXiv:1901.07884",
    applies_to=("ordinal",),
)
class OrdinalHead(LinearHead):
    """All-threshold ordinal regression: one score [n, 1] and K - 1 thresholds for K levels, with
    P(level > k) = sigmoid(score - threshold_k), fitted by the sum over thresholds of the logistic loss.

    The minimiser has ordered thresholds (CORAL's rank consistency), so the levels' probabilities are not
    negative. The answer is the level whose expected distance is least, the median.
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

    def tune(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fit the scale of the score and the thresholds; only the direction of the weight is kept."""
        if not len(targets):
            return scores
        plain, n = scores.double().numpy(), len(scores)
        above = targets[:, None].numpy() > np.arange(self.levels - 1)

        def unlikely(free: np.ndarray) -> tuple[float, np.ndarray]:
            """The all-threshold loss, and its gradient."""
            apart = free[0] * plain - free[1:]
            miss = (expit(apart) - above) / n
            # The small term keeps thresholds finite beside which there is no row.
            loss = (np.logaddexp(0, apart) - above * apart).sum() / n + 1e-4 * np.square(free).sum()
            gradient = np.concatenate([[(miss * plain).sum()], -miss.sum(0)])
            return float(loss), gradient + 2e-4 * free

        start = np.concatenate([[1.0], self.thresholds.detach().double().numpy()])
        # A scale below zero would turn the order round.
        bounds = [(0.0, None), *[(None, None)] * (self.levels - 1)]
        best = minimize(unlikely, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        self.rescale(float(best[0]))
        self.put(self.weight, self.bias, [torch.from_numpy(np.sort(best[1:]))])
        return scores * float(best[0])

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
